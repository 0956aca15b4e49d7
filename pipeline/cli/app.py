"""What can be typed: the commands and their options. The modules that they import do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option, Typer

from pipeline.cli.options import AnswerOptions, FrameOptions, ModelOptions, grouped

app = Typer(
    help="Chat with a video on your own machine, through one small GGUF model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # drawing help with rich costs half of the time that --help may take
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Videos = Annotated[
    list[Path], Argument(metavar="VIDEO", help="Video, picture, or folder of pictures.")
]
Json = Annotated[bool, Option("--json", help="One JSON object; the text is its `answer`.")]
Probs = Annotated[bool, Option("--probs", help="Colour tokens: red is unsure, green is sure.")]
TimingsFlag = Annotated[bool, Option("--timings", help="Where the time went, on stderr.")]


@app.callback(invoke_without_command=True)
def reellama(
    version: Annotated[bool, Option("--version", help="Print the version.")] = False,
) -> None:
    """Options before the command."""
    if version:
        from importlib.metadata import version as installed

        print(f"reellama {installed('reellama')}")  # noqa: T201  # what was asked for
        raise Exit


@app.command(no_args_is_help=True)
@grouped
def ask(
    videos: Videos,
    question: Annotated[
        str, Argument(metavar="QUESTION", help="The question; - reads it from stdin.")
    ],
    frames: FrameOptions,
    model: ModelOptions,
    answer: AnswerOptions,
    *,
    json: Json = False,
    probs: Probs = False,
    timings: TimingsFlag = False,
) -> None:
    """Ask one question about a video; the answer comes on stdout."""
    from pipeline.cli.ask import Output, run

    run(videos, question, frames, model, answer, Output(json, probs, timings))


@app.command(no_args_is_help=True)
@grouped
def describe(
    videos: Videos,
    frames: FrameOptions,
    model: ModelOptions,
    answer: AnswerOptions,
    *,
    json: Json = False,
    probs: Probs = False,
    timings: TimingsFlag = False,
) -> None:
    """Say what a video shows."""
    from pipeline.cli.ask import Output, run

    run(videos, None, frames, model, answer, Output(json, probs, timings))


@app.command()
@grouped
def chat(
    videos: Annotated[
        list[Path] | None,
        Argument(metavar="VIDEO", help="Videos, pictures, or folders of pictures."),
    ] = None,
    *,
    frames: FrameOptions,
    model: ModelOptions,
    answer: AnswerOptions,
    probs: Probs = False,
) -> None:
    """Talk about videos. Type /help inside for the commands; questions can also come in a pipe."""
    from pipeline.cli.chat import run

    run(videos or [], frames, model, answer, probs=probs)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what is installed, what this machine can do, and how to mend the rest."""
    from pipeline.cli.doctor import run

    run(as_json=json)
