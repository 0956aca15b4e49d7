"""`reellama chat`: questions and slash commands, one line after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from typer import Exit

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.cli import slash_commands
from reellama.pipeline.cli.arguments.checks import bad_arguments
from reellama.pipeline.cli.console import note
from reellama.pipeline.cli.error_line import print_error_line
from reellama.pipeline.cli.options import AnswerOptions, FrameOptions, ModelOptions
from reellama.pipeline.cli.session import Session
from reellama.pipeline.cli.terminal.line_input import is_interactive, no_echo, read_lines
from reellama.pipeline.llm.generation_options import SamplingError


def run(
    videos: list[Path],
    frames: FrameOptions,
    model: ModelOptions,
    answer: AnswerOptions,
    *,
    probs: bool,
) -> None:
    """Talk until /bye or the end of the input. In a pipe, raises Exit(1) if any line failed."""
    failed = False
    with bad_arguments(SamplingError):
        answer.generation()  # a wrong grammar file is told before anything is loaded
    with model.open(frames, merge=True) as video_chat:
        video_chat.conversation.on_drop = _note_dropped
        session = Session(video_chat, answer, probs, interactive=is_interactive())
        for path in videos:
            session.add(path)
        try:
            video_chat.check_llm()
        except ReellamaError as error:  # it may come while the person types
            print_error_line(str(error))
        if session.interactive and not videos:
            note("No video yet: /add FILE looks at one. /help lists the commands.")
        for line in read_lines([f"/{name}" for name in slash_commands.COMMANDS]):
            try:
                with _ctrl_c_stops_only_this(session), no_echo():
                    take_line(session, line)
            except ReellamaError as error:
                print_error_line(str(error))
                failed = True
            except OSError as error:
                if error.filename is None:  # of stdout
                    raise
                print_error_line(f"{error.filename}: {error.strerror}")
                failed = True
            if session.done:
                break
    if failed and not session.interactive:
        raise Exit(1)


def take_line(session: Session, line: str) -> None:
    """Do what one line says: a command, a question, or nothing."""
    line = line.strip()
    if line.startswith("/"):
        slash_commands.run(session, line)
    elif line and not session.video_chat.videos:
        raise ReellamaError(
            "there is no video yet: /add FILE looks at one"
        )  # an LLM would invent one
    elif line:
        session.ask(line)


@contextmanager
def _ctrl_c_stops_only_this(session: Session) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if not session.interactive:
            raise
        note("stopped")


def _note_dropped(n: int) -> None:
    note(f"the context is full: the oldest {n} turn{'s' * (n > 1)} left it, the video stays")
