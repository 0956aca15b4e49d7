"""A chat's conversation with its settings: what a line of input and a slash command work on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gguf_tools.errors import ReellamaError
from pipeline.chat.conversation import Answer
from pipeline.chat.video_chat import VideoChat
from pipeline.cli.answer_printer import remark, show
from pipeline.cli.console import add_video, err, note, summary
from pipeline.cli.filmstrip import Strip
from pipeline.cli.line_input import data_dir
from pipeline.cli.options import AnswerOptions
from pipeline.llm.engine import Token

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
