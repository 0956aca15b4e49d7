"""Summarize the header of a GGUF file: `summarize_file(read_gguf(path))`."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from reellama.gguf_tools.format.model_summary import bits_per_weight, quantization
from reellama.gguf_tools.format.reader import GGUFFile, Tensor
from reellama.gguf_tools.inspection.file_kind import active_parameters, file_kind
from reellama.gguf_tools.memory.estimates import (
    has_sliding_window,
    kv_bytes_per_position,
    sliding_window,
)

SHOWN_KV_TYPES = ("f16", "q8_0")
SPECIAL_TOKEN_KEY = re.compile(r"tokenizer\.ggml\.(\w+)_token_id")
# In JSON, lists of the tokenizer (tokens, scores, merges) longer than LONG_LIST are truncated.
LONG_LIST, SHOWN_ELEMENTS = 256, 8


@dataclass(frozen=True)
class TensorTypeCount:
    """All tensors of one type."""

    type: str
    n_tensors: int
    n_elements: int
    n_bytes: int


@dataclass(frozen=True)
class TokenizerSummary:
    """The tokenizer of a file."""

    model: str  # such as "gpt2" (byte-level BPE) or "llama" (SentencePiece)
    pre: str  # name of the pre-tokenizer; "" if the file has none
    n_vocab: int
    special: dict[str, tuple[int, str]]  # "bos", "eos", ...: id and text
    add_bos: bool | None  # whether BOS is put before a text; None if the file does not say


@dataclass(frozen=True)
class KVCacheCost:
    """The size of 1,000 tokens in the KV cache of all layers, in bytes by type."""

    full: dict[str, int]
    # Without layers with a sliding window, for which llama.cpp stores only the window (unless
    # `swa_full` is set).
    beyond_window: dict[str, int]
    n_layer: int
    n_sliding: int  # layers with a sliding window
    window: int  # its positions, 0 without one


@dataclass(frozen=True)
class FileSummary:
    """The summary of a GGUF file. Fields of language models are None for other files."""

    path: str
    size: int  # bytes
    version: int
    n_tensors: int
    n_parameters: int
    bits_per_weight: float
    architecture: str | None
    name: str | None
    quantization: str  # as in file names: "Q4_K_M"; "unknown" where the file does not say
    n_ctx_train: int | None
    n_embd: int | None
    n_layer: int | None
    tokenizer: TokenizerSummary | None
    has_chat_template: bool
    kv_per_1000_tokens: KVCacheCost | None
    types: tuple[TensorTypeCount, ...]  # most bytes first
    kind: str | None  # see `file_kind`
    n_active_parameters: int | None  # weights used for a token, in a mixture of experts


def summarize_file(file: GGUFFile) -> FileSummary:
    """Sum up a header of any kind of GGUF: a model, adapter, projector or vocabulary."""
    tensors = file.tensors.values()
    name = file.metadata.get("general.name")
    return FileSummary(
        path=str(file.path),
        size=file.size,
        version=file.version,
        n_tensors=len(tensors),
        n_parameters=sum(tensor.n_elements for tensor in tensors),
        bits_per_weight=bits_per_weight(tensors),
        architecture=_architecture(file),
        name=name if isinstance(name, str) else None,
        quantization=quantization(file),
        n_ctx_train=_number(file, "context_length"),
        n_embd=_number(file, "embedding_length"),
        n_layer=_number(file, "block_count"),
        tokenizer=summarize_tokenizer(file),
        has_chat_template=file.chat_template is not None,
        kv_per_1000_tokens=_kv_cost(file),
        types=count_tensor_types(tensors),
        kind=file_kind(file),
        n_active_parameters=active_parameters(file),
    )


def count_tensor_types(tensors: Iterable[Tensor]) -> tuple[TensorTypeCount, ...]:
    """Count tensors by type, most bytes first."""
    sums: dict[str, tuple[int, int, int]] = {}
    for tensor in tensors:
        n, n_elements, n_bytes = sums.get(tensor.type.name, (0, 0, 0))
        sums[tensor.type.name] = n + 1, n_elements + tensor.n_elements, n_bytes + tensor.n_bytes
    counts = [TensorTypeCount(name, *numbers) for name, numbers in sums.items()]
    return tuple(sorted(counts, key=lambda count: -count.n_bytes))


def summarize_tokenizer(file: GGUFFile) -> TokenizerSummary | None:
    """Return the summary of the tokenizer, None for a file without one."""
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        return None
    special = {}
    for key, index in file.metadata.items():
        named = SPECIAL_TOKEN_KEY.fullmatch(key)
        if named and type(index) is int and 0 <= index < len(tokens):
            special[named[1]] = index, str(tokens[index])
    model, pre = (file.metadata.get(f"tokenizer.ggml.{name}", "") for name in ("model", "pre"))
    add_bos = file.metadata.get("tokenizer.ggml.add_bos_token")
    return TokenizerSummary(
        str(model), str(pre), len(tokens), special, add_bos if isinstance(add_bos, bool) else None
    )


def metadata_json(file: GGUFFile) -> dict[str, Any]:
    """Return the metadata as JSON values.

    Lists of the tokenizer longer than LONG_LIST become {"length": n, "first": [SHOWN_ELEMENTS
    elements]}. nan and inf become None.
    """
    return {key: json_value(key, value) for key, value in file.metadata.items()}


def json_value(key: str, value: Any) -> Any:
    """Return one value as `metadata_json` gives it."""
    if isinstance(value, list):
        if key.startswith("tokenizer.") and len(value) > LONG_LIST:
            return {"length": len(value), "first": json_value("", value[:SHOWN_ELEMENTS])}
        return [json_value(key, element) for element in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def tensor_json(tensor: Tensor) -> dict[str, Any]:
    """Return a tensor's entry as plain values for JSON."""
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "type": tensor.type.name,
        "n_bytes": tensor.n_bytes,
        "offset": tensor.offset,
    }


def _architecture(file: GGUFFile) -> str | None:
    return file.architecture if "general.architecture" in file.metadata else None


def _number(file: GGUFFile, name: str) -> int | None:
    value = file.metadata.get(f"{_architecture(file)}.{name}")
    return value if type(value) is int and value > 0 else None


def _kv_cost(file: GGUFFile) -> KVCacheCost | None:
    """The cost of the KV cache; None for other files than language models."""
    if not _number(file, "block_count") or not _number(file, "embedding_length"):
        return None
    if f"{file.architecture}.attention.head_count" not in file.metadata:
        return None
    layers = range(file.n_layer)
    sliding = [layer for layer in layers if has_sliding_window(file, layer)]
    full, beyond = {}, {}
    for type_ in SHOWN_KV_TYPES:
        costs = [1000 * kv_bytes_per_position(file, layer, type_, type_) for layer in layers]
        full[type_] = sum(costs)
        beyond[type_] = full[type_] - sum(costs[layer] for layer in sliding)
    return KVCacheCost(
        full, beyond, file.n_layer, len(sliding), sliding_window(file) if sliding else 0
    )
