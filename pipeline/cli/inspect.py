"""`reellama inspect`: what the soft tokens of a video say, and where they look."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from gguf_tools.errors import ReellamaError
from pipeline.cli.options import FrameOptions

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from models.inspection import Field
    from pipeline.frames import Clip

LEAST = 0.001  # a word's share of a soft token that is worth a mention


@dataclass(frozen=True)
class InspectOptions:
    """Which bundle looks, and how what it sees is shown."""

    bundle: Annotated[
        str, Option(metavar="NAME|DIR", help="Whose tower and projector look at the video.")
    ] = "mini"
    token: Annotated[
        int | None, Option(min=0, metavar="N", help="Soft token N: its words, and where it looks.")
    ] = None
    all: Annotated[bool, Option("--all", help="Also what says nothing.")] = False
    html: Annotated[
        Path | None, Option(metavar="FILE", help="Write a page: all of them, with pictures.")
    ] = None
    json: Annotated[bool, Option("--json", help="One JSON object, attention included.")] = False


def run(video: Path, frames: FrameOptions, how: InspectOptions) -> None:
    """Look at `video` and show what is said of it. No LLM is loaded, only its words."""
    from gguf_tools.files import write_atomically
    from models.bundle import Bundle
    from models.inspection import inspect
    from pipeline.cli.display import note, out, reading_bar
    from pipeline.inspection import Page
    from pipeline.strip import Strip

    bundle = Bundle.load(how.bundle)
    with reading_bar(video) as report:
        clip = frames.reading().clip(video, bundle.frames, report)
        fields = inspect(bundle, bundle.features(clip.frames), clip.times)
    for remark in clip.notes:
        note(f"{video.name}: {remark}")
    if how.html:
        page = Page(video.name, bundle.config.name, clip.frames, clip.times, fields)
        write_atomically(how.html, page.write())
    if how.json:
        print_json(video, bundle.config.name, clip, fields)
    elif how.token is not None:
        show_token(clip, fields, how.token, out)
    elif not how.html:
        out.print(Strip(clip.frames, list(clip.times)))
        out.print(table(fields, clip, everything=how.all))


def print_json(video: Path, bundle: str, clip: Clip, fields: Sequence[Field]) -> None:
    """One object on stdout, for programs."""
    data = {
        "video": str(video),
        "bundle": bundle,
        "frames": [round(float(time), 6) for time in clip.times],
        "fields": [field.to_json() for field in fields],
    }
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")


def table(fields: Sequence[Field], clip: Clip, *, everything: bool) -> Table:
    """A row for each field that says something, or for each."""
    from rich.table import Table
    from rich.text import Text

    from pipeline.cli.display import clean, sureness
    from pipeline.inspection import where

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

    from pipeline.cli.display import clean
    from pipeline.inspection import lit, where
    from pipeline.strip import Strip, can_draw, clock

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
