"""Talk about videos with a model of an Ollama server, which cannot take soft tokens.

The bundle watches with its own LLM and takes notes with times; the server's model gets them, and
frames as pictures where it has the capability "vision".
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reellama.gguf_tools.errors import ReellamaError
from reellama.models import prompt_format
from reellama.models.token_pooling.options import PoolingOptions
from reellama.pipeline.chat.answer_plan import AnswerPlan
from reellama.pipeline.chat.conversation import ANSWER_DIVISOR, Chat, TokenStream, Turn, Video
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.chat.video_notes import NotedVideo, notes_as_text, take_notes
from reellama.pipeline.llm.engine import EngineStats, Text
from reellama.pipeline.llm.ollama_model import OllamaError, OllamaModel
from reellama.pipeline.progress_callbacks import Progress
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.timestamps import format_time

MAX_PICTURES = 8
PICTURE_SIDE = 448  # pixels; encoders of 336 to 448 are common, and larger ones cut into tiles
PICTURE_TOKENS = 576  # positions that a picture of this size takes at most in common models
PICTURES_SHARE = 2 / 3  # of the context, so that the notes and the turns have room


class OllamaChat(Chat):
    """Questions about videos to a model of Ollama's; `engine` is the LLM that took the notes.

    An answer that the server does not finish leaves the turns as they were.
    """

    def __init__(self, model: OllamaModel, chat: Chat) -> None:
        super().__init__(chat.engine, system=chat.system, videos=chat.videos, on_drop=chat.on_drop)
        self.turns = chat.turns
        self.model = model

    def read_ahead(self) -> None:
        """Do nothing: the server manages its own cache."""

    def messages(self, question: str, turns: Sequence[Turn] = ()) -> list[dict[str, Any]]:
        """The messages to send: notes in the system message, which a full context keeps; turns."""
        videos = [video for video in self.videos if isinstance(video, NotedVideo)]
        parts = [self.system or "", notes_as_text(videos) if videos else ""]
        system = "\n\n".join(filter(None, parts))
        answered = [(turn.question, turn.answer) for turn in turns]
        messages: list[dict[str, Any]] = [*prompt_format.messages(system, answered, question)]
        if videos and "vision" in self.model.capabilities:
            first = next(message for message in messages if message["role"] == "user")
            shown = _shown(videos, self._max_pictures())
            times = ", ".join(f"{videos[i].path.name} at {format_time(t)}" for i, t, _ in shown)
            first["content"] = f"(Pictures: {times})\n{first['content']}"
            first["images"] = [jpeg(frame) for _, _, frame in shown]
        return messages

    def _max_pictures(self) -> int:
        fitting = int(self.engine.n_ctx * PICTURES_SHARE) // PICTURE_TOKENS
        return max(1, min(MAX_PICTURES, fitting))

    def _answer(
        self, index: int, question: str, generation: dict[str, Any], request: str | None = None
    ) -> TokenStream:
        """Answer `question` as turn `index`; it replaces that turn when the answer ends."""
        if not question.strip():
            raise ReellamaError("the question is empty")
        max_tokens = generation.get("max_tokens", 256)
        messages = self._fitting(index, question, max_tokens)
        pieces: list[str] = []
        failed = False
        try:
            for token in self.model.generate(messages, n_ctx=self.engine.n_ctx, **generation):
                pieces.append(token.text)
                yield token
        except OllamaError:
            failed = True
            raise
        finally:
            if pieces and not failed:
                self.turns[index:] = [Turn(question, "".join(pieces))]

    def _fitting(self, index: int, question: str, max_tokens: int) -> list[dict[str, Any]]:
        """The messages without the oldest turns, where there are more than the context holds.

        The server would drop them as well, but with the pictures, and without a word. Positions
        are counted with the bundle's own tokenizer: near enough for English.
        """
        n_ctx = self.engine.n_ctx
        reserve = min(max_tokens, n_ctx // ANSWER_DIVISOR)
        before = self.dropped = min(self.dropped, index)
        while True:
            messages = self.messages(question, self.turns[self.dropped : index])
            text = "\n".join(message["content"] for message in messages)
            pictures = sum(len(message.get("images", ())) for message in messages)
            size = self.engine.count([Text(text)]) + pictures * PICTURE_TOKENS
            if size + reserve <= n_ctx or self.dropped == index:
                break
            self.dropped += 1
        if self.dropped > before and self.on_drop:
            self.on_drop(self.dropped - before)
        return messages


class OllamaVideoChat(VideoChat):
    """A `VideoChat` in which `model`, a model of Ollama's, answers. The rest is as in VideoChat.

    chat = OllamaVideoChat("holiday.mp4", model="llama3.2")
    """

    def __init__(
        self,
        *videos: str | Path,
        model: str | OllamaModel,
        **rest: Any,
    ) -> None:
        self.model = OllamaModel(model) if isinstance(model, str) else model
        super().__init__(*videos, **rest)
        self.conversation = OllamaChat(self.model, self.conversation)

    @property
    def languages(self) -> tuple[str, ...]:
        """Nobody knows the languages of the model of Ollama's that answers."""
        return ()

    @property
    def llm(self) -> str:
        """The name of the model that answers."""
        return f"ollama:{self.model.name}"

    @property
    def last(self) -> EngineStats:
        """What the last answer took, as far as the server told."""
        return self.model.last

    @property
    def n_past(self) -> int:
        """Positions that the last question and answer took."""
        return self.last.n_reused + self.last.n_read + self.last.n_generated

    def check_llm(self) -> None:
        """Raise OllamaError when the server or the model is absent."""
        _ = self.model.capabilities

    def load(self, path: str | Path, progress: Progress | None = None) -> None:
        """Continue a saved conversation, whichever LLM it was with."""
        super().load(path, progress)
        self.conversation = OllamaChat(self.model, self.conversation)

    def _plan(self, question: str, generation: dict[str, Any]) -> AnswerPlan:
        plan = super()._plan(question, generation)
        return plan._replace(request=None, stop=())  # it has the notes, which are one description

    def _context_left(self, videos: Sequence[Video]) -> int:
        """All of the videos' share: the bundle's own LLM gets one video at a time."""
        return super()._context_left([])

    def _encode_video(
        self,
        path: Path,
        read_options: VideoReadOptions,
        pooling: PoolingOptions,
        context_left: Callable[[], int],
        progress: Progress | None,
    ) -> NotedVideo:
        video = super()._encode_video(path, read_options, pooling, context_left, progress)
        return NotedVideo(
            **vars(video), notes=take_notes(self, video, read_options, pooling, context_left())
        )


def jpeg(frame: np.ndarray) -> bytes:
    """A frame, uint8 RGB `[height, width, 3]`, as JPEG, not larger than models look at."""
    picture = Image.fromarray(frame)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def _shown(videos: Sequence[NotedVideo], n: int) -> list[tuple[int, float, np.ndarray]]:
    """At most `n` frames of all, evenly: the number of the video, seconds, the frame."""
    all_frames = [
        (i, float(time), frame)
        for i, video in enumerate(videos)
        for time, frame in zip(video.clip.times, video.clip.frames, strict=True)
    ]
    n = min(n, len(all_frames))
    return [all_frames[int((i + 0.5) * len(all_frames) / n)] for i in range(n)]
