"""How large a vision model sees a picture, where its family takes any size: the budget decides.

tokens = tokens_per_picture(options, n_pictures=8, around=6, context_left=3072)
width, height = size_of(header, 1280, 720, tokens)
"""

from __future__ import annotations

import numpy as np

from reellama.gguf_tools.format.mmproj_header import MmprojHeader
from reellama.models.token_pooling.options import STILL_TOKENS, PoolingOptions

# Tokens of a picture of a video, where the budget has room for no more: 128 is what Qwen2.5-VL
# takes at least for a frame of a video, and what is pooled then.
VIDEO_PICTURE_TOKENS = 128
# Most tokens of a picture where neither the family nor the file says: Qwen's own limit.
MAX_PICTURE_TOKENS = 4096


def tokens_per_picture(
    options: PoolingOptions,
    n_pictures: int,
    around: int,
    context_left: int | None = None,
    *,
    still: bool = False,
    in_full: bool = False,
) -> int:
    """How many tokens each of `n_pictures` gets at most: its share of the budget.

    A still has all of it. The pictures of a video are pooled where their shares are less than
    VIDEO_PICTURE_TOKENS. around: cells for what stands around a picture. in_full: whether pictures
    are left out, and not pooled, where they do not fit.
    """
    budget = options.tokens
    if budget is None and still:
        budget = STILL_TOKENS
    if budget is None and options.method == "full":
        budget = context_left  # all that there is, as llama.cpp does
    if budget is None:
        return VIDEO_PICTURE_TOKENS
    room = budget if context_left is None else min(budget, context_left)
    if still:
        return max(1, room - around)
    if in_full:
        n_pictures = min(n_pictures, max(1, room // (VIDEO_PICTURE_TOKENS + around)))
    return max(VIDEO_PICTURE_TOKENS, room // n_pictures - around)


def size_of(header: MmprojHeader, width: int, height: int, tokens: int) -> tuple[int, int]:
    """The width and height in pixels at which a tower gets pictures of at most `tokens`.

    They have nearly the same proportions, and are not enlarged. Families of one size get pictures
    as they are: libmtmd scales them.
    """
    side = header.token_side
    if not takes_any_size(header) or side is None:
        return int(width), int(height)
    tokens = min(tokens, max_tokens(header))
    scale = min(1.0, (tokens * side * side / (width * height)) ** 0.5)
    columns, rows = (max(1, round(scale * pixels / side)) for pixels in (width, height))
    # Rounded, they may be too many; the longer side loses less by it.
    while max(rows, columns) > 1 and _count(header, rows, columns) > tokens:
        rows, columns = (rows - 1, columns) if rows > columns else (rows, columns - 1)
    return columns * side, rows * side


def takes_any_size(header: MmprojHeader) -> bool:
    """Whether pictures keep their shape, as far as the family is known."""
    return header.family is not None and header.family.any_size


def max_tokens(header: MmprojHeader) -> int:
    """Most tokens that llama.cpp gives a picture of this family, without its tiles."""
    if header.token_range is not None:
        return header.token_range[1]
    if header.has_tiles and header.image_size and header.token_side:
        return max(1, (header.image_size // header.token_side) ** 2)
    return MAX_PICTURE_TOKENS


def _count(header: MmprojHeader, rows: int, columns: int) -> int:
    """Tokens of a grid, with those at the ends of its rows."""
    return rows * columns + (rows - 1 if header.has_row_end else 0)


def frame_size_of(frame: np.ndarray) -> tuple[int, int]:
    """Width and height of a frame `[H, W, 3]`."""
    height, width = frame.shape[:2]
    return width, height


def scaled_to(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame, resized to a width and height."""
    from PIL import Image

    if frame_size_of(frame) == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
