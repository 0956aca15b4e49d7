"""Plan how the pictures of a vision GGUF are pooled, by its family and the options of a user."""

from __future__ import annotations

from collections.abc import Sequence

from reellama.gguf_tools.format.mmproj_header import MmprojHeader
from reellama.models.token_pooling.options import (
    AUTO,
    DEFAULT_TOKENS,
    STILL_TOKENS,
    PoolingOptions,
)
from reellama.models.token_pooling.picture_size import VIDEO_PICTURE_TOKENS, takes_any_size
from reellama.models.token_pooling.plan import FrameTokens, PoolingPlan, plan_pooling


def plan_pictures(
    header: MmprojHeader,
    n_pictures: int,
    grid: Sequence[int],
    n_around: int,
    options: PoolingOptions,
    context_left: int | None,
    *,
    still: bool,
) -> PoolingPlan:
    """The plan for `n_pictures` with a `grid` of tokens and `n_around` around each group. Raises
    PoolingError as `plan_pooling` does."""
    rows, columns = grid
    return plan_pooling(
        token_budget(header, options, n_pictures, rows, rows * columns + n_around, still=still),
        FrameTokens(rows, columns, grid=rows > 1),
        frames=n_pictures,
        group_tokens=n_around,
        context_left=context_left,
        method=pooling_method(header, options, rows),
    )


def pooling_method(header: MmprojHeader, options: PoolingOptions, rows: int | None = None) -> str:
    """The requested pooling; for "auto", "full" if the family is not known to pool well. `rows` of
    tokens, or None before they are known."""
    in_full = options.method == AUTO and not _pools_well(header, rows)
    return "full" if in_full else options.method


def token_budget(
    header: MmprojHeader,
    options: PoolingOptions,
    pictures: int,
    rows: int,
    picture_tokens: int,
    *,
    still: bool = False,
) -> int:
    """The number of cells for a video.

    pictures: number of them. rows: of a picture's grid. picture_tokens: cells of a picture with the
    tokens around it.
    """
    if options.tokens is not None:
        return options.tokens
    if pooling_method(header, options, rows) == "full":
        return pictures * picture_tokens
    return max(STILL_TOKENS, picture_tokens) if still else DEFAULT_TOKENS


def encoding_version(
    header: MmprojHeader, options: PoolingOptions, n_frames: int, context_left: int | None
) -> str:
    """What the features of `n_frames` depend on beside the frames, for the key of a cache.

    Empty if they depend on nothing else, so that another budget encodes nothing again.
    """
    still, method = n_frames == 1, pooling_method(header, options)
    in_detail = takes_any_size(header) or (still and header.has_tiles)
    drops_frames = not still and method in ("full", "subsample")
    if not (in_detail or drops_frames):
        return ""
    budget = options.tokens
    if budget is None and (still or method != "full"):
        budget = STILL_TOKENS if still else DEFAULT_TOKENS
    limits = [limit for limit in (budget, context_left) if limit is not None]
    room = min(limits, default=None)
    if room is not None and not still and not drops_frames:
        room = max(room, VIDEO_PICTURE_TOKENS)  # pictures are no smaller than that
    return f"{options.method if still or drops_frames else ''} {room}"


def _pools_well(header: MmprojHeader, rows: int | None) -> bool:
    """Whether the family is known to pool well.

    Its tokens must be the cells of a grid, or the outputs of a resampler's queries. A grid with
    tokens between its rows (Pixtral), of which libmtmd reports one row, does not pool well.
    """
    if header.family is None:
        return False
    if rows is None:
        return not (header.has_row_end or header.family.n_around)
    return rows > 1 or not header.family.is_grid
