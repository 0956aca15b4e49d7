"""Convert a Hugging Face folder of safetensors to a GGUF file, without torch.

    convert("SmolLM2-135M-Instruct", "F16", "smollm2-f16.gguf")

A model that sees gives two: its language model, and an mmproj with its vision encoder and
projector. A language model is not quantized here, see `quantize`. llama.cpp computes the same
tokens and, within the precision of the type, the same logits and embeddings of pictures as
transformers; the result's `notes` list the exceptions.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from gguf import (
    GGML_QUANT_VERSION,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFType,
    GGUFWriter,
    LlamaFileType,
)

from reellama.gguf_tools.atomic_write import replacing
from reellama.gguf_tools.conversion import hyperparameters
from reellama.gguf_tools.conversion.architectures import Architecture, Config, read_config
from reellama.gguf_tools.conversion.gguf_output import write_header, write_tensors
from reellama.gguf_tools.conversion.hf_folder import model_name, reporting_damage
from reellama.gguf_tools.conversion.hf_tensors import HFTensor, read_tensors
from reellama.gguf_tools.conversion.hf_tokenizer import Vocabulary, add_vocabulary, read_vocabulary
from reellama.gguf_tools.conversion.tensor_plan import language_tensors, plan_tensors
from reellama.gguf_tools.conversion.vision_encoder import (
    VisionEncoder,
    add_vision_metadata,
    read_vision_encoder,
    vision_notes,
)
from reellama.gguf_tools.conversion.vision_tensors import plan_vision_tensors
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.mmproj_types import MMPROJ_ARCHITECTURE, MMPROJ_TYPES
from reellama.gguf_tools.format.reader import TOKEN_EMBEDDINGS

FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
}
HEADER_ROOM = 64 << 20  # bytes, more than the largest header in use
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
    """A model's GGUF, and the mmproj of one that sees.

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
    force: bool = False,
    progress: ConvertProgress | None = None,
) -> Converted:
    """Write a folder's model, tokenizer and chat template as a GGUF file.

    `type_` is F32, F16 or BF16; None is the type that most weights have, which loses nothing.
    Vectors and norms are F32 always. `output` is NAME-TYPE.gguf in the current folder unless given;
    the mmproj of a model that sees is mmproj-NAME-TYPE.gguf beside it, of `mmproj_type`: F32, F16,
    BF16 or Q8_0. `force` replaces them. `progress` is called with the bytes written and the total.
    Memory does not grow with the model. Raises ReellamaError, in one line, and writes nothing when
    the folder is incomplete or damaged, the model or its tokenizer is one that llama.cpp cannot
    run as it is, the disk is too full, or F16 cannot hold a weight.
    """
    folder = Path(folder).expanduser()
    architecture, config = read_config(folder)
    encoder = read_vision_encoder(folder, config)
    everything = read_tensors(folder)
    tensors = language_tensors(everything, config)
    type_ = (type_ or _main_type(tensors)).upper()
    if type_ not in FILE_TYPES:
        raise ReellamaError(
            f"cannot convert to {type_}: give F32, F16 or BF16, and quantize the result"
        )
    mmproj_type = mmproj_type.upper()
    if mmproj_type not in MMPROJ_TYPES:
        raise ReellamaError(f"no mmproj of type {mmproj_type}: give {', '.join(MMPROJ_TYPES)}")
    with reporting_damage(folder / "config.json"):
        plan = plan_tensors(folder, architecture, config, tensors, GGMLQuantizationType[type_])
        notes = hyperparameters.notes(architecture, config)
    vision_plan = []
    if encoder:
        vision_plan = plan_vision_tensors(
            folder, encoder, everything, GGMLQuantizationType[mmproj_type]
        )
    n_rows = next(tensor.shape[0] for tensor in plan if tensor.name == TOKEN_EMBEDDINGS)
    vocabulary = read_vocabulary(folder, n_rows)
    name = model_name(folder)
    path = Path(output or f"{name}-{type_}.gguf").expanduser()
    mmproj_path = path.parent / f"mmproj-{name}-{mmproj_type}.gguf"
    total = sum(tensor.n_bytes for tensor in [*plan, *vision_plan])
    _check_places([path, mmproj_path] if encoder else [path], total, force)
    done = 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if progress:
            progress(done, total)

    with ExitStack() as stack:  # both files get their names, or none does
        temporary = stack.enter_context(replacing(path))
        with reporting_damage(folder / "config.json"):
            writer = _model_writer(temporary, name, architecture, config, vocabulary, type_)
            alignment = write_header(writer, plan)
        write_tensors(temporary, plan, alignment, advance, finite=False)
        notes += vocabulary.notes
        result = Converted(path, type_, len(plan), temporary.stat().st_size, notes)
        if encoder is None:
            return result
        temporary = stack.enter_context(replacing(mmproj_path))
        with reporting_damage(folder / "config.json"):
            writer = _mmproj_writer(temporary, name, encoder, mmproj_type)
            alignment = write_header(writer, vision_plan)
        write_tensors(temporary, vision_plan, alignment, advance, finite=True)
        notes += vision_notes(encoder)
        n_bytes = temporary.stat().st_size
        mmproj = ConvertedFile(mmproj_path, mmproj_type, len(vision_plan), n_bytes)
        return replace(result, mmproj=mmproj)


def _main_type(tensors: Mapping[str, HFTensor]) -> str:
    """The GGUF type that stores most weights without loss."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.n_bytes
    main = max(sizes, key=lambda dtype: sizes[dtype], default="F32")
    return main if main in FILE_TYPES else "F32"


def _check_places(paths: list[Path], n_bytes: int, force: bool) -> None:
    for path in paths:
        if path.exists() and not force:
            raise ReellamaError(f"{path} is there already; --force replaces it")
    path = paths[0]
    if not path.parent.is_dir():
        raise ReellamaError(f"cannot save {path}: there is no folder {path.parent}")
    free = shutil.disk_usage(path.parent).free
    if free < n_bytes + HEADER_ROOM:
        raise ReellamaError(
            f"cannot save {path}: it takes {n_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        )


def _model_writer(
    path: Path,
    name: str,
    architecture: Architecture,
    config: Config,
    vocabulary: Vocabulary,
    type_: str,
) -> GGUFWriter:
    """The metadata of a language model."""
    writer = GGUFWriter(path, MODEL_ARCH_NAMES[architecture.arch])
    writer.add_type(GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[type_])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(len(vocabulary.tokens))
    hyperparameters.add_hyperparameters(writer, architecture, config)
    add_vocabulary(writer, vocabulary)
    return writer


def _mmproj_writer(path: Path, name: str, encoder: VisionEncoder, type_: str) -> GGUFWriter:
    """The metadata of an mmproj."""
    writer = GGUFWriter(path, MMPROJ_ARCHITECTURE)
    writer.add_type(GGUFType.MMPROJ)
    writer.add_name(name)
    writer.add_file_type(MMPROJ_TYPES[type_])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    add_vision_metadata(writer, encoder)
    return writer
