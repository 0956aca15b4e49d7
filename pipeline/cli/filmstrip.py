"""A strip of frames, drawn in the terminal: two pixels a character, with the times underneath."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

from reellama.pipeline.video.timestamps import format_time

UPPER_HALF = "\u2580"
GAP = 1  # columns between two pictures
MIN_WIDTH, MAX_WIDTH = (
    9,
    26,
)  # columns of one picture: the narrowest still holds a time, "1:02:03.4"
TARGET_ROWS = 2  # of pictures, when they can be wide enough
MAX_HEIGHT = 8  # lines of one picture
MAX_LINES = 18  # a strip must leave room for the conversation


@dataclass(frozen=True)
class Filmstrip:
    """A rich renderable of `frames` (uint8 RGB `[H, W, 3]`) and their `times` in seconds.

    Where pictures cannot be drawn (no colour, a pipe, 16 colours, no UTF-8) it lists the times.
    With `whole=False` a long strip shows some of the frames, so that it stays within `MAX_LINES`.
    """

    frames: Sequence[np.ndarray]
    times: Sequence[float]
    whole: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not can_draw(console):
            yield from self._list(options.max_width)
            return
        height, width = self.frames[0].shape[:2]
        columns, lines = _size(len(self.frames), height / width, options.max_width)
        per_row = max(1, (options.max_width + GAP) // (columns + GAP))
        shown = self._shown(per_row * (MAX_LINES // (lines + 1)))
        for first in range(0, len(shown), per_row):
            yield from self._row(shown[first : first + per_row], columns, lines)
        if len(shown) < len(self.frames):
            yield Segment(f"{len(shown)} of {len(self.frames)} frames", Style(dim=True))
            yield Segment.line()

    def _shown(self, max_frames: int) -> list[int]:
        """The numbers of the frames to draw: all, or `max_frames` of them evenly."""
        n = len(self.frames)
        if self.whole or n <= max_frames:
            return list(range(n))
        return [round(i * (n - 1) / max(1, max_frames - 1)) for i in range(max_frames)]

    def _row(self, numbers: Sequence[int], columns: int, lines: int) -> Iterator[Segment]:
        pictures = [_fit(self.frames[i], columns, 2 * lines) for i in numbers]
        for y in range(0, 2 * lines, 2):
            for i, picture in enumerate(pictures):
                if i:
                    yield Segment(" " * GAP)
                for upper, lower in zip(picture[y], picture[y + 1], strict=True):
                    yield Segment(UPPER_HALF, Style(color=_color(upper), bgcolor=_color(lower)))
            yield Segment.line()
        times = [f"{format_time(self.times[i]):<{columns}}" for i in numbers]
        yield Segment((" " * GAP).join(times).rstrip(), Style(dim=True))
        yield Segment.line()

    def _list(self, width: int) -> Iterator[Segment]:
        line = "frames at"
        for time in map(format_time, self.times):
            if len(line) + 1 + len(time) > width:
                yield Segment(line)
                yield Segment.line()
                line = "         "
            line += f" {time}"
        yield Segment(line)
        yield Segment.line()


def can_draw(console: Console) -> bool:
    """Whether the terminal has the colours and the characters for pictures."""
    colours = console.color_system in ("truecolor", "256") and not console.no_color
    return console.is_terminal and colours and console.encoding.startswith("utf")


def _size(n: int, aspect: float, width: int) -> tuple[int, int]:
    """Columns and lines of one of `n` pictures in a terminal `width` wide; aspect = height / width.

    A character is two square pixels, one over the other.
    """
    per_row = -(-n // TARGET_ROWS) if n > TARGET_ROWS else n
    widest = min(MAX_WIDTH, int(2 * MAX_HEIGHT / aspect))
    columns = max(min((width + GAP) // per_row - GAP, widest), min(MIN_WIDTH, width))
    return columns, max(1, min(MAX_HEIGHT, round(columns * aspect / 2)))


def _fit(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """`frame` scaled to `[height, width, 3]`, whole, on black where its shape is another."""
    scale = min(width / frame.shape[1], height / frame.shape[0])
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    picture = np.zeros((height, width, 3), np.uint8)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    small = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
    picture[top : top + size[1], left : left + size[0]] = small
    return picture


def _color(rgb: np.ndarray) -> Color:
    return Color.from_rgb(*map(int, rgb))
