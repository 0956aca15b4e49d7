"""What both `ask` and `chat` show around an answer. Answers go to stdout, all else to stderr."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleDimensions
from rich.table import Table
from rich.text import Text

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.chat.timings import Timings, peak_memory
from reellama.pipeline.cli.arguments.verbosity import is_quiet, is_verbose
from reellama.pipeline.cli.terminal.terminal_memory import is_new_here
from reellama.pipeline.video.timestamps import format_time

if TYPE_CHECKING:  # commands about GGUF files need not wait until torch is loaded
    from rich.live import Live

    from reellama.pipeline.chat.conversation import Video
    from reellama.pipeline.chat.video_chat import VideoChat
    from reellama.pipeline.llm.engine import Token
    from reellama.pipeline.progress_callbacks import Progress as FrameProgress


PIPE_WIDTH = 100_000  # columns: where no terminal is, nothing is wrapped or cut
BLANKS_BEFORE_NEWLINE = re.compile(r"[ \t]+(?=\n)")


class _OutputConsole(Console):
    """A console that knows the progress bar that it drew last, and writes plain lines into pipes.

    In a file or a pipe a line stays a line, however long and whatever COLUMNS says, and has no
    blanks at its end: programs read it.
    """

    bar: Live | None = None

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        size = super().size
        return size if self.is_terminal else ConsoleDimensions(PIPE_WIDTH, size.height)

    @size.setter
    def size(self, size: tuple[int, int]) -> None:
        self._width, self._height = size

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does."""
        if self.is_terminal:
            super().print(*objects, **options)
            return
        with self.capture() as captured:
            super().print(*objects, **options)
        self.file.write(BLANKS_BEFORE_NEWLINE.sub("", captured.get()))
        self.file.flush()

    def set_live(self, live: Live) -> bool:
        """Called by what is drawn."""
        self.bar = live
        return super().set_live(live)


# In the names of files and models `[b]` is no markup, and `:dog:` no emoji.
out = _OutputConsole(highlight=False, markup=False, emoji=False)
err = _OutputConsole(stderr=True, highlight=False, markup=False, emoji=False)


def end_bar() -> None:
    """Take away a progress bar that its `with` did not end.

    Ctrl-C may come between the call that begins to draw and the block that would end it.
    """
    if err.bar is not None:
        err.bar.stop()  # does nothing the second time


def note(message: str) -> None:
    """Say something beside the answer, unless --quiet was asked for."""
    if not is_quiet():
        say(message)


def note_footage_caveat(path: Path, caveat: str) -> None:
    """Say what a bundle cannot tell of a video, unless it is "", once in a terminal."""
    if caveat and is_new_here(caveat):
        note(f"{path.name or path}: {caveat}")


def detail(message: str) -> None:
    """Say something that only --verbose asks for."""
    if is_verbose():
        say(message)


def say(message: str) -> None:
    """Say on stderr what was asked for."""
    # In a file or a pipe a line stays a line, however long.
    err.print(Text(strip_control(message), "dim"), soft_wrap=not err.is_terminal)


def strip_control(text: str) -> str:
    """`text` without control characters: names of files and models must not drive the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def shows_progress() -> bool:
    """Whether progress is drawn: on a terminal, unless --quiet was asked for."""
    return err.is_terminal and not is_quiet()


@contextmanager
def reading_bar(path: Path) -> Iterator[FrameProgress]:
    """A progress bar while frames of `path` are read and looked at; it leaves nothing behind."""
    if not shows_progress():  # nobody waits for the import of the bar
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    from reellama.pipeline.cli.terminal.progress_bars import Bars

    name = strip_control(path.name or str(path))
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, console=err, transient=True) as bars:
        task = bars.add_task(f"reading {name}", total=None)

        def report(done: float, total: float) -> None:
            doing = "looking at" if done == total else "reading"
            bars.update(task, completed=done, total=total, description=f"{doing} {name}")

        yield report


def add_video(video_chat: VideoChat, path: Path) -> Video:
    """Look at a video with a progress bar, and pass on what there is to say about it."""
    with reading_bar(path) as report:
        video = video_chat.add(path, report)
    for line in video.clip.notes:
        note(f"{path.name or path}: {line}")
    times = ", ".join(format_time(float(time)) for time in video.clip.times)
    detail(f"{video_summary(video)}; frames at {times}")
    return video


def merge_adapter(video_chat: VideoChat) -> None:
    """Merge the bundle's adapter into its LLM, once, so that the next answers come sooner.

    Ctrl-C, a full disk and the like leave everything as it was.
    """
    if not video_chat.has_adapter_beside:  # no spinner for nothing
        return
    from reellama.pipeline.cli.terminal.progress_bars import Spinner

    merging = Spinner("[dim]merging the adapter", console=err)
    with suppress(ReellamaError, KeyboardInterrupt), merging:
        if video_chat.merge_adapter():
            note("the adapter is now merged into the LLM: answers come sooner from here on")


def video_summary(video: Video) -> str:
    """One line about a video: `holiday.mp4: 1:02.0, 8 frames, 24 soft tokens`."""
    clip = video.clip
    length = [format_time(clip.duration)] if clip.duration else []
    n = len(clip.frames)
    counts = [f"{n} frame{'s' * (n != 1)}", f"{video.n_soft_tokens} soft tokens"]
    return f"{strip_control(str(video.path))}: {', '.join(length + counts)}"


def timings_table(timings: Timings) -> Table:
    """A table of what each stage of a question took."""
    t = timings
    table = Table("stage", "seconds", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    rows = [
        ("load", t.load, "bundle and LLM, while frames are read"),
        ("read", t.read, f"{t.n_frames} frames"),
        ("tower", t.tower, "its load included"),
        (
            "projector",
            t.projector,
            f"{t.n_soft_tokens} soft tokens" + (t.pooling and f": {t.pooling}"),
        ),
        ("prefill", t.prefill, f"{t.n_prompt} positions, {t.n_reused} of them in the cache"),
        ("first token", t.first_token, "after the question, prefill included"),
        ("generate", t.generate, f"{t.n_generated} tokens, {t.tokens_per_second:.1f} tokens/s"),
    ]
    for stage, seconds, explanation in rows:
        table.add_row(stage, f"{seconds:.3f}", Text(explanation, "dim"))
    table.add_row("peak memory", f"{peak_memory() / 2**20:.0f}", Text("MiB", "dim"))
    return table


def confidence_color(p: float) -> str:
    """A colour from red (p = 0) over yellow to green (p = 1)."""
    return f"rgb({round(220 * min(1, 2 - 2 * p))},{round(190 * min(1, 2 * p))},40)"


def alternatives_table(tokens: list[Token]) -> Table:
    """Each token of an answer with its probability, and what the model would have said instead."""
    table = Table("token", "p", "instead of it", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    table.columns[2].no_wrap = True
    for token in tokens:
        others = [a for a in token.alternatives if a[0] != token.text]
        instead = "  ".join(f"{_visible(text)} {p:.0%}" for text, p in others if p >= 0.005)
        table.add_row(
            Text(_visible(token.text), confidence_color(token.p)),
            f"{token.p:.0%}",
            Text(instead, "dim"),
        )
    return table


def _visible(text: str) -> str:
    return strip_control(text.strip(" ").replace("\n", "\\n").replace("\t", "\\t")) or "' '"
