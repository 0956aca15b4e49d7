"""Describe the kind of a GGUF in a line: LoRA adapter, control vector, importance matrix, ..."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from reellama.gguf_tools.format.reader import GGUFFile

LORA_TENSOR = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.weight\.lora_[ab]")
DIRECTION = re.compile(r"direction\.(\d+)")  # a control vector's tensor for a layer
EXPERTS = re.compile(r"_exps\.weight$|ffn_(?:gate|up|down)\.\d+\.weight$")  # stacked, or one by one


def file_kind(file: GGUFFile) -> str | None:
    """Return the kind of a file in a line; None for a plain language model or an unknown kind."""
    metadata = file.metadata
    if metadata.get("adapter.type") == "lora":
        return _lora(file)
    if metadata.get("general.architecture") == "controlvector":
        return _control_vector(file)
    if metadata.get("general.type") == "imatrix":
        return _imatrix(file)
    if (experts := _experts(file)) is not None:
        n_experts, used = experts
        return f"mixture of {n_experts} experts, of which {used} work for a token"
    if not file.tensors and isinstance(metadata.get("tokenizer.ggml.tokens"), list):
        return "vocabulary without weights"
    if metadata.get(f"{metadata.get('general.architecture')}.attention.causal") is False:
        return "encoder: it makes embeddings of texts, and writes none"
    return None


def active_parameters(file: GGUFFile) -> int | None:
    """Return the number of weights used for a token by a mixture of experts; None for others."""
    experts = _experts(file)
    if experts is None:
        return None
    n_experts, used = experts
    total = 0
    for tensor in file.tensors.values():
        share = used / n_experts if EXPERTS.search(tensor.name) else 1.0
        total += round(tensor.n_elements * share)
    return total


def _lora(file: GGUFFile) -> str:
    targets, layers, ranks = set[str](), set[int](), set[int]()
    for tensor in file.tensors.values():
        if match := LORA_TENSOR.fullmatch(tensor.name):
            targets.add(match[2])
            if match[1]:
                layers.add(int(match[1]))
            if tensor.name.endswith("_a") and len(tensor.shape) > 1:
                ranks.add(tensor.shape[1])
    rank = " or ".join(map(str, sorted(ranks))) or "unknown"
    alpha = file.metadata.get("adapter.lora.alpha")
    scale = ""
    if isinstance(alpha, int | float):
        scale = f", alpha {alpha:g}"
        if len(ranks) == 1 and (n := max(ranks)):
            scale += f" (what it adds counts {alpha / n:g} times)"
    in_layers = f" of {_numbers('layer', layers)}" if layers else ""
    architecture = file.metadata.get("general.architecture", "an unknown architecture")
    names = ", ".join(sorted(targets)) or "nothing"
    return f"LoRA adapter for {architecture}, rank {rank}{scale}: {names}{in_layers}"


def _control_vector(file: GGUFFile) -> str:
    layers = {int(m[1]) for name in file.tensors if (m := DIRECTION.fullmatch(name))}
    hint = file.metadata.get("controlvector.model_hint")
    model = f" for {hint}" if isinstance(hint, str) and hint else ""
    return f"control vector{model}: directions for {_numbers('layer', layers)}"


def _imatrix(file: GGUFFile) -> str:
    texts = file.metadata.get("imatrix.datasets")
    names = [Path(str(text)).name for text in texts] if isinstance(texts, list) else []
    chunks, size = (file.metadata.get(f"imatrix.chunk_{name}", 0) for name in ("count", "size"))
    source = f" from {', '.join(names)}" if names else ""
    n_tensors = sum(name.endswith(".in_sum2") for name in file.tensors)
    return f"importance matrix{source}: {chunks} chunks of {size} tokens, {n_tensors} tensors"


def _experts(file: GGUFFile) -> tuple[int, int] | None:
    """The number of experts in a layer, and of those used for a token; None for no mixture."""
    architecture = file.metadata.get("general.architecture")
    counts = (
        file.metadata.get(f"{architecture}.expert_{name}") for name in ("count", "used_count")
    )
    n_experts, used = (max(n, default=0) if isinstance(n, list) else n for n in counts)
    if not (isinstance(n_experts, int) and isinstance(used, int)) or not 0 < used <= n_experts:
        return None
    return n_experts, used


def _numbers(name: str, numbers: Iterable[int]) -> str:
    """ "layer 3", "layers 0 to 29" or "layers 0, 2 and 5"."""
    ordered = sorted(numbers)
    if not ordered:
        return f"no {name}"
    if len(ordered) == 1:
        return f"{name} {ordered[0]}"
    if ordered == list(range(ordered[0], ordered[-1] + 1)) and len(ordered) > 2:
        return f"{name}s {ordered[0]} to {ordered[-1]}"
    return f"{name}s {', '.join(map(str, ordered[:-1]))} and {ordered[-1]}"
