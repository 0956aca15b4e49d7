"""Low-rank adapters of the LLM (LoRA, Hu et al., 2021), trained in PyTorch and used by llama.cpp.

They are trained on the dequantized weights of the GGUF, so that they fit the quantized model (as in
QLoRA, Dettmers et al., 2023).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import GGUFFile

# Linear layer of a transformers Llama -> name of the tensor in a block of a GGUF.
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"layers\.(\d+)\.(.+)$")


class LoraLinear(nn.Module):
    """A frozen linear layer, plus `b @ a` of low rank times `scale`."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.enabled = True
        device = base.weight.device
        bound = base.in_features**-0.5
        self.a = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        nn.init.uniform_(self.a, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        if not self.enabled:
            return y
        low = F.linear(x, self.a.to(x.dtype)) * self.scale  # scaling the narrow matrix is cheaper
        return y + F.linear(low, self.b.to(x.dtype))


class LoraAdapters(nn.Module):
    """The adapters of all layers of a transformers Llama. They are inserted into `model` itself.

    alpha: the adapters' output is scaled by alpha / rank, as in llama.cpp.
    """

    def __init__(self, model: nn.Module, rank: int, alpha: float) -> None:
        super().__init__()
        self.rank, self.alpha = rank, alpha
        self.names: list[str] = []
        layers = []
        for name, module in list(model.named_modules()):
            match = _LAYER.search(name)
            if match and match[2] in GGUF_NAMES and isinstance(module, nn.Linear):
                layer = LoraLinear(module, rank, alpha / rank)
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, layer)
                self.names.append(f"blk.{match[1]}.{GGUF_NAMES[match[2]]}.weight")
                layers.append(layer)
        # Register only the low-rank parts: the base weights belong to the model. A plain list does
        # not register its modules.
        self.a = nn.ParameterList([layer.a for layer in layers])
        self.b = nn.ParameterList([layer.b for layer in layers])
        self._layers = layers

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """A context in which the LLM runs without the adapters."""
        for layer in self._layers:
            layer.enabled = False
        try:
            yield
        finally:
            for layer in self._layers:
                layer.enabled = True

    def load(self, path: Path, llm: GGUFFile) -> None:
        """Load an adapter that `save` wrote. Raises ReellamaError for another shape."""
        tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
        for name, a, b in zip(self.names, self.a, self.b, strict=True):
            down, up = (tensors.get(f"{name}.lora_{part}") for part in "ab")
            if down is None or up is None or down.shape != a.shape or up.shape != b.shape:
                raise ReellamaError(
                    f"{path}: its {name} is not that of an adapter of rank {self.rank}"
                )
            heads = _rotated_heads(name, llm)
            up = _halve(up, heads) if heads else up
            with torch.no_grad():
                a.copy_(torch.from_numpy(np.array(down, np.float32)))
                b.copy_(torch.from_numpy(np.array(up, np.float32)))

    def save(self, path: Path, llm: GGUFFile) -> None:
        """Write the adapter as a GGUF in float16; `llm` is the header of its LLM."""
        architecture = str(llm.metadata["general.architecture"])
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(self.alpha))
        for name, a, b in zip(self.names, self.a, self.b, strict=True):
            up = b.detach().float().cpu().numpy()
            heads = _rotated_heads(name, llm)
            up = _interleave(up, heads) if heads else up
            down = a.detach().float().cpu().numpy()
            writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(down, np.float16))
            writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(up, np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _rotated_heads(name: str, llm: GGUFFile) -> int:
    """Number of heads in a tensor whose rows llama.cpp permutes for RoPE; 0 for other tensors."""
    architecture = str(llm.metadata["general.architecture"])
    if architecture != "llama":
        return 0
    heads = int(llm.metadata["llama.attention.head_count"])
    if "attn_q" in name:
        return heads
    return int(llm.metadata.get("llama.attention.head_count_kv", heads)) if "attn_k" in name else 0


def _interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows `[heads * d, ...]` from RoPE's order in transformers, halves, to llama.cpp's, pairs."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _halve(rows: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of `_interleave`: rows from pairs to halves."""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
