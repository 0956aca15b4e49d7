"""Convert a Hugging Face folder of safetensors to a GGUF file, without torch.

    convert("SmolLM2-135M-Instruct", "F16", "smollm2-f16.gguf")

A vision model becomes two files: its language model, and an mmproj with its vision encoder and
projector. A LoRA adapter of PEFT becomes an adapter for llama.cpp. For types below eight bits,
quantize the result, see `quantize`. llama.cpp computes the same tokens and, within the precision of
the type, the same logits and image embeddings as transformers; the result's `notes` list the
exceptions.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gguf import (
    GGML_QUANT_VERSION,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFType,
    GGUFValueType,
    GGUFWriter,
    Keys,
    LlamaFileType,
)

from reellama.gguf_tools.atomic_write import replacing
from reellama.gguf_tools.conversion import hyperparameters
from reellama.gguf_tools.conversion.architectures import Architecture, Config
from reellama.gguf_tools.conversion.general_metadata import add_general_metadata
from reellama.gguf_tools.conversion.gguf_output import add_tensors, write_header, write_tensors
from reellama.gguf_tools.conversion.hf_folder import model_name, reporting_damage
from reellama.gguf_tools.conversion.hf_tensors import HFTensor, read_tensors
from reellama.gguf_tools.conversion.lora_adapter import (
    AdapterPlan,
    adapter_tensors,
    base_folder,
    is_adapter,
    plan_adapter,
)
from reellama.gguf_tools.conversion.model_config import read_config
from reellama.gguf_tools.conversion.planned_tensor import PlannedTensor
from reellama.gguf_tools.conversion.tensor_plan import language_tensors, plan_tensors
from reellama.gguf_tools.conversion.tokenizers.hf_tokenizer import (
    Vocabulary,
    add_vocabulary,
    read_vocabulary,
)
from reellama.gguf_tools.conversion.vision_encoder import (
    VisionEncoder,
    add_vision_metadata,
    read_vision_encoder,
    vision_notes,
)
from reellama.gguf_tools.conversion.vision_tensors import plan_vision_tensors
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.mmproj_header import MMPROJ_ARCHITECTURE
from reellama.gguf_tools.format.mmproj_types import MMPROJ_TYPES
from reellama.gguf_tools.format.reader import TOKEN_EMBEDDINGS
from reellama.gguf_tools.user_paths import expand_user

FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}
HEADER_ROOM = 64 << 20  # bytes; larger than any header in use
ConvertProgress = Callable[[int, int], None]  # bytes written, total


@dataclass(frozen=True)
class ConvertedFile:
    """A file that was written."""

    path: Path
    type: str
    n_tensors: int
    n_bytes: int


@dataclass(frozen=True)
class Converted(ConvertedFile):
    """A model's GGUF, and the mmproj of a vision model.

    `notes` are lines on where llama.cpp differs from the model.
    """

    notes: list[str]
    mmproj: ConvertedFile | None = None


def convert(
    folder: str | Path,
    type_: str | None = None,
    output: str | Path | None = None,
    *,
    mmproj_type: str = "F16",
    base: str | Path | None = None,
    force: bool = False,
    progress: ConvertProgress | None = None,
) -> Converted:
    """Write a folder's model, tokenizer and chat template as a GGUF file.

    Memory use does not grow with the model.

    Args:
        folder: the Hugging Face folder.
        type_: F32, F16, BF16 or Q8_0; None for the type of most weights, which is lossless. Vectors
            and norms are always F32.
        output: the file; None for NAME-TYPE.gguf in the current folder. The mmproj of a vision
            model is mmproj-NAME-TYPE.gguf beside it.
        mmproj_type: of the mmproj: F32, F16, BF16 or Q8_0.
        base: for a LoRA adapter, the folder of its model, of which config.json is read; None for
            the folder that the adapter's config names.
        force: whether to replace existing files.
        progress: called with the bytes written and the total.

    Raises:
        ReellamaError: the folder is incomplete or damaged, llama.cpp cannot run the model or its
            tokenizer, the disk is too full, or a weight is not finite or too large for F16. No file
            is written.
    """
    folder = expand_user(folder)
    if is_adapter(folder):
        model = base_folder(folder, expand_user(base) if base is not None else None)
        return _convert_adapter(folder, model, type_, output, force, progress)
    if base is not None:
        raise ReellamaError(f"{folder} is no LoRA adapter of PEFT: --base is for those")
    files, notes = _plan_files(folder, type_, output, mmproj_type.upper())
    _check_outputs(files, force)
    (main, *rest), write_notes = _write(folder, files, progress)
    return Converted(**vars(main), notes=notes + write_notes, mmproj=rest[0] if rest else None)


def _plan_files(
    folder: Path, type_: str | None, output: str | Path | None, mmproj_type: str
) -> tuple[list[_File], list[str]]:
    """The model's file, for a vision model also its mmproj; and notes for users."""
    architecture, config = read_config(folder)
    encoder = read_vision_encoder(folder, config)
    tensors = read_tensors(folder)
    language = language_tensors(tensors, config)
    type_ = _type(type_, language)
    if mmproj_type not in MMPROJ_TYPES:
        raise ReellamaError(f"no mmproj of type {mmproj_type}: give {', '.join(MMPROJ_TYPES)}")
    name = model_name(folder)
    path = expand_user(output or f"{name}-{type_}.gguf")
    with reporting_damage(folder / "config.json"):
        plan = plan_tensors(folder, architecture, config, language, GGMLQuantizationType[type_])
        notes = hyperparameters.notes(architecture, config)
    n_rows = next(tensor.shape[0] for tensor in plan if tensor.name == TOKEN_EMBEDDINGS)
    vocabulary = read_vocabulary(folder, n_rows)
    notes += vocabulary.notes
    add = partial(_add_model, architecture, config, vocabulary, type_)
    files = [_File(path, type_, plan, MODEL_ARCH_NAMES[architecture.arch], add)]
    if encoder:
        path = path.parent / f"mmproj-{name}-{mmproj_type}.gguf"
        plan = plan_vision_tensors(folder, encoder, tensors, GGMLQuantizationType[mmproj_type])
        add = partial(_add_mmproj, encoder, mmproj_type)
        files.append(_File(path, mmproj_type, plan, MMPROJ_ARCHITECTURE, add))
        notes += vision_notes(encoder)
    return files, notes


