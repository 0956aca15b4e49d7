"""`reellama timeline` and `reellama search`: long videos, and moments that fit some words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import BadParameter, Option

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.locate.naming import OLLAMA_PREFIX
from reellama.models.token_pooling.options import AUTO, DEFAULT_TOKENS, PoolingOptions
from reellama.pipeline.cli.arguments.typed_text import typed_text
from reellama.pipeline.cli.options import BundleOption, MmprojOption, PoolingOption, subtitle_mode

if TYPE_CHECKING:
    from reellama.pipeline.llm.ollama_model import OllamaModel
    from reellama.pipeline.long_video.timeline import LongVideo, Timeline
    from reellama.pipeline.long_video.video_index import SearchMatch
    from reellama.pipeline.progress_callbacks import StepProgress
    from reellama.pipeline.video.source import FrameSource

FORMAT_BY_SUFFIX = {".txt": "text", ".json": "json", ".srt": "srt", ".vtt": "vtt", ".md": "md"}


def _form(value: str | None) -> str | None:
    if value is not None and value not in FORMAT_BY_SUFFIX.values():
        raise BadParameter(f"{value!r} is not one of {', '.join(FORMAT_BY_SUFFIX.values())}")
    return value


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
        Option("--format", callback=_form, metavar="FORM", help="text, json, srt, vtt or md."),
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
        Option(metavar="auto|off", callback=subtitle_mode, help="Those in or beside it."),
    ] = "auto"
    scenes: Annotated[int, Option(min=1, metavar="N", help="At most N scenes.")] = 300
    shortest: Annotated[
        float, Option(min=0.1, metavar="SECONDS", help="No scene is shorter than this.")
    ] = 1.0


@dataclass(frozen=True)
class LongVideoOptions:
    """Which models look for moments."""

    bundle: BundleOption = "mini"
    mmproj: MmprojOption = None
    llm: Annotated[
        str | None,
        Option(metavar="GGUF|ollama:NAME", help="Another LLM, or one that retells what is seen."),
    ] = None
    threads: Annotated[int | None, Option(min=1, metavar="N", help="Processor threads.")] = None
    no_cache: Annotated[
        bool, Option("--no-cache", help="Look anew, and keep nothing of what is seen.")
    ] = False


@dataclass(frozen=True)
class SceneOptions(LongVideoOptions):
    """Which models watch scenes, and with how many tokens."""

    tokens: Annotated[
        int | None,
        Option(
            min=1,
            metavar="N",
            help=f"Tokens of a scene, for a vision GGUF (default: {DEFAULT_TOKENS}).",
        ),
    ] = None
    pooling: PoolingOption = AUTO

    def open(self) -> LongVideo:
        """The bundle and its LLM."""
        from reellama.gguf_tools.quantization.merged_llm import MERGED_LLMS
        from reellama.pipeline.long_video.timeline import LongVideo
        from reellama.pipeline.long_video.video_index import CACHE_FOLDER

        llm = None if self.ollama_model() else self.llm
        cache = None if self.no_cache else CACHE_FOLDER
        return LongVideo(
            self.bundle,
            mmproj=self.mmproj,
            llm=llm,
            pooling=PoolingOptions(self.tokens, self.pooling),
            n_threads=self.threads,
            cache=cache,
            merged=MERGED_LLMS,
        )

    def ollama_model(self) -> OllamaModel | None:
        """The model of Ollama's that retells, if one was named."""
        if self.llm is None or not self.llm.startswith(OLLAMA_PREFIX):
            return None
        from reellama.pipeline.llm.ollama_model import OllamaModel

        return OllamaModel(self.llm.removeprefix(OLLAMA_PREFIX))


def timeline(video: Path, options: TimelineOptions, models: SceneOptions) -> None:
    """Write the timeline of a video, or answer a question about it. The file is opened once."""
    from reellama.pipeline.cli.console import note_footage_caveat
    from reellama.pipeline.video.clip import open_video

    form = options.form or _form_of(options.out)
    if options.thumbnails and options.out is None:
        raise BadParameter("--thumbnails needs --out: the pictures are put beside that file")
    if options.out is not None:
        _check_out(options.out, form)
    teller = models.ollama_model()
    if teller is not None:
        _ = teller.capabilities  # a server that is not there is said before an hour is watched
    with open_video(video) as source:
        with models.open() as long_video, _bars(video) as report:
            if options.ask is not None:
                found = long_video.ask(source, options.ask, report=report)
            else:
                made = long_video.timeline(
                    source,
                    most=options.scenes,
                    shortest=options.shortest,
                    subtitles=options.subtitles == "auto",
                    report=report,
                )
        note_footage_caveat(video.name or video, long_video.footage_caveat)
        if options.ask is not None:
            _print_answer(options.ask, found, teller, as_json=form == "json")
            return
        if teller is not None:
            from reellama.pipeline.long_video import summary

            made = replace(made, summary=summary.summarize_timeline(made, teller))
        _write(made, source, form, options)


