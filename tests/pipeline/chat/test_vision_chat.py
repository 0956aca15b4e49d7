"""A conversation about a video with a vision GGUF: its tokens are kept for the next one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reellama.gguf_tools.locate.vision_models import VisionModel
from reellama.gguf_tools.text.prompt_parts import SoftTokens
from reellama.models.array_cache import ArrayCache
from reellama.pipeline.chat.video_chat import VideoChat


def test_a_screenshot_is_seen_in_detail_and_as_its_budget_says(
    vision_model: Callable[[str], VisionModel], tmp_path: Path
) -> None:
    model, path = vision_model("qwen2.5vl"), tmp_path / "screen.png"
    Image.effect_noise((1400, 980), 50).save(path)  # 50 x 35 tokens of 28 pixels
    small: dict[str, Any] = {"bundle": model.llm, "cache": tmp_path / "cache", "n_threads": 1}

    def n_tokens(**options: Any) -> int:
        with VideoChat(path, **{**small, "n_ctx": 2560, **options}) as chat:
            return chat.videos[0].n_soft_tokens

    assert 950 <= n_tokens() <= 1024
    assert n_tokens(tokens=1800) == 50 * 35
    assert 350 <= n_tokens(n_ctx=512) <= 384
    assert 80 <= n_tokens(tokens=100) <= 100


def test_a_second_chat_with_another_budget_takes_what_was_kept(
    vision_model: Callable[[str], VisionModel], square_video: Path, tmp_path: Path
) -> None:
    model = vision_model("gemma3")
    small: dict[str, Any] = {"bundle": model.llm, "frames": 4, "n_ctx": 512, "n_threads": 1}
    with VideoChat(square_video, cache=tmp_path, **small) as first:
        assert 32 < first.videos[0].n_soft_tokens <= 256
        assert first.ask("What happens?", max_tokens=2) == first.ask("What happens?", max_tokens=2)
    [kept] = tmp_path.iterdir()
    features = ArrayCache(tmp_path).read(kept.stem)
    assert features is not None
    # What no tower makes: tokens that are all the same number.
    features["array"] = np.full_like(features["array"], 0.25)
    ArrayCache(tmp_path).write(kept.stem, **features)
    with VideoChat(square_video, cache=tmp_path, tokens=32, **small) as second:
        assert 0 < second.videos[0].n_soft_tokens <= 32
        soft = [part for part in second.videos[0].parts if isinstance(part, SoftTokens)]
        assert all((part.rows == 0.25).all() for part in soft)
    with VideoChat(square_video, cache=None, tokens=32, **small) as third:
        soft = [part for part in third.videos[0].parts if isinstance(part, SoftTokens)]
        assert not any((part.rows == 0.25).all() for part in soft)
