"""The commands that answer, `ask` and `describe`, by themselves.

A person waits for the first word. To make all the commands of `app.py` takes as long as to load a
small LLM, so these two are made without the others where one of them was typed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from reellama.pipeline.cli.arguments.grouped_command import GROUPED, SETTINGS
from reellama.pipeline.cli.arguments.option_groups import grouped
from reellama.pipeline.cli.arguments.typed_text import typed_text
from reellama.pipeline.cli.options import AnswerOptions, FrameOptions, ModelOptions
from reellama.pipeline.video.piped_videos import as_files

Videos = Annotated[
    list[Path],
    Argument(
        metavar="VIDEO...",
        help="Videos, pictures, or folders of pictures; - reads a video from stdin.",
        callback=as_files,
    ),
]
Json = Annotated[bool, Option("--json", help="One JSON object; the text is its `answer`.")]
JsonLines = Annotated[
    bool, Option("--json", help="A JSON object for each video; the text is its `answer`.")
]
BESIDE = "How much is said beside the answer"
Probs = Annotated[
    bool,
    Option("--probs", help="Colour tokens: red is unsure, green is sure.", rich_help_panel=BESIDE),
]
TimingsFlag = Annotated[
    bool, Option("--timings", help="Where the time went, on stderr.", rich_help_panel=BESIDE)
]
NoServer = Annotated[
    bool,
    Option(
        "--no-server",
        help="Answer here, also where `reellama serve` runs already.",
        rich_help_panel="Which model answers, and how it is run",
    ),
]

answers = Typer(**SETTINGS)


@answers.command(**GROUPED)
@grouped
def ask(
    videos: Videos,
    question: Annotated[
        str,
        Argument(
            metavar="QUESTION", callback=typed_text, help="The question; - reads it from stdin."
        ),
    ],
    frames: FrameOptions,
    model: ModelOptions,
    answer: AnswerOptions,
    *,
    json: Json = False,
    probs: Probs = False,
    timings: TimingsFlag = False,
    no_server: NoServer = False,
) -> None:
    """Ask one question about videos; the answer comes on stdout."""
    output = (json, probs, timings)
    _answer(videos, question, frames, model, answer, output, no_server=no_server)


@answers.command(**GROUPED)
@grouped
def describe(
    videos: Videos,
    frames: FrameOptions,
    model: ModelOptions,
    answer: AnswerOptions,
    *,
    json: JsonLines = False,
    probs: Probs = False,
    timings: TimingsFlag = False,
    no_server: NoServer = False,
) -> None:
    """Say what each video shows."""
    output = (json, probs, timings)
    _answer(videos, None, frames, model, answer, output, no_server=no_server)


def _answer(
    videos: list[Path],
    question: str | None,
    frames: FrameOptions,
    model: ModelOptions,
    answer: AnswerOptions,
    output: tuple[bool, bool, bool],
    *,
    no_server: bool,
) -> None:
    """Answer by a server that runs, or here; no question asks for a description.

    output: whether as JSON, with probabilities and with timings, which a server does not give.
    """
    if not (no_server or any(output)):
        from reellama.pipeline.cli.commands.ask_server import answer_by_server

        if answer_by_server(videos, question, frames, model, answer):
            return
    from reellama.pipeline.cli.commands.ask import OutputOptions, run

    run(videos, question, frames, model, answer, OutputOptions(*output))
