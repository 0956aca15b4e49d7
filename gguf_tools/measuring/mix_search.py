"""Find a mix of types for a file size, with the least KL divergence from the source.

    plan = plan_mix("model-F16.gguf", 90 << 20, work=folder)
    plan.write("model.types.txt")            # PATTERN=TYPE in each line, to be read and changed
    quantize("model-F16.gguf", plan.base, tensor_types=plan.tensor_types())

1. Quantize each tensor into each type, and compute its error, weighted by its inputs.
2. Quantize each kind of tensor (attn_v, ffn_down, ...) alone, coarsely, and measure the KL
   divergence from the source. This gives the KL divergence per unit of error of each kind.
3. Convert errors to KL divergences, which add up as long as they are small, and choose types by a
   knapsack.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES

from reellama.gguf_tools.atomic_write import write_atomically
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.header_writer import (
    TensorInfo,
    aligned_size,
    file_size,
    raw_entries,
)
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.measuring import perplexity
from reellama.gguf_tools.measuring.mix_errors import tensor_errors
from reellama.gguf_tools.measuring.mix_knapsack import Choice, choose_types
from reellama.gguf_tools.quantization.imatrix import collect_from_text, read_imatrix
from reellama.gguf_tools.quantization.quant_types import QUANT_TYPES, TENSOR_TYPES
from reellama.gguf_tools.quantization.quantize import quantize
from reellama.gguf_tools.temporary_folders import temporary_folder

# Types that a tensor may get, if the length of its rows is a multiple of the block size.
CANDIDATES = (
    *("Q8_0", "Q6_K", "Q5_1", "Q5_K", "Q5_0", "Q4_1", "Q4_K", "Q4_0", "IQ4_NL", "IQ4_XS"),
    *("Q3_K", "IQ3_S", "Q2_K"),
)
# Further types, which need an importance matrix.
SMALLER = ("IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS")
KIND = re.compile(r"(?:blk\.\d+\.)?([\w.]+?)\.weight$")
FLOATS = ("F32", "F16", "BF16")
HEADER_ROOM = 1 << 10  # bytes of keys that quantizing adds
MIN_KL = 1e-7  # for a kind whose KL divergence is too small to measure: no error is free

SearchProgress = Callable[[int, int, str], None]  # steps done, total, activity


@dataclass(frozen=True)
class MixSettings:
    """How losses are measured. imatrix: for quantizing and for the weights of inputs; None to
    collect the latter from `text`."""

    text: Path = perplexity.ENGLISH_TEXT
    n_ctx: int = 512
    n_chunks: int = 4
    n_threads: int | None = None
    imatrix: Path | None = None


@dataclass(frozen=True)
class MixPlan:
    """A type for each tensor that is quantized.

    Attributes:
        base: the type of most bytes, as the type of the whole file.
        types: by tensor.
        predicted_kl: sum of the losses, in nats.
        n_bytes: of the file, approximately.
    """

    base: str
    types: Mapping[str, str]
    predicted_kl: float
    n_bytes: int

    def tensor_types(self) -> list[tuple[str, str]]:
        """The mix as pairs of pattern and type for `quantize`."""
        return _patterns(self.types)

    def write(self, path: Path) -> None:
        """Write the mix for `--tensor-type-file` of `quantize` or llama-quantize."""
        lines = [f"{pattern}={type_}\n" for pattern, type_ in self.tensor_types()]
        write_atomically(path, "".join(lines))


def plan_mix(
    source: str | Path,
    n_bytes: int,
    *,
    settings: MixSettings = MixSettings(),
    work: str | Path | None = None,
    progress: SearchProgress | None = None,
) -> MixPlan:
    """Plan a file of at most `n_bytes`.

    Args:
        source: the model, preferably in F16.
        n_bytes: largest size of the file.
        settings: how to measure.
        work: folder for temporary files: one quantized file at a time, and the source's logits.
        progress: called when an activity begins.

    Raises:
        ReellamaError: no mix is that small, or the source cannot be read or quantized.
    """
    file = read_gguf(source)
    if file.metadata.get("split.count", 0) > 1:
        raise ReellamaError(f"{source} is split: join it first, with `reellama gguf join`")
    names = [*CANDIDATES, *(SMALLER if settings.imatrix else ())]
    total, done = len(names) + 2, 0

    def report(activity: str) -> None:
        nonlocal done
        if progress:
            progress(done, max(total, done + 1), activity)
        done += 1

    report("reading the text")
    weights = _input_weights(file, settings)
    with temporary_folder(work, ".mix-") as folder:
        errors = _errors(file, names, folder, settings, weights, report)
        kinds = sorted({_kind(name) for name in errors})
        total += len(kinds)
        costs = _costs(file, errors, kinds, folder, settings, report)
    options = {
        name: [
            _source_choice(file, name),
            *(choice._replace(loss=choice.loss * costs[_kind(name)]) for choice in choices),
        ]
        for name, choices in errors.items()
    }
    overhead = _overhead(file, options)
    chosen = choose_types(options, n_bytes - overhead)
    return MixPlan(
        base=_base(chosen),
        types={name: choice.type for name, choice in chosen.items()},
        predicted_kl=sum(choice.loss for choice in chosen.values()),
        n_bytes=overhead + sum(choice.n_bytes for choice in chosen.values()),
    )


def _input_weights(file: GGUFFile, settings: MixSettings) -> dict[str, np.ndarray]:
    if settings.imatrix is not None:
        return read_imatrix(settings.imatrix).weights()
    matrix = collect_from_text(
        file.path,
        settings.text,
        n_ctx=settings.n_ctx,
        n_chunks=settings.n_chunks,
        n_threads=settings.n_threads,
    )
    return matrix.weights()


def _errors(
    file: GGUFFile,
    names: list[str],
    folder: Path,
    settings: MixSettings,
    weights: Mapping[str, np.ndarray],
    report: Callable[[str], None],
) -> dict[str, list[Choice]]:
    """Each tensor's size and error in each type that it can have. names: of the types."""
    options: dict[str, dict[str, Choice]] = {}
    quantized = folder / "type.gguf"
    for name in names:
        report(f"quantizing into {name}")
        block = GGML_QUANT_SIZES[TENSOR_TYPES[name]][0]
        # The first type shows which tensors llama.cpp quantizes at all.
        fitting = [tensor for tensor in options if file.tensors[tensor].shape[0] % block == 0]
        if options and not fitting:
            continue
        _quantize_some(file, dict.fromkeys(fitting or file.tensors, name), quantized, settings)
        for tensor, choice in tensor_errors(file, quantized, weights).items():
            options.setdefault(tensor, {})[choice.type] = choice
        quantized.unlink()
    return {tensor: list(choices.values()) for tensor, choices in options.items()}


