"""Small vision GGUFs of random weights: an LLM and its mmproj, by family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reellama.gguf_tools.conversion.convert import convert
from reellama.gguf_tools.locate.vision_models import VisionModel
from tests.helpers import vision_checkpoints

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "llava": vision_checkpoints.make_llava_onevision,
    "smolvlm": vision_checkpoints.make_smolvlm,
    "gemma3": vision_checkpoints.make_gemma3,
    "qwen2.5vl": vision_checkpoints.make_qwen25vl,
}


def small_vision_model(family: str, folder: Path) -> VisionModel:
    """Make one in `folder`, all in F32."""
    checkpoint = FAMILIES[family](folder / "checkpoint")
    made = convert(checkpoint, "F32", folder / f"{family}.gguf", mmproj_type="F32")
    assert made.mmproj is not None
    return VisionModel(made.path, made.mmproj.path)