def _convert_adapter(
    folder: Path,
    base: Path,
    type_: str | None,
    output: str | Path | None,
    force: bool,
    progress: ConvertProgress | None,
) -> Converted:
    """Write a LoRA adapter for the model in the folder `base`."""
    architecture, config = read_config(base)
    tensors = adapter_tensors(folder)
    type_ = _type(type_, tensors)
    plan = plan_adapter(folder, architecture, config, tensors, GGMLQuantizationType[type_])
    path = expand_user(output or f"{model_name(folder)}-{type_}.gguf")
    add = partial(_add_adapter, plan)
    files = [_File(path, type_, plan.tensors, MODEL_ARCH_NAMES[architecture.arch], add)]
    _check_outputs(files, force)
    (adapter,), notes = _write(folder, files, progress)
    return Converted(**vars(adapter), notes=notes)


@dataclass(frozen=True)
class _File:
    """A file to be written. `add_metadata` adds all metadata of its own to a writer."""

    path: Path
    type: str
    plan: list[PlannedTensor]
    architecture: str
    add_metadata: Callable[[GGUFWriter], None]

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensors' data."""
        return sum(tensor.n_bytes for tensor in self.plan)


def _write(
    folder: Path, files: Sequence[_File], progress: ConvertProgress | None
) -> tuple[list[ConvertedFile], list[str]]:
    """Write all files, or none after an error; returns them and notes for users."""
    total, done = sum(file.n_bytes for file in files), 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if progress:
            progress(done, total)

    written, notes = [], []
    with ExitStack() as stack:
        for file in files:
            temporary = stack.enter_context(replacing(file.path))
            with reporting_damage(folder / "config.json"):
                writer = GGUFWriter(temporary, file.architecture)
                add_tensors(writer, file.plan)
                notes = add_general_metadata(writer, folder)
                file.add_metadata(writer)
                alignment = write_header(writer)
            write_tensors(temporary, file.plan, alignment, advance)
            n_bytes = temporary.stat().st_size
            written.append(ConvertedFile(file.path, file.type, len(file.plan), n_bytes))
    return written, notes


def _type(requested: str | None, tensors: Mapping[str, HFTensor]) -> str:
    """The requested type; or, for None, the one that stores most weights without loss."""
    if requested is not None:
        if requested.upper() not in FILE_TYPES:
            raise ReellamaError(
                f"cannot convert to {requested}: give F32, F16, BF16 or Q8_0, and quantize the "
                "result"
            )
        return requested.upper()
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.n_bytes
    main = max(sizes, key=lambda dtype: sizes[dtype], default="F32")
    return main if main in FILE_TYPES else "F32"


def _check_outputs(files: Sequence[_File], force: bool) -> None:
    """Raise ReellamaError if a file exists, or its folder does not, or the disk is too full."""
    for file in files:
        if file.path.exists() and not force:
            raise ReellamaError(f"{file.path} is there already; --force replaces it")
    path, n_bytes = files[0].path, sum(file.n_bytes for file in files)
    if not path.parent.is_dir():
        raise ReellamaError(f"cannot save {path}: there is no folder {path.parent}")
    free = shutil.disk_usage(path.parent).free
    if free < n_bytes + HEADER_ROOM:
        raise ReellamaError(
            f"cannot save {path}: it takes {n_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        )


def _add_model(
    architecture: Architecture,
    config: Config,
    vocabulary: Vocabulary,
    type_: str,
    writer: GGUFWriter,
) -> None:
    """Add the metadata of a language model."""
    writer.add_type(GGUFType.MODEL)
    writer.add_file_type(FILE_TYPES[type_])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(len(vocabulary.tokens))
    hyperparameters.add_hyperparameters(writer, architecture, config)
    add_vocabulary(writer, vocabulary)


def _add_adapter(plan: AdapterPlan, writer: GGUFWriter) -> None:
    """Add the metadata of a LoRA adapter."""
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, plan.alpha)
    if plan.invocation_tokens:
        writer.add_key_value(
            Keys.Adapter.ALORA_INVOCATION_TOKENS,
            plan.invocation_tokens,
            GGUFValueType.ARRAY,
            GGUFValueType.UINT32,
        )
    writer.add_quantization_version(GGML_QUANT_VERSION)


def _add_mmproj(encoder: VisionEncoder, type_: str, writer: GGUFWriter) -> None:
    """Add the metadata of an mmproj."""
    writer.add_type(GGUFType.MMPROJ)
    writer.add_file_type(MMPROJ_TYPES[type_])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    add_vision_metadata(writer, encoder)
