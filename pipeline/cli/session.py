"""A chat's conversation with its settings: what a line of input and a slash command work on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.token_pooling.options import PoolingOptions
from reellama.pipeline.chat.conversation import TokenStream
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.cli.answer_printer import print_answer, print_remarks
from reellama.pipeline.cli.arguments.verbosity import is_quiet
from reellama.pipeline.cli.console import (
    add_video,
    err,
    note,
    note_footage_caveat,
    reading_bar,
    say,
    video_summary,
)
from reellama.pipeline.cli.filmstrip import Filmstrip
from reellama.pipeline.cli.options import AnswerOptions
from reellama.pipeline.cli.terminal.line_input import data_dir
from reellama.pipeline.llm.engine import Token
from reellama.pipeline.video.read_options import VideoReadOptions

LAST_CONVERSATION = "last-conversation.json"


@dataclass
class Session:
    """A conversation in a terminal or a pipe, with the settings that `/set` changes."""

    video_chat: VideoChat
    options: AnswerOptions
    probs: bool = False
    interactive: bool = True
    tokens: list[Token] = field(default_factory=list)  # of the last answer
    done: bool = False
    own_files: set[Path] = field(default_factory=set)  # this conversation's: saved to, loaded from
    _autosave: bool = True
    _caveat_said: bool = False

    def ask(self, question: str) -> None:
        """Answer a question."""
        self.answer(self.video_chat.stream(question, **self.options.generation()))

    def answer(self, answer: TokenStream) -> None:
        """Show an answer as it comes. Ctrl-C ends it, and what there is of it is kept."""
        self.tokens = []
        try:
            print_answer(answer, self.tokens, probs=self.probs)
            print_remarks(self.video_chat, self.options.max_tokens)
            self.video_chat.conversation.read_ahead()
        finally:
            self._save_for_later()

    def add(self, path: Path) -> None:
        """Look at one more video and show what was seen."""
        video = add_video(self.video_chat, path)
        if not self._caveat_said:
            note_footage_caveat(path, video.footage_caveat)
        self._caveat_said = self._caveat_said or bool(video.footage_caveat)
        note(video_summary(video))
        if not is_quiet():
            err.print(Filmstrip(video.clip.frames, list(video.clip.times)))
        self.video_chat.conversation.read_ahead()

    def reread(
        self, read_options: VideoReadOptions | None = None, pooling: PoolingOptions | None = None
    ) -> None:
        """Look at all videos again, read or pooled in another way, and say what was seen."""
        first = next((video.path for video in self.video_chat.videos), Path("nothing"))
        with reading_bar(first) as report:
            self.video_chat.reread(read_options, pooling, report)
        self.say_videos()

    def say_videos(self) -> None:
        """A line for each video, and what there is to say about it."""
        for video in self.video_chat.videos:
            say(video_summary(video))
            for line in video.clip.notes:
                say(line)

    def last_conversation(self) -> Path:
        """Where the conversation is kept after every answer, for `/load` without a path."""
        return data_dir() / LAST_CONVERSATION

    def _save_for_later(self) -> None:
        if not (self.interactive and self._autosave and self.video_chat.turns):
            return
        try:
            self.video_chat.save(self.last_conversation())
        except (ReellamaError, OSError) as error:
            self._autosave = False
            note(f"this conversation is not kept for /load: {error}")
