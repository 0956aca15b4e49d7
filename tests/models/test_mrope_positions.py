"""Positions of pooled tokens in a model with M-RoPE: in time, down and to the right, at the centre
of what was pooled (Qwen2-VL, arXiv:2409.12191)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from reellama.gguf_tools.locate.vision_models import VisionModel
from reellama.gguf_tools.text.prompt_parts import SoftTokens
from reellama.models.token_pooling.options import PoolingOptions
from reellama.models.vision_bundle import VisionBundle
from tests.helpers.vision_models import IMAGE_SIZE as SIZE

FRAMES = list(np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8))
SIDE = 4  # rows and columns of a picture, which is two frames


@pytest.fixture(scope="module")
def bundle(vision_model: Callable[[str], VisionModel]) -> VisionBundle:
    model = vision_model("qwen2.5vl")
    return VisionBundle(model.llm, model.mmproj)


def soft_tokens(bundle: VisionBundle, n_frames: int, options: PoolingOptions) -> list[SoftTokens]:
    video = bundle.encode(FRAMES[:n_frames], np.arange(n_frames, dtype=np.float64))
    parts = bundle.prompt_parts(video, options)
    return [part for part in parts if isinstance(part, SoftTokens)]


def budget(bundle: VisionBundle, n_frames: int, n_tokens: int) -> int:
    """Cells for `n_tokens` in one group, with what stands around them."""
    return n_tokens + bundle._tokens_around(np.arange(n_frames)[::2])


def test_a_picture_in_full_has_its_rows_and_columns(bundle: VisionBundle) -> None:
    (soft,) = soft_tokens(bundle, 2, PoolingOptions(method="full"))
    y, x = np.divmod(np.arange(SIDE * SIDE), SIDE)
    assert soft.offsets is not None
    np.testing.assert_array_equal(soft.offsets, [np.zeros(SIDE * SIDE), y, x])
    assert soft.n_positions == SIDE


def test_a_mean_stands_at_the_centre_of_its_cells(bundle: VisionBundle) -> None:
    options = PoolingOptions(budget(bundle, 2, 4), "adaptive_mean")
    (soft,) = soft_tokens(bundle, 2, options)
    assert soft.offsets is not None
    # 4 x 4 cells become 2 x 2: their centres lie at 0.5 and 2.5, halves rounded up.
    np.testing.assert_array_equal(soft.offsets, [[0] * 4, [1, 1, 3, 3], [1, 3, 1, 3]])
    assert soft.n_positions == SIDE


def test_a_mean_over_time_stands_at_its_middle(bundle: VisionBundle) -> None:
    options = PoolingOptions(budget(bundle, 8, 16), "mean_over_time")
    (soft,) = soft_tokens(bundle, 8, options)
    assert soft.offsets is not None
    # Four pictures: the middle is between the second and the third.
    np.testing.assert_array_equal(soft.offsets[0], [2] * 16)
    assert soft.n_positions == SIDE


def test_each_picture_moves_on_by_its_longer_side(bundle: VisionBundle) -> None:
    first, second = soft_tokens(bundle, 4, PoolingOptions(method="full"))
    assert len(first) == len(second) == SIDE * SIDE  # cells of the KV cache
    assert first.n_positions == second.n_positions == SIDE  # positions
