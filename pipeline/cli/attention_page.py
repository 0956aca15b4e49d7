"""The attention of soft tokens, for people: greyed frames, words, and a page of all."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, Template
from PIL import Image

from reellama.models.projector.interpretation import SlotReading
from reellama.pipeline.video.timestamps import format_time

FOG_GREY = 150.0  # of frames without attention
MIN_VISIBILITY = 0.1  # share of a frame that stays there
PAGE_WIDTH, QUALITY = 96, 75  # pixels of a frame on the page, and of JPEG
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")


def highlight_attention(frames: Sequence[np.ndarray], attention: np.ndarray) -> list[np.ndarray]:
    """Frames (uint8 RGB `[H, W, 3]`) that are grey where `attention [T, cells]` is low.

    They stay as they are where it is highest, of all frames, and are half grey at a fourth of that.
    """
    highlighted = []
    for frame, share in zip(frames, np.sqrt(_grid(attention) / attention.max()), strict=True):
        height, width = frame.shape[:2]
        spots = Image.fromarray(share.astype(np.float32), mode="F")
        clear = np.asarray(spots.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
        clear = MIN_VISIBILITY + (1 - MIN_VISIBILITY) * clear[..., None]
        highlighted.append((FOG_GREY + (frame - FOG_GREY) * clear).astype(np.uint8))
    return highlighted


def attention_peak(attention: np.ndarray, times: Sequence[float] | np.ndarray) -> str:
    """The cell with the highest `attention [T, cells]`: `0:02.1, bottom left`."""
    grid = _grid(attention)
    frame, row, column = np.unravel_index(grid.argmax(), grid.shape)
    side = grid.shape[1]
    places = [ROWS[3 * int(row) // side], COLUMNS[3 * int(column) // side]]
    if "middle" in places:  # "top", "left" and "middle" say enough
        places.remove("middle")
    return f"{format_time(times[int(frame)])}, {' '.join(places)}"


def _grid(attention: np.ndarray) -> np.ndarray:
    """`[T, cells]` -> `[T, rows, columns]`: the tower's picture is a square."""
    side = round(attention.shape[1] ** 0.5)
    return attention.reshape(-1, side, side)


@dataclass(frozen=True)
class AttentionPage:
    """A video and what its slots say, as the template takes them."""

    name: str
    bundle: str
    frames: Sequence[np.ndarray]
    times: Sequence[float] | np.ndarray
    readings: Sequence[SlotReading]

    def render(self) -> str:
        """One HTML page that needs nothing else."""
        height, width = self.frames[0].shape[:2]
        size = (PAGE_WIDTH, max(1, round(PAGE_WIDTH * height / width)))
        small = [_resized(frame, size) for frame in self.frames]
        return _template().render(
            page=self, small=small, strip=_strip, lit=highlight_attention, where=attention_peak
        )


def _resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


def _strip(frames: Sequence[np.ndarray]) -> str:
    """Frames of one size side by side, as a data URL."""
    file = io.BytesIO()
    Image.fromarray(np.concatenate([np.pad(f, ((0, 0), (1, 1), (0, 0))) for f in frames], 1)).save(
        file, "JPEG", quality=QUALITY
    )
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"clock": format_time, "percent": lambda share: f"{100 * share:.0f}%"}
    return environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
