"""A vision GGUF sees as llama.cpp does, and its tokens stand where they were pooled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.conversion.convert import convert
from reellama.gguf_tools.text.prompt_parts import Prompt, Text
from reellama.models.token_pooling.options import PoolingOptions
from reellama.models.vision_bundle import VisionBundle
from reellama.pipeline.llm.engine import Engine
from tests.helpers import vision_checkpoints
from tests.helpers.bare_mtmd_prompt import last_logits

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "llava": vision_checkpoints.make_llava_onevision,
    "smolvlm": vision_checkpoints.make_smolvlm,
    "gemma3": vision_checkpoints.make_gemma3,
    "qwen2.5vl": vision_checkpoints.make_qwen25vl,
}
IN_FULL = PoolingOptions(method="full")
SIZE = vision_checkpoints.IMAGE_SIZE
FRAMES = list(np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8))


@dataclass(frozen=True)
class VisionModel:
    """A small vision GGUF of random weights."""

    family: str
    llm: Path
    mmproj: Path


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VisionModel:
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = FAMILIES[request.param](folder / "checkpoint")
    made = convert(checkpoint, "F32", folder / "model.gguf", mmproj_type="F32")
    assert made.mmproj is not None
    return VisionModel(request.param, made.path, made.mmproj.path)


@pytest.fixture(scope="module")
def engine(model: VisionModel) -> Iterator[Engine]:
    with Engine(model.llm, n_ctx=2048, n_threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def bundle(model: VisionModel) -> VisionBundle:
    """Tiles are shown, where the family has some, as llama.cpp does."""
    return VisionBundle(model.llm, model.mmproj, tiles=model.family == "smolvlm")


def encoded(bundle: VisionBundle, frames: Sequence[np.ndarray], **options: object) -> Prompt:
    """What stands for frames in a prompt, without their times."""
    video = bundle.encode(frames, np.arange(len(frames), dtype=np.float64))
    parts = bundle.prompt_parts(video, PoolingOptions(**{"method": "full", **options}))  # type: ignore[arg-type]
    return [part for part in parts if not isinstance(part, Text)]


PROMPTS: dict[str, list[str | list[np.ndarray]]] = {
    "a picture": ["Look: ", FRAMES[:1], "What is it?"],
    "two pictures": ["First ", FRAMES[:1], " and then ", FRAMES[1:2], "What changed?"],
    "a video": ["Look: ", FRAMES, "What happens?"],
}


@pytest.mark.numeric
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_logits_are_those_of_llama_cpps_own_helper(
    model: VisionModel, bundle: VisionBundle, engine: Engine, prompt: list[str | list[np.ndarray]]
) -> None:
    flat = [each for part in prompt for each in ([part] if isinstance(part, str) else part)]
    video = any(not isinstance(part, str) and len(part) > 1 for part in prompt)
    expected = last_logits(model.llm, model.mmproj, flat, merge=video)
    parts: Prompt = []
    for part in prompt:
        parts += [Text(part, special=True)] if isinstance(part, str) else encoded(bundle, part)
    found = engine.logits_all(parts)[-1]
    assert found.argmax() == expected.argmax()
    np.testing.assert_allclose(found, expected, atol=1e-2)
