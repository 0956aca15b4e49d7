"""What can be typed: the commands and their options. The modules that they import do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option, Typer

from reellama.pipeline.cli.answer_commands import Probs, Videos, ask, describe
from reellama.pipeline.cli.arguments.checks import checked_by, one_of
from reellama.pipeline.cli.arguments.grouped_command import GROUPED, SETTINGS, GroupedCommand
from reellama.pipeline.cli.arguments.option_groups import grouped
from reellama.pipeline.cli.arguments.typed_text import typed_text
from reellama.pipeline.cli.commands import gguf, ollama
from reellama.pipeline.cli.commands.evaluate_options import QuestionOptions, RunOptions
from reellama.pipeline.cli.commands.inspect_video import InspectOptions
from reellama.pipeline.cli.commands.long_video.long_video_options import (
    LongVideoOptions,
    SceneOptions,
)
from reellama.pipeline.cli.commands.long_video.timeline import TimelineOptions
from reellama.pipeline.cli.commands.long_video.watch import WatchOptions
from reellama.pipeline.cli.commands.serve import ListenOptions, LogLevel, ServedModelOptions, Unit
from reellama.pipeline.cli.options import (
    AnswerOptions,
    FrameOptions,
    ModelOptions,
    SamplingOptions,
    TokenOptions,
)
from reellama.pipeline.video.piped_videos import as_files

app = Typer(
    help="Chat with a video on your own machine, through one small GGUF model.",
    no_args_is_help=True,
    **SETTINGS,
)

app.add_typer(gguf.app, name="gguf")
app.add_typer(ollama.app, name="ollama")


@app.callback(invoke_without_command=True)
def reellama(
    version: Annotated[bool, Option("--version", help="Print the version.")] = False,
) -> None:
    """Options before the command."""
    if version:
        from importlib.metadata import version as installed

        print(f"reellama {installed('reellama')}")  # noqa: T201  # what was asked for
        raise Exit


app.command(**GROUPED)(ask)
app.command(**GROUPED)(describe)


@app.command(cls=GroupedCommand)
@grouped
def chat(
    videos: Annotated[
        list[Path] | None,
        Argument(
            metavar="VIDEO...", help="Videos, pictures, or folders of pictures.", callback=as_files
        ),
    ] = None,
    *,
    frames: FrameOptions,
    model: ModelOptions,
    answer: AnswerOptions,
    probs: Probs = False,
) -> None:
    """Talk about videos. Type /help inside for the commands; questions can also come in a pipe."""
    from reellama.pipeline.cli.commands.chat import run

    run(videos or [], frames, model, answer, probs=probs)


@app.command(**GROUPED)
@grouped
def timeline(
    video: Annotated[
        Path, Argument(metavar="VIDEO", help="A video, however long.", callback=as_files)
    ],
    *,
    options: TimelineOptions,
    models: SceneOptions,
) -> None:
    """Say scene by scene what a long video shows, or find the scenes that answer a question."""
    from reellama.pipeline.cli.commands.long_video.timeline import run

    run(video, options, models)


@app.command(**GROUPED)
@grouped
def watch(
    folder: Annotated[Path, Argument(metavar="DIR", help="A folder of videos.")],
    *,
    options: WatchOptions,
    models: SceneOptions,
) -> None:
    """Write a sidecar (JSON and SRT) beside each new video of a folder. Workers can share it."""
    from reellama.pipeline.cli.commands.long_video.watch import run

    run(folder, options, models)


@app.command(**GROUPED)
@grouped
def search(
    videos: Videos,
    words: Annotated[
        str,
        Argument(metavar="TEXT", callback=typed_text, help="What to look for, in a few words."),
    ],
    models: LongVideoOptions,
    *,
    n: Annotated[int, Option("-n", min=1, metavar="N", help="How many moments.")] = 5,
    thumbnails: Annotated[
        Path | None, Option(metavar="FOLDER", help="Write a picture of each moment there.")
    ] = None,
    everything: Annotated[
        bool, Option("--all", help="Also moments that fit no better than many words would.")
    ] = False,
    json: Annotated[bool, Option("--json", help="A JSON list.")] = False,
) -> None:
    """Find the moments of videos that fit some words: score, time and file."""
    from reellama.pipeline.cli.commands.long_video.search import run

    run(videos, words, n, thumbnails, json, everything, models)


@app.command(**GROUPED)
@grouped
def inspect(
    video: Annotated[
        Path,
        Argument(metavar="VIDEO", help="Video, picture, or folder of pictures.", callback=as_files),
    ],
    *,
    frames: FrameOptions,
    options: InspectOptions,
) -> None:
    """Show what each soft token of a video says, and which frames and regions it looks at."""
    from reellama.pipeline.cli.commands.inspect_video import run

    run(video, frames, options)


@app.command()
def doctor(
    json: Annotated[bool, Option("--json", help="One JSON object.")] = False,
    speed: Annotated[
        bool, Option("--speed", help="How fast this machine is, and what to change.")
    ] = False,
) -> None:
    """Say what is installed, what this machine can do, and how to mend the rest."""
    from reellama.pipeline.cli.commands.doctor.doctor import run

    run(as_json=json, speed=speed)


@app.command()
def cache(
    action: Annotated[
        str, Argument(metavar="[show|clear]", help="Say what is kept, or remove it.")
    ] = "show",
) -> None:
    """Show or empty what is kept for the next time: videos that were seen, merged LLMs and such."""
    from reellama.pipeline.cli.commands.cache import run

    run(action)


@checked_by
def _check_steps(text: str) -> None:
    from reellama.pipeline.cli.commands.train import parse_steps

    parse_steps(text)


@app.command(no_args_is_help=True)
def train(
    config: Annotated[Path, Argument(metavar="CONFIG", help="A TOML file; see models/configs.")],
    out: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            help="Folder of the bundle, or of one for each stage (default: its name).",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        Option(metavar="FILE", help="JSONL or CSV: video, and caption or question and answer."),
    ] = None,
    work: Annotated[
        Path | None, Option(metavar="DIR", help="Folder of features and checkpoints.")
    ] = None,
    projector: Annotated[
        str | None,
        Option(
            metavar="KIND",
            callback=one_of("resampler", "mean", "frame"),
            help="resampler, mean or frame.",
        ),
    ] = None,
    assets: Annotated[Path | None, Option(metavar="DIR", help="Folder of picture sets.")] = None,
    steps: Annotated[
        str | None,
        Option(
            metavar="N,N,N",
            callback=_check_steps,
            help="Steps of the three phases on captions, as 500,200,100.",
        ),
    ] = None,
    stage: Annotated[
        str | None, Option(metavar="NAME", help="Train this one of the config's stages.")
    ] = None,
    processes: Annotated[
        int | None,
        Option(min=1, metavar="N", help="That share each step, in place of what a stage says."),
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Say what would be trained from what, and train nothing.")
    ] = False,
) -> None:
    """Train a bundle by a config. The same command goes on where a stopped one was."""
    from reellama.pipeline.cli.commands.train import ConfigOverrides, StageChoice, run

    changes, choice = ConfigOverrides(data, projector, steps), StageChoice(stage, processes)
    run(config, out, work, assets, changes, choice, dry_run)


@app.command(name="export-graphs")
def export_graphs(
    bundle: Annotated[str, Argument(metavar="BUNDLE", help="A bundle's name or folder.")],
) -> None:
    """Write a bundle's networks as ONNX beside their weights, for a quick start without torch."""
    from reellama.pipeline.cli.commands.export_graphs import run

    run(bundle)


