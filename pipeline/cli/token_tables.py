"""Soft tokens as tables for the terminal: their words, and where they attend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gguf_tools.errors import ReellamaError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from models.projector.interpretation import Field
    from pipeline.video.clip import Clip

LEAST = 0.001  # a word's share of a soft token that is worth a mention


def table(fields: Sequence[Field], clip: Clip, *, everything: bool) -> Table:
    """A row for each field that says something, or for each."""
    from rich.table import Table
    from rich.text import Text

    from pipeline.cli.attention_page import where
    from pipeline.cli.console import clean, sureness

    grid = Table("tokens", "asked", "says", "sure", "looks most at", box=None, pad_edge=False)
    grid.columns[3].justify = "right"
    if not any(field.asked for field in fields):
        grid.columns[1].header = ""
    for field in fields:
        if field.text or everything:
            looks = where(field.looks, clip.times) if field.looks is not None else ""
            said = Text(clean(field.text) or "(nothing)", sureness(field.sure))
            grid.add_row(field.numbers, field.asked, said, f"{field.sure:.0%}", Text(looks, "dim"))
    silent = sum(not field.text for field in fields)
    if silent and not everything:
        grid.caption = f"{silent} more say nothing (--all)"
        grid.caption_justify = "left"
    return grid


def show_token(clip: Clip, fields: Sequence[Field], number: int, to: Console) -> None:
    """One soft token: its words, and the frames clear where it looks. Raises ReellamaError."""
    from rich.text import Text

    from pipeline.cli.attention_page import lit, where
    from pipeline.cli.console import clean
    from pipeline.cli.filmstrip import Strip, can_draw
    from pipeline.video.timestamps import clock

    tokens = {token.number: (token, field) for field in fields for token in field.tokens}
    if number not in tokens:
        raise ReellamaError(f"there is no soft token {number}: they go from 0 to {max(tokens)}")
    token, field = tokens[number]
    likely = [pair for pair in token.words if pair[1] >= LEAST] or token.words[:1]
    words = [f"{clean(word.strip()) or '(nothing)'} {share:.1%}" for word, share in likely]
    asked = f" ({field.asked})" if field.asked else ""
    to.print(Text(f"soft token {number}{asked}: {', '.join(words)}"))
    if token.looks is None:
        to.print("It looks at all of the video alike.")
        return
    if can_draw(to):
        to.print(Strip(lit(clip.frames, token.looks), list(clip.times), whole=True))
    else:
        shares = zip(clip.times, token.looks.sum(1), strict=True)
        to.print(Text("  ".join(f"{clock(time)} {share:.0%}" for time, share in shares)))
    to.print(Text(f"It looks most at {where(token.looks, clip.times)}."))
