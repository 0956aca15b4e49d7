"""Soft tokens as tables for the terminal: their words, and where they attend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reellama.gguf_tools.errors import ReellamaError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from reellama.models.projector.interpretation import SlotReading
    from reellama.pipeline.video.clip import Clip

MIN_SHARE = 0.001  # a word's share of a soft token that is worth a mention


def slot_table(readings: Sequence[SlotReading], clip: Clip, *, everything: bool) -> Table:
    """A row for each slot that says something, or for every slot. A free token says something where
    its word is another than those above it."""
    from rich.table import Table
    from rich.text import Text

    from reellama.models.projector.interpretation import FREE_SLOT
    from reellama.pipeline.cli.attention_page import attention_peak
    from reellama.pipeline.cli.console import confidence_color, strip_control

    grid = Table("tokens", "slot", "says", "sure", "looks most at", box=None, pad_edge=False)
    grid.columns[3].justify = "right"
    if not any(reading.label for reading in readings):
        grid.columns[1].header = ""
    texts: set[str] = set()
    for reading in readings:
        repeats = reading.label == FREE_SLOT and reading.text in texts
        if everything or (reading.text and not repeats):
            texts.add(reading.text)
            attention = reading.attention
            peak = "" if attention is None else attention_peak(attention, clip.times)
            words = Text(
                strip_control(reading.text) or "(nothing)", confidence_color(reading.confidence)
            )
            grid.add_row(
                reading.token_range,
                reading.label,
                words,
                f"{reading.confidence:.0%}",
                Text(peak, "dim"),
            )
    silent = len(readings) - grid.row_count
    if silent:
        grid.caption = f"{silent} more say nothing new (--all)"
        grid.caption_justify = "left"
    return grid


def show_token(clip: Clip, readings: Sequence[SlotReading], number: int, to: Console) -> None:
    """One soft token: its words, and the frames with its attention. Raises ReellamaError."""
    from rich.text import Text

    from reellama.pipeline.cli.attention_page import attention_peak, highlight_attention
    from reellama.pipeline.cli.console import strip_control
    from reellama.pipeline.cli.filmstrip import Filmstrip, can_draw
    from reellama.pipeline.video.timestamps import format_time

    tokens = {token.number: (token, reading) for reading in readings for token in reading.tokens}
    if number not in tokens:
        raise ReellamaError(f"there is no soft token {number}: they go from 0 to {max(tokens)}")
    token, reading = tokens[number]
    likely = [pair for pair in token.words if pair[1] >= MIN_SHARE] or token.words[:1]
    words = [f"{strip_control(word.strip()) or '(nothing)'} {share:.1%}" for word, share in likely]
    label = f" ({reading.label})" if reading.label else ""
    to.print(Text(f"soft token {number}{label}: {', '.join(words)}"))
    if token.attention is None:
        to.print("It looks at all of the video alike.")
        return
    if can_draw(to):
        to.print(
            Filmstrip(
                highlight_attention(clip.frames, token.attention), list(clip.times), whole=True
            )
        )
    else:
        shares = zip(clip.times, token.attention.sum(1), strict=True)
        to.print(Text("  ".join(f"{format_time(time)} {share:.0%}" for time, share in shares)))
    to.print(Text(f"It looks most at {attention_peak(token.attention, clip.times)}."))