def _print_answer(question: str, found: list, teller: OllamaModel | None, *, as_json: bool) -> None:
    from reellama.pipeline.cli.console import out, strip_control
    from reellama.pipeline.video.timestamps import format_time

    if as_json:
        sys.stdout.write(json.dumps([asdict(each) for each in found], ensure_ascii=False) + "\n")
    elif teller is not None:
        from reellama.pipeline.long_video import summary

        out.print(
            strip_control(summary.answer_from_scenes(question, found, teller)),
            markup=False,
            soft_wrap=True,
        )
    else:
        for each in found:
            times = f"{format_time(each.start)} - {format_time(each.end)}"
            out.print(f"{times}  {strip_control(each.text)}", markup=False, soft_wrap=True)


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


def search(
    videos: Sequence[Path], words: str, n: int, thumbnails: Path | None, as_json: bool,
    everything: bool, models: LongVideoOptions,
) -> None:  # fmt: skip
    """Print the moments that fit some words, best first; `everything`: also those that do not."""
    from reellama.models.open_bundle import open_bundle, search_bundle
    from reellama.pipeline.cli.console import note, note_footage_caveat, out, strip_control
    from reellama.pipeline.long_video import video_index
    from reellama.pipeline.video.timestamps import format_time

    if not words.strip():
        raise ReellamaError("search for what? give a few words")
    bundle = search_bundle(open_bundle(models.bundle, models.mmproj))
    seen, failed = [], 0
    for video in videos:
        with _bars(video) as report:
            try:
                seen.append(
                    video_index.index_video(
                        video,
                        bundle,
                        cache=None if models.no_cache else video_index.CACHE_FOLDER,
                        progress=lambda done, total: report("looking", done, total),
                    )
                )
            except ReellamaError as error:  # the others are searched all the same
                failed += 1
                if len(videos) == failed:
                    raise
                note(str(error))
    found = video_index.search(seen, words, bundle, n, 0.0 if everything else video_index.FITS)
    if not found:
        note(f'nothing fits "{words}"; --all shows what comes nearest')
    footage = next((index.path for index in seen if index.is_footage), None)
    if footage is not None:  # a vision model would search with the same tower
        note_footage_caveat(footage.name or footage, bundle.config.footage_limits)
    pictures = [] if thumbnails is None else _thumbnails(found, thumbnails)
    if as_json:
        rows: list[dict[str, object]] = [{**asdict(m), "path": str(m.path)} for m in found]
        for row, picture in zip(rows, pictures, strict=False):
            row["thumbnail"] = str(picture)
        sys.stdout.write(json.dumps(rows, ensure_ascii=False) + "\n")
        return
    for i, match in enumerate(found):
        shown = f"  {pictures[i]}" if pictures else ""
        line = f"{match.score:5.2f}  {format_time(match.time):>9}  {match.path}{shown}"
        out.print(strip_control(line), markup=False, soft_wrap=True)


def _thumbnails(found: Sequence[SearchMatch], folder: Path) -> list[Path]:
    """A JPEG of each match, numbered by its rank; each video is opened once for all of its own."""
    from PIL import Image

    from reellama.pipeline.video.clip import open_video, read_frames

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:02}-{match.path.stem}.jpg" for i, match in enumerate(found, 1)]
    for video in dict.fromkeys(match.path for match in found):
        with open_video(video) as source:
            for match, path in zip(found, paths, strict=True):
                if match.path == video:
                    end = match.time + 0.1
                    clip = read_frames(source, frames=1, start=match.time, end=end, max_side=320)
                    Image.fromarray(clip.frames[0]).save(path, quality=85)
    return paths


@contextmanager
def _bars(video: Path) -> Iterator[StepProgress]:
    """A progress bar for what is done just now; it leaves nothing behind."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    from reellama.pipeline.cli.console import err, shows_progress, strip_control
    from reellama.pipeline.cli.terminal.progress_bars import Bars

    name = strip_control(video.name or str(video))
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), Remaining())
    with Bars(*columns, console=err, transient=True, disable=not shows_progress()) as bars:
        tasks: dict[str, int] = {}

        def report(doing: str, done: float, total: float) -> None:
            if doing not in tasks:
                tasks[doing] = bars.add_task(f"{doing} {name}", total=None)
            bars.update(tasks[doing], completed=done, total=total or None)  # type: ignore[arg-type]

        yield report
