"""`reellama timeline`: what a long video shows, scene by scene."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import BadParameter, Option

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.cli.arguments.checks import one_of
from reellama.pipeline.cli.arguments.typed_text import typed_text
from reellama.pipeline.cli.commands.long_video.long_video_options import SceneOptions
from reellama.pipeline.cli.options import check_subtitles

if TYPE_CHECKING:
    from reellama.pipeline.llm.ollama_model import OllamaModel
    from reellama.pipeline.long_video.timeline import Timeline
    from reellama.pipeline.video.source import FrameSource

FORMAT_BY_SUFFIX = {".txt": "text", ".json": "json", ".srt": "srt", ".vtt": "vtt", ".md": "md"}


def _form_of(out: Path | None) -> str:
    """The format that the ending of a file says; text for a terminal."""
    if out is not None and out.suffix not in FORMAT_BY_SUFFIX:
        endings = ", ".join(FORMAT_BY_SUFFIX)
        raise BadParameter(f"{out}: its ending is none of {endings}; or say --format")
    return "text" if out is None else FORMAT_BY_SUFFIX[out.suffix]


@dataclass(frozen=True)
class TimelineOptions:
    """How a timeline is made, and where it goes."""

    form: Annotated[
        str | None,
        Option(
            "--format",
            callback=one_of(*FORMAT_BY_SUFFIX.values()),
            metavar="FORM",
            help="text, json, srt, vtt or md.",
        ),
    ] = None
    out: Annotated[
        Path | None, Option(metavar="FILE", help="Write it there; its ending says the format.")
    ] = None
    thumbnails: Annotated[
        bool, Option("--thumbnails", help="A picture of each scene beside --out, shown in md.")
    ] = False
    ask: Annotated[
        str | None,
        Option(
            metavar="QUESTION",
            callback=typed_text,
            help="Find the scenes that it is about; answer it.",
        ),
    ] = None
    subtitles: Annotated[
        str,
        Option(metavar="auto|off", callback=check_subtitles, help="Those in or beside it."),
    ] = "auto"
    scenes: Annotated[int, Option(min=1, metavar="N", help="At most N scenes.")] = 300
    shortest: Annotated[
        float, Option(min=0.1, metavar="SECONDS", help="No scene is shorter than this.")
    ] = 1.0


def run(video: Path, options: TimelineOptions, models: SceneOptions) -> None:
    """Write the timeline of a video, or answer a question about it. The file is opened once."""
    from reellama.pipeline.cli.console import note_footage_caveat
    from reellama.pipeline.cli.progress import step_bar
    from reellama.pipeline.video.clip import open_video

    form = options.form or _form_of(options.out)
    if options.ask is not None:
        _check_question(options, form)
    if options.thumbnails and options.out is None:
        raise BadParameter("--thumbnails needs --out: the pictures are put beside that file")
    if options.out is not None:
        _check_out(options.out, form)
    teller = models.ollama_model()
    if teller is not None:
        _ = teller.capabilities  # a server that is not there is said before an hour is watched
    with open_video(video) as source:
        with models.open() as long_video, step_bar(video) as report:
            if options.ask is not None:
                answers = long_video.ask(source, options.ask, report=report)
            else:
                made = long_video.timeline(
                    source,
                    max_scenes=options.scenes,
                    min_seconds=options.shortest,
                    subtitles=options.subtitles == "auto",
                    report=report,
                )
        note_footage_caveat(video, long_video.footage_caveat)
        if options.ask is not None:
            _print_answer(options.ask, answers, teller, as_json=form == "json")
            return
        if teller is not None:
            from reellama.pipeline.long_video import summary

            made = replace(made, summary=summary.summarize_timeline(made, teller))
        _write(made, source, form, options)


def _check_question(options: TimelineOptions, form: str) -> None:
    """Raise BadParameter for an empty question, and for options that only a timeline has."""
    if not str(options.ask).strip():
        raise BadParameter("the question is empty: say what you want to know about the video")
    if options.out is not None or form not in ("text", "json"):
        raise BadParameter("--ask writes its answer to stdout, as text or json: leave out --out")


def _print_answer(
    question: str, answers: list, teller: OllamaModel | None, *, as_json: bool
) -> None:
    from reellama.pipeline.cli.console import out, strip_control
    from reellama.pipeline.video.timestamps import format_time

    if as_json:
        sys.stdout.write(
            json.dumps([asdict(answer) for answer in answers], ensure_ascii=False) + "\n"
        )
    elif teller is not None:
        from reellama.pipeline.long_video import summary

        out.print(
            strip_control(summary.answer_from_scenes(question, answers, teller)),
            markup=False,
            soft_wrap=True,
        )
    else:
        for answer in answers:
            times = f"{format_time(answer.start)} - {format_time(answer.end)}"
            out.print(f"{times}  {strip_control(answer.text)}", markup=False, soft_wrap=True)


def _check_out(out: Path, form: str) -> None:
    """Raise ReellamaError, before an hour is watched, where `--out` cannot or should not be
    written: over subtitles that somebody made."""
    from reellama.gguf_tools.atomic_write import check_writable
    from reellama.pipeline.video.subtitles import are_written_by_us

    check_writable(out)
    if form in ("srt", "vtt") and out.exists() and not are_written_by_us(out):
        raise ReellamaError(
            f"{out}: these subtitles are not by reellama; give another --out, or remove them"
        )


def _write(made: Timeline, video: FrameSource, form: str, options: TimelineOptions) -> None:
    from reellama.gguf_tools.atomic_write import write_atomically
    from reellama.pipeline.cli.console import note, strip_control
    from reellama.pipeline.long_video import timeline_formats as formats

    pictures = None
    if options.thumbnails and options.out is not None:
        folder = options.out.with_name(f"{options.out.stem}-pictures")
        paths = formats.write_thumbnails(made, video, folder)
        pictures = [f"{folder.name}/{path.name}" for path in paths]
    text = formats.to_markdown(made, pictures) if form == "md" else formats.WRITERS[form](made)
    if options.out is None:
        sys.stdout.write(strip_control(text))
    else:
        write_atomically(options.out, text)
        n = len(made.scenes)
        note(f"{options.out}: {n} scene{'s' * (n != 1)}")
    for part in made.skipped:
        note(f"not read: {part}")
