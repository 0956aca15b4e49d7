"""`reellama inspect`: what the soft tokens of a video say, and where they look."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from reellama.pipeline.cli.options import FrameOptions

if TYPE_CHECKING:
    from reellama.models.projector.interpretation import SlotReading
    from reellama.pipeline.video.clip import Clip
from reellama.pipeline.cli.token_tables import show_token, slot_table

NO_WORDS = (
    "its soft tokens are no words, so there is nothing to read; inspect is for trained bundles, "
    "and `gguf inspect` tells what the files hold"
)


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
    force: Annotated[bool, Option("--force", help="Replace a page that exists.")] = False
    json: Annotated[bool, Option("--json", help="One JSON object, attention included.")] = False


def run(video: Path, frames: FrameOptions, options: InspectOptions) -> None:
    """Look at `video` and show what is said of it. No LLM is loaded, only its words."""
    from reellama.gguf_tools.atomic_write import check_new, check_writable, write_atomically
    from reellama.models.open_bundle import trained_bundle
    from reellama.pipeline.cli.attention_page import AttentionPage
    from reellama.pipeline.cli.console import note, out, reading_bar
    from reellama.pipeline.cli.filmstrip import Filmstrip
    from reellama.pipeline.video.clip import read_frames

    if options.html:
        check_new(options.html, force=options.force)
        check_writable(options.html)
    bundle = trained_bundle(options.bundle, NO_WORDS)
    with reading_bar(video) as report:
        read_options = frames.read_options().for_bundle(bundle)
        clip = read_frames(video, read_options, progress=report)
        readings = bundle.interpret(bundle.features(clip.frames), clip.times)
    for line in clip.notes:
        note(f"{video.name}: {line}")
    if options.html:
        page = AttentionPage(video.name, bundle.config.name, clip.frames, clip.times, readings)
        write_atomically(options.html, page.render())
        note(f"{options.html}: {len(readings)} soft tokens")
    if options.json:
        print_json(video, bundle.config.name, clip, readings)
    elif options.token is not None:
        show_token(clip, readings, options.token, out)
    elif not options.html:
        out.print(Filmstrip(clip.frames, list(clip.times)))
        out.print(slot_table(readings, clip, everything=options.all))


def print_json(video: Path, bundle: str, clip: Clip, readings: Sequence[SlotReading]) -> None:
    """One object on stdout, for programs."""
    data = {
        "video": str(video),
        "bundle": bundle,
        "frames": [round(float(time), 6) for time in clip.times],
        "fields": [reading.to_json() for reading in readings],
    }
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
