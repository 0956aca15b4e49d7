"""`reellama chat`: questions and slash commands, one line after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from typer import Exit

from gguf_tools.errors import ReellamaError
from pipeline.chat import Answer
from pipeline.cli import commands
from pipeline.cli.answer import remark, show
from pipeline.cli.display import add_video, err, note, summary
from pipeline.cli.main import complain
from pipeline.cli.options import AnswerOptions, FrameOptions, ModelOptions
from pipeline.cli.prompt import data_dir, is_interactive, no_echo, read_lines
from pipeline.engine import Token
from pipeline.strip import Strip
from pipeline.video_chat import VideoChat

LAST = "last-conversation.json"


@dataclass
class Session:
    """A conversation in a terminal or a pipe, with the settings that `/set` changes."""

    talk: VideoChat
    options: AnswerOptions
    probs: bool = False
    interactive: bool = True
    tokens: list[Token] = field(default_factory=list)  # of the last answer
    done: bool = False
    _autosave: bool = True

    def ask(self, question: str) -> None:
        """Answer a question."""
        self.answer(self.talk.stream(question, **self.options.generation()))

    def answer(self, answer: Answer) -> None:
        """Show an answer as it comes. Ctrl-C ends it, and what there is of it is kept."""
        self.tokens = []
        try:
            show(answer, self.tokens, probs=self.probs)
            remark(self.talk, self.options.max_tokens)
            self.talk.chat.read_ahead()
        finally:
            self._save_for_later()

    def add(self, path: Path) -> None:
        """Look at one more video and show what was seen."""
        video = add_video(self.talk, path)
        note(summary(video))
        err.print(Strip(video.clip.frames, list(video.clip.times)))
        self.talk.chat.read_ahead()

    def last_conversation(self) -> Path:
        """Where the conversation is kept after every answer, for `/load` without a path."""
        return data_dir() / LAST

    def _save_for_later(self) -> None:
        if not (self.interactive and self._autosave and self.talk.turns):
            return
        try:
            self.talk.save(self.last_conversation())
        except (ReellamaError, OSError) as error:
            self._autosave = False
            note(f"this conversation is not kept for /load: {error}")


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
    answer.generation()  # a wrong grammar file is told before anything is loaded
    with model.open(frames) as talk:
        talk.chat.on_drop = _tell_dropped
        session = Session(talk, answer, probs, interactive=is_interactive())
        for path in videos:
            session.add(path)
        try:
            talk.check_llm()
        except ReellamaError as error:  # it may come while the person types
            complain(str(error))
        if session.interactive and not videos:
            note("No video yet: /add FILE looks at one. /help lists the commands.")
        for line in read_lines([f"/{name}" for name in commands.COMMANDS]):
            try:
                with _ctrl_c_stops_only_this(session), no_echo():
                    take(session, line)
            except ReellamaError as error:
                complain(str(error))
                failed = True
            if session.done:
                break
    if failed and not session.interactive:
        raise Exit(1)


def take(session: Session, line: str) -> None:
    """Do what one line says: a command, a question, or nothing."""
    line = line.strip()
    if line.startswith("/"):
        commands.run(session, line)
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


def _tell_dropped(n: int) -> None:
    note(f"the context is full: the oldest {n} turn{'s' * (n > 1)} left it, the video stays")