@app.command(name="eval", cls=GroupedCommand)
@grouped
def evaluate(
    bundle: Annotated[str, Argument(metavar="BUNDLE", help="A bundle's name or folder.")] = "mini",
    *,
    questions: QuestionOptions,
    options: RunOptions,
) -> None:
    """Measure a bundle: descriptions of clips that it never saw, or questions with answers."""
    from reellama.pipeline.cli.commands.evaluate import run

    run(bundle, questions, options)


@app.command(cls=GroupedCommand)
@grouped
def serve(
    listen: ListenOptions,
    serving: ServedModelOptions,
    frames: SamplingOptions,
    tokens: TokenOptions,
    *,
    log_level: LogLevel = "info",
    unit: Unit = None,
) -> None:
    """Answer clients of Ollama, OpenAI and Anthropic, with videos. REELLAMA_TOKEN asks for one."""
    from reellama.pipeline.cli.commands.serve import run

    run(listen, serving, frames, tokens, log_level, unit)


@app.command()
def demo_video(
    path: Annotated[Path, Argument(metavar="PATH", help="The MP4 that is written.")],
    kind: Annotated[
        str, Option(metavar="NAME", help="What moves: red star, or dog with [train].")
    ] = "red star",
    motion: Annotated[
        str, Option(metavar="WORDS", help="What it does, such as moves right.")
    ] = "moves right",
    force: Annotated[bool, Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Draw a short video to try things on."""
    from reellama.pipeline.cli.commands.demo_video import run

    run(path, kind, motion, force=force)
