"""A vision GGUF sees as llama.cpp does, and its tokens stand where they were pooled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.locate.vision_models import VisionModel
from reellama.gguf_tools.mtmd.mtmd_tower import VisionTowerError
from reellama.gguf_tools.text.prompt_parts import Prompt, SoftTokens, Text
from reellama.models.array_cache import ArrayCache
from reellama.models.token_pooling.options import PoolingOptions
from reellama.models.vision_bundle import VisionBundle
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.llm.engine import Engine
from tests.helpers.bare_mtmd_prompt import last_logits
from tests.helpers.vision_models import FAMILIES
from tests.helpers.vision_models import IMAGE_SIZE as SIZE

IN_FULL = PoolingOptions(method="full")
FRAMES = list(np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=FAMILIES)
def model(
    request: pytest.FixtureRequest, vision_model: Callable[[str], VisionModel]
) -> VisionModel:
    return vision_model(request.param)


@pytest.fixture(scope="module")
def engine(model: VisionModel) -> Iterator[Engine]:
    with Engine(model.llm, n_ctx=2048, n_threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def bundle(model: VisionModel) -> VisionBundle:
    """Tiles are shown, where the family has some, as llama.cpp does."""
    return VisionBundle(model.llm, model.mmproj, tiles="smolvlm" in model.llm.name)


def encoded(
    bundle: VisionBundle, frames: Sequence[np.ndarray], options: PoolingOptions = IN_FULL
) -> Prompt:
    """What stands for frames in a prompt, without their times."""
    video = bundle.encode(frames, np.arange(len(frames), dtype=np.float64))
    parts = bundle.prompt_parts(video, options)
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


def soft_parts(parts: Prompt) -> list[SoftTokens]:
    return [part for part in parts if isinstance(part, SoftTokens)]


def test_a_video_is_pooled_to_the_budget_with_its_times_between(
    model: VisionModel, engine: Engine
) -> None:
    bundle = VisionBundle(model.llm, model.mmproj)
    frames = list(np.random.default_rng(1).integers(0, 256, (12, SIZE, SIZE, 3), dtype=np.uint8))
    video = bundle.encode(frames, np.arange(12.0) * 10)
    for tokens in (64, 128, 256):
        parts = bundle.prompt_parts(video, PoolingOptions(tokens))
        assert engine.count([Text("a"), *parts]) - engine.count([Text("a")]) <= tokens
        assert sum(map(len, soft_parts(parts))) > tokens / 3
        texts = [part.text for part in parts if isinstance(part, Text)]
        assert len(texts) == len(soft_parts(parts)) >= 2 and texts == sorted(texts)
        assert texts[-1] > texts[0]


def test_one_picture_has_no_time(model: VisionModel) -> None:
    bundle = VisionBundle(model.llm, model.mmproj)
    small = PoolingOptions(40)  # no room for tiles
    parts = bundle.prompt_parts(bundle.encode(FRAMES[:1], np.zeros(1), small), small)
    assert not any(isinstance(part, Text) for part in parts)
    assert len(soft_parts(parts)) == 1


def test_a_second_question_reads_only_its_own_words(model: VisionModel, engine: Engine) -> None:
    bundle = VisionBundle(model.llm, model.mmproj)
    parts = bundle.prompt_parts(bundle.encode(FRAMES, np.arange(4.0)), PoolingOptions(64))
    first = engine.logits_all([Text("Look: "), *parts, Text(" And what is red?")])[-1]
    engine.clear()
    engine.prefill([Text("Look: "), *parts, Text(" What is it?")])
    stats = engine.prefill([Text("Look: "), *parts, Text(" And what is red?")])
    assert stats.n_read <= engine.count([Text(" And what is red?")])
    np.testing.assert_allclose(engine._ctx.logits_at(-1), first, atol=1e-2)


def test_a_prompt_that_ends_within_a_picture_reads_all_of_the_picture(
    model: VisionModel, engine: Engine
) -> None:
    """Tokens of a picture with positions of their own, or that see each other, cannot be cut."""
    bundle = VisionBundle(model.llm, model.mmproj)
    one, other = (soft_parts(encoded(bundle, [frame]))[0] for frame in FRAMES[:2])
    mixed = SoftTokens(
        np.concatenate([one.rows[:5], other.rows[5:]]), one.offsets, one.n_positions, one.causal
    )
    expected = engine.logits_all([Text("Look: "), mixed, Text("?")])[-1]
    engine.clear()
    engine.prefill([Text("Look: "), one, Text("?")])
    stats = engine.prefill([Text("Look: "), mixed, Text("?")])
    before = engine.count([Text("Look: ")])
    assert stats.n_reused == before + (5 if one.divisible else 0)
    np.testing.assert_allclose(engine._ctx.logits_at(-1), expected, atol=1e-2)


@pytest.mark.parametrize("model", ["gemma3"], indirect=True)
def test_another_budget_or_another_process_encodes_nothing_again(
    model: VisionModel, tmp_path: Path
) -> None:
    first = VisionBundle(model.llm, model.mmproj, cache=ArrayCache(tmp_path))
    video = first.encode(FRAMES, np.arange(4.0))
    second = VisionBundle(model.llm, model.mmproj, cache=ArrayCache(tmp_path))
    forget_to_encode(second)
    np.testing.assert_array_equal(second.encode(FRAMES, np.arange(4.0)).array, video.array)
    with pytest.raises(VisionTowerError):
        second.encode(FRAMES[:2], np.arange(2.0))  # frames that were not seen together


def forget_to_encode(bundle: VisionBundle) -> None:
    """Make the tower of a bundle raise VisionTowerError when it has to encode something."""

    def encode(*args: object, **options: object) -> np.ndarray:
        raise VisionTowerError("nothing may be encoded")

    bundle.tower.encode = encode  # type: ignore[method-assign]


@pytest.mark.parametrize("model", ["gemma3"], indirect=True)
def test_a_projector_that_was_written_anew_is_asked_again(
    model: VisionModel, tmp_path: Path
) -> None:
    mmproj = tmp_path / "mmproj.gguf"
    shutil.copy(model.mmproj, mmproj)
    cache = ArrayCache(tmp_path / "cache")
    VisionBundle(model.llm, mmproj, cache=cache).features(FRAMES)
    os.utime(mmproj, (1, 1))
    anew = VisionBundle(model.llm, mmproj, cache=cache)
    forget_to_encode(anew)
    with pytest.raises(VisionTowerError):
        anew.features(FRAMES)


def test_the_tower_goes_to_the_gpu_that_layers_go_to(
    vision_model: Callable[[str], VisionModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = vision_model("gemma3")
    towers: list[bool] = []

    def tower(mmproj: Path, llm: Path, *, use_gpu: bool) -> None:
        towers.append(use_gpu)

    monkeypatch.setattr("reellama.models.vision_bundle.MtmdTower", tower)
    for n_gpu_layers in (0, "all"):
        with VideoChat(bundle=model.llm, n_threads=1, n_gpu_layers=n_gpu_layers) as video_chat:
            assert isinstance(video_chat.bundle, VisionBundle)
            assert video_chat.bundle.tower is None
    assert towers == [False, True]
