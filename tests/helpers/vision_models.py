"""Small vision GGUFs of random weights: an LLM and its mmproj, by family."""

from __future__ import annotations

from pathlib import Path

from reellama.gguf_tools.locate.vision_models import VisionModel

IMAGE_SIZE = 112  # pixels on a side of the pictures that their towers take
# The families, and the functions of `vision_checkpoints` that make them.
FAMILIES = {
    "llava": "make_llava_onevision",
    "smolvlm": "make_smolvlm",
    "gemma3": "make_gemma3",
    "qwen2.5vl": "make_qwen25vl",
}


def small_vision_model(family: str, folder: Path) -> VisionModel:
    """Make one in `folder`, all in F32; or take it, where it is there."""
    model = VisionModel(folder / f"{family}.gguf", folder / f"mmproj-{family}-F32.gguf")
    if not (model.llm.exists() and model.mmproj.exists()):
        # Here, for it imports transformers, which takes longer than all of the rest.
        from reellama.gguf_tools.conversion.convert import convert
        from tests.helpers import vision_checkpoints

        checkpoint = getattr(vision_checkpoints, FAMILIES[family])(folder / family)
        made = convert(checkpoint, "F32", model.llm, mmproj_type="F32")
        assert made.mmproj is not None
        assert (made.path, made.mmproj.path) == (model.llm, model.mmproj)
    return model
