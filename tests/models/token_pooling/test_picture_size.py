"""The budget decides how large pictures are seen, and which frames are encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.format.mmproj_header import MmprojHeader, mmproj_header
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.locate.vision_models import VisionModel
from reellama.gguf_tools.mtmd.mtmd_tower import MtmdTower
from reellama.gguf_tools.text.prompt_parts import Prompt, SoftTokens
from reellama.models.array_cache import ArrayCache
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions
from reellama.models.token_pooling.picture_size import (
    VIDEO_PICTURE_TOKENS,
    size_of,
    tokens_per_picture,
)
from reellama.models.vision_bundle import VisionBundle
from tests.helpers import mtmd_pictures, small_mmproj, tiny_model

SCREEN = (1920, 1080)
FULL = PoolingOptions(method="full")


def header(folder: Path, family: str, **keys: object) -> MmprojHeader:
    """The header of a made mmproj, with the sizes of models in use."""
    sizes = {f"clip.vision.{name}": value for name, value in keys.items()}
    return mmproj_header(read_gguf(small_mmproj.write(folder / "mmproj.gguf", family, sizes)))


@pytest.mark.parametrize(
    ("family", "patch", "tokens", "fewest", "most"),
    [
        ("qwen2.5vl_merger", 14, 128, 110, 128),  # a frame of a video
        ("qwen2.5vl_merger", 14, 1024, 950, 1024),  # a still
        ("qwen2.5vl_merger", 14, 4000, 2691, 2691),  # never more than it has: 69 x 39
        ("pixtral", 16, 1024, 950, 1024),  # with the tokens at the ends of its rows
        ("lfm2", 16, 4000, 230, 256),  # the family's own limit
        ("gemma4v", 16, 300, 270, 300),
    ],
)
def test_a_picture_of_any_size_has_no_more_tokens_than_the_budget_holds(
    tmp_path: Path, family: str, patch: int, tokens: int, fewest: int, most: int
) -> None:
    seen = header(tmp_path, family, patch_size=patch)
    size = size_of(seen, *SCREEN, tokens)
    assert fewest <= (seen.n_tokens(size) or 0) <= most
    assert size[0] / size[1] == pytest.approx(16 / 9, rel=0.1)
    assert size_of(seen, 56, 56, tokens)[0] <= 64, "small pictures are not enlarged"


def test_families_of_one_size_get_pictures_as_they_are(tmp_path: Path) -> None:
    assert size_of(header(tmp_path, "gemma3"), *SCREEN, 64) == SCREEN


@pytest.mark.parametrize(
    ("options", "n_pictures", "context_left", "tokens"),
    [
        (PoolingOptions(), 16, 3072, VIDEO_PICTURE_TOKENS),
        (PoolingOptions(64), 16, 3072, VIDEO_PICTURE_TOKENS),  # they are pooled
        (PoolingOptions(4000), 16, None, 240),
        (PoolingOptions(4000), 16, 3072, 182),
        (FULL, 8, 3072, 374),
        (FULL, 8, None, VIDEO_PICTURE_TOKENS),
        (PoolingOptions(512, "full"), 16, None, 160),  # three of them
    ],
)
def test_the_pictures_of_a_video_share_its_budget(
    options: PoolingOptions, n_pictures: int, context_left: int | None, tokens: int
) -> None:
    in_full = options.method == "full"
    share = tokens_per_picture(options, n_pictures, 10, context_left, in_full=in_full)
    assert share == tokens


@pytest.mark.parametrize(
    ("options", "context_left", "tokens"),
    [
        (PoolingOptions(), 3072, 1014),
        (PoolingOptions(), 512, 502),
        (PoolingOptions(2000), None, 1990),
        (PoolingOptions(100), 3072, 90),
    ],
)
def test_a_still_has_the_whole_budget(
    options: PoolingOptions, context_left: int | None, tokens: int
) -> None:
    assert tokens_per_picture(options, 1, 10, context_left, still=True) == tokens


def pictures(n: int, width: int, height: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8))


def shown(
    bundle: VisionBundle, frames: Sequence[np.ndarray], options: PoolingOptions = DEFAULT_POOLING
) -> tuple[Prompt, int]:
    """A prompt with frames a second apart, and how many went through the tower."""
    encoded: list[np.ndarray] = []
    encode = bundle.tower.encode

    def count(frames: Sequence[np.ndarray], *, tiles: bool = False) -> np.ndarray:
        encoded.extend(frames)
        return encode(frames, tiles=tiles)

    bundle.tower.encode = count  # type: ignore[assignment,method-assign]
    video = bundle.encode(frames, np.arange(len(frames), dtype=np.float64), options)
    bundle.tower.encode = encode  # type: ignore[method-assign]
    return bundle.prompt_parts(video, options), len(encoded)


def soft_tokens(parts: Prompt) -> list[int]:
    return [len(part) for part in parts if isinstance(part, SoftTokens)]


@pytest.fixture(scope="module")
def qwen(vision_model: Callable[[str], VisionModel]) -> VisionBundle:
    model = vision_model("qwen2.5vl")
    return VisionBundle(model.llm, model.mmproj)


def test_a_still_is_seen_in_detail_and_a_frame_of_a_video_is_not(qwen: VisionBundle) -> None:
    frames = pictures(4, 560, 448)  # 20 x 16 tokens
    assert soft_tokens(shown(qwen, frames[:1])[0]) == [320]
    assert qwen.encode(frames, np.arange(4.0)).array.shape == (2, 10, 12, 64)
    more = qwen.encode(frames, np.arange(4.0), PoolingOptions(560))
    assert 230 <= more.array.shape[1] * more.array.shape[2] <= 280
    assert soft_tokens(shown(qwen, frames, PoolingOptions(700))[0]) == [320, 320]


def test_pictures_of_two_frames_are_chosen_as_a_pair(qwen: VisionBundle) -> None:
    frames = pictures(9, 112, 112)  # 16 tokens each two
    chosen = qwen.choose_frames(frames, np.arange(9.0), PoolingOptions(60, "full"))
    assert list(chosen.chosen) == [2, 3, 6, 7]


@pytest.mark.parametrize("method", ["full", "subsample"])
def test_frames_that_the_plan_leaves_out_are_not_encoded(
    vision_model: Callable[[str], VisionModel], method: str
) -> None:
    model = vision_model("gemma3")  # 16 tokens a frame
    bundle, options = VisionBundle(model.llm, model.mmproj), PoolingOptions(60, method)
    frames = pictures(12, 112, 112)
    parts, n_encoded = shown(bundle, frames, options)
    assert n_encoded == len(soft_tokens(parts)) < 6
    everything = bundle.encode(frames, np.arange(12.0))
    late = bundle.prompt_parts(everything, options)
    assert soft_tokens(late) == soft_tokens(parts), "the plan is the same before and after"
    notes = bundle.pooling_summary(bundle.encode(frames, np.arange(12.0), options), options)[1:]
    assert ("asked for 12 frames" in "".join(notes)) == (method == "full")


def test_a_still_has_its_tiles_where_the_budget_holds_them(
    vision_model: Callable[[str], VisionModel],
) -> None:
    model = vision_model("smolvlm")  # 2 x 2 tiles of 16 tokens
    bundle, still = VisionBundle(model.llm, model.mmproj), pictures(1, 224, 224)
    assert soft_tokens(shown(bundle, still)[0]) == [16] * 5
    assert soft_tokens(shown(bundle, still, PoolingOptions(60))[0]) == [16]
    assert bundle.still_side == 2048


def test_a_still_for_an_unknown_family_is_read_no_larger_than_a_frame(tmp_path: Path) -> None:
    llm = tiny_model.write(tmp_path / "llm.gguf", "llama")
    bundle = VisionBundle(llm, small_mmproj.write_lightonocr(tmp_path / "mmproj.gguf"))
    assert bundle.still_side == bundle.max_side


def test_tiles_of_a_picture_that_keeps_its_shape_have_their_own_numbers(tmp_path: Path) -> None:
    llm = tiny_model.write(tmp_path / "llm.gguf", "llama")
    path = small_mmproj.write(tmp_path / "mmproj.gguf", "lfm2")
    with mtmd_pictures.opened(llm, path) as context:
        expected = mtmd_pictures.n_tokens(context, (560, 420))
    with MtmdTower(path, llm) as tower:
        layout = tower.layout(560, 420)
        wide = tower.layout(168, 84)
    assert layout.image_tokens == tuple(expected) and len({*expected}) == 2
    assert (wide.rows, wide.columns) == (6, 12), "a grid need not be a square"


def test_what_is_kept_depends_on_the_budget_only_where_the_pixels_do(
    qwen: VisionBundle, vision_model: Callable[[str], VisionModel], tmp_path: Path
) -> None:
    model = vision_model("gemma3")
    gemma = VisionBundle(model.llm, model.mmproj, cache=ArrayCache(tmp_path))
    budgets = [PoolingOptions(tokens) for tokens in (None, 64, 4000)]
    for n_frames in (1, 16):
        assert {gemma.encoding_version(each, n_frames, 3072) for each in budgets} == {""}
    assert len({qwen.encoding_version(each, 16, 3072) for each in budgets}) == 3
    several = {qwen.encoding_version(PoolingOptions(), 16, left) for left in (3072, 2000)}
    assert len(several) == 1, "what other videos take of the context changes nothing"
    assert len({qwen.encoding_version(PoolingOptions(), 1, left) for left in (3072, 500)}) == 2
    gemma.encode(pictures(2, 112, 112), np.arange(2.0))
    (file,) = tmp_path.iterdir()
    kept = ArrayCache(tmp_path).read(file.stem)
    assert kept is not None and kept["features"].dtype == np.float16
