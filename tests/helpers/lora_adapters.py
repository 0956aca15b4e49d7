"""LoRA adapters with random weights for the tiny model."""

from pathlib import Path

import gguf
import numpy as np

from reellama.pipeline.llm.engine import Engine, Text
from tests.helpers import tiny_model

PROMPT = [Text("adapters change what a model says")]
RANK, ALPHA = 4, 8.0
NAMES = ("blk.0.attn_q.weight", "blk.1.ffn_down.weight", "blk.1.attn_output.weight")

Pair = tuple[np.ndarray, np.ndarray]  # A [rank, inputs] and B [outputs, rank]


def pairs(seed: int) -> dict[str, Pair]:
    rng = np.random.default_rng(seed)
    found = {}
    for name in NAMES:
        outputs, inputs = tiny_model.weights("llama")[name].shape
        a, b = rng.normal(0, 0.3, (RANK, inputs)), rng.normal(0, 0.3, (outputs, RANK))
        found[name] = a.astype(np.float32), b.astype(np.float32)
    return found


def write_adapter(path: Path, weights: dict[str, Pair], arch: str = "llama") -> Path:
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, ALPHA)
    for name, (a, b) in weights.items():
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(path: Path, *lora: tuple[Path, float]) -> np.ndarray:
    with Engine(path, n_ctx=256, n_threads=1, lora=lora) as engine:
        return engine.logits_all(PROMPT)
