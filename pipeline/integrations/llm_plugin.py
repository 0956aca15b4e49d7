"""The model `reellama` for the command `llm`.

llm -m reellama "What happens?" -a clip.mp4
llm -c "And then?"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock
from typing import TYPE_CHECKING, Any

import llm
from llm.parts import AttachmentPart, TextPart
from pydantic import Field

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.temporary_folders import temporary_folder

if TYPE_CHECKING:  # `llm` loads this module at every start
    from reellama.models.token_pooling.options import PoolingOptions
    from reellama.pipeline.chat.conversation import Turn, Video
    from reellama.pipeline.chat.video_chat import VideoChat

MAX_SEEN = 8  # videos whose frames are kept in memory for the next question
VIDEOS = ["3gpp", "avi", "mp4", "mpeg", "ogg", "quicktime", "webm", "x-flv", "x-m4v"]
VIDEOS += ["x-matroska", "x-ms-wmv", "x-msvideo"]
PICTURES = ["avif", "bmp", "gif", "jpeg", "png", "tiff", "webp", "x-ms-bmp"]


class Reellama(llm.Model):
    """Answers about the videos and pictures that are attached to any turn of the conversation.

    A bundle is loaded at its first question, and stays until one is for another bundle; a video
    that was seen is not read again.
    """

    model_id = "reellama"
    can_stream = True
    attachment_types = frozenset(
        [f"video/{kind}" for kind in VIDEOS] + [f"image/{kind}" for kind in PICTURES]
    )

    class Options(llm.Options):
        """What `-o NAME VALUE` takes."""

        temperature: float = Field(0.0, ge=0, description="0: always the likeliest token")
        max_tokens: int = Field(256, ge=1, description="At most so many tokens an answer")
        frames: int | None = Field(None, ge=1, description="At most so many frames of a video")
        bundle: str = Field("mini", description="A bundle, or the GGUF of a vision model")
        mmproj: str | None = Field(None, description="The projector of a vision GGUF")
        tokens: int | None = Field(None, ge=1, description="Tokens of a video, for a vision GGUF")
        pooling: str = Field("auto", description="How these are pooled")

    def __init__(self) -> None:
        self._video_chat: VideoChat | None = None
        self._opened: tuple[str, str | None] | None = None  # what `_video_chat` was opened with
        self._seen: dict[tuple[str, int | None, PoolingOptions], Video] = {}
        self._lock = Lock()  # the engine is for one caller at a time

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None,
    ) -> Iterator[str]:
        """Answer the last message of `prompt`, piece by piece."""
        from reellama.pipeline.llm.generation_options import Sampling

        options: Any = prompt.options
        with self._lock:
            try:
                video_chat = self._open(options.bundle, options.mmproj)
                question = self._begin(video_chat, prompt) or video_chat.bundle.describe
                sampling = Sampling(temperature=options.temperature)
                answer = video_chat.stream(
                    question, sampling=sampling, max_tokens=options.max_tokens, n_probs=0
                )
                for token in answer:
                    yield token.text
            except ReellamaError as error:
                raise llm.ModelError(str(error)) from error
            last = video_chat.last
            response.set_usage(input=last.n_reused + last.n_read, output=last.n_generated)

    def _open(self, bundle: str, mmproj: str | None) -> VideoChat:
        from reellama.gguf_tools.quantization.merged_llm import MERGED_LLMS
        from reellama.pipeline.chat.video_chat import VideoChat

        if self._video_chat is None or self._opened != (bundle, mmproj):
            self._close()
            self._video_chat = VideoChat(
                bundle=bundle, mmproj=mmproj, merged=MERGED_LLMS, merge=True
            )
            self._opened = bundle, mmproj
        return self._video_chat

    def _close(self) -> None:
        """Give the memory of a bundle back, and forget what was seen with it."""
        if self._video_chat is not None:
            self._video_chat.close()
        self._video_chat = None
        self._seen.clear()

    def _begin(self, video_chat: VideoChat, prompt: llm.Prompt) -> str:
        """Put the turns and videos before the question into `video_chat`; returns the question."""
        from reellama.models.token_pooling.options import PoolingOptions
        from reellama.pipeline.chat.conversation import Chat
        from reellama.pipeline.video.read_options import VideoReadOptions

        options: Any = prompt.options
        system, turns, question, attachments = _read(prompt)
        video_chat.read_options = VideoReadOptions(frames=options.frames)
        video_chat.pooling = PoolingOptions(options.tokens, options.pooling)
        video_chat.conversation = Chat(video_chat.engine, system=system or video_chat.bundle.system)
        video_chat.conversation.turns = turns
        for attachment in attachments:
            self._add(video_chat, attachment)
        return question

    def _add(self, video_chat: VideoChat, attachment: llm.Attachment) -> None:
        key = (attachment.id(), video_chat.read_options.frames, video_chat.pooling)
        if key in self._seen:
            video_chat.conversation.add(self._seen[key])
        elif attachment.path:
            self._seen[key] = video_chat.add(attachment.path)
        else:
            with temporary_folder() as folder:
                path = folder / "attachment"
                path.write_bytes(attachment.content_bytes())
                self._seen[key] = video_chat.add(path)
        while len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]


model = Reellama()  # one for all of a process, however often `llm` asks for its models


@llm.hookimpl
def register_models(register: Callable[[llm.Model], None]) -> None:
    """Tell `llm` of the model."""
    register(model)


def _read(prompt: llm.Prompt) -> tuple[str, list[Turn], str, list[llm.Attachment]]:
    """The system prompt, the turns, the question after them, and all attachments, in order."""
    from reellama.pipeline.chat.conversation import Turn

    system: list[str] = []
    question: list[str] = []
    turns: list[Turn] = []
    attachments: list[llm.Attachment] = []
    for message in prompt.messages:
        text = "\n".join(part.text for part in message.parts if isinstance(part, TextPart))
        attachments += [
            part.attachment
            for part in message.parts
            if isinstance(part, AttachmentPart) and part.attachment
        ]
        if message.role == "assistant":
            turns.append(Turn("\n".join(question), text))
            question = []
        elif text:
            (system if message.role == "system" else question).append(text)
    return "\n\n".join(system), turns, "\n".join(question), attachments