def _quantize_some(
    file: GGUFFile, types: Mapping[str, str], output: Path, settings: MixSettings
) -> None:
    """Quantize the tensors in `types`, and leave the others as they are."""
    quantize(
        file.path,
        "Q8_0",  # llama.cpp ignores types of single tensors if the file's type is a float type
        output,
        tensor_types=[*_patterns(types), (".", _float_type(file))],
        imatrix=settings.imatrix,
        n_threads=settings.n_threads or 0,
    )


def _costs(
    file: GGUFFile,
    errors: Mapping[str, list[Choice]],
    kinds: list[str],
    folder: Path,
    settings: MixSettings,
    report: Callable[[str], None],
) -> dict[str, float]:
    """The KL divergence in nats per unit of error, for each kind of tensor."""
    report("reading the text with the source")
    logits = folder / "source.logits"
    perplexity.measure_perplexity(
        file.path,
        settings.text,
        save_logits=logits,
        n_ctx=settings.n_ctx,
        n_chunks=settings.n_chunks,
        n_threads=settings.n_threads,
    )
    costs = {}
    for kind in kinds:
        report(f"what errors in {kind} cost")
        coarse = {
            name: max(choices, key=lambda choice: choice.loss)
            for name, choices in errors.items()
            if _kind(name) == kind
        }
        quantized = folder / "kind.gguf"
        types = {name: choice.type for name, choice in coarse.items()}
        _quantize_some(file, types, quantized, settings)
        quality = perplexity.measure_perplexity(
            quantized, settings.text, reference_logits=logits, n_threads=settings.n_threads
        )
        quantized.unlink()
        assert quality.divergence is not None
        error = sum(choice.loss for choice in coarse.values())
        costs[kind] = max(quality.divergence.kl.value, MIN_KL) / max(error, 1e-30)
    return costs


def _patterns(types: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(f"^{re.escape(name)}$", type_) for name, type_ in types.items()]


def _kind(name: str) -> str:
    """A tensor's name without its layer: "attn_v", "ffn_down", "token_embd"."""
    match = KIND.match(name)
    return match[1] if match else name


def _float_type(file: GGUFFile) -> str:
    """The float type that preserves the source's weights, at least nearly."""
    types = Counter[str]()
    for tensor in file.tensors.values():
        types[tensor.type.name] += tensor.n_bytes
    main = types.most_common(1)[0][0]
    return main if main in ("F32", "BF16") else "F16"


def _source_choice(file: GGUFFile, name: str) -> Choice:
    """The choice to keep a tensor's type, without loss."""
    tensor = file.tensors[name]
    return Choice(tensor.type.name, aligned_size(tensor.n_bytes), 0.0)


def _overhead(file: GGUFFile, names: Iterable[str]) -> int:
    """Bytes of the file without the tensors whose type is chosen."""
    infos = [TensorInfo(t.name, t.shape, t.type) for t in file.tensors.values()]
    whole = file_size(raw_entries(file.path), infos) + HEADER_ROOM
    return whole - sum(aligned_size(file.tensors[name].n_bytes) for name in names)


def _base(chosen: Mapping[str, Choice]) -> str:
    """The quantized type of most bytes, as a type of whole files."""
    sizes = Counter[str]()
    for choice in chosen.values():
        sizes[choice.type] += choice.n_bytes
    names = {type_.main_type: type_.name for type_ in reversed(QUANT_TYPES)}
    quantized = (names[type_] for type_, _ in sizes.most_common() if type_ not in FLOATS)
    return next(quantized, "Q8_0")
