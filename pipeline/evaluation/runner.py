"""Ask a bundle: every video is looked at once, then all that is asked about it is judged."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gguf_tools.errors import ReellamaError
from models.bundle import Bundle
from models.prompt_format import multiple_choice
from pipeline.chat.conversation import Chat, Video
from pipeline.chat.video_chat import MAX_SIDE, VideoChat
from pipeline.evaluation import ablations
from pipeline.evaluation.ablations import CONTROLS
from pipeline.evaluation.answer_matching import contains, named, probabilities
from pipeline.evaluation.items import Item, by_video
from pipeline.video.clip import Clip, VideoError, read_frames

MAX_TOKENS = 64  # of a generated answer
THUMBNAIL = 112  # pixels on the longest side of a frame on the page
JPEG_QUALITY = 60

Progress = Callable[[int], None]  # questions done


@dataclass(frozen=True)
class Reply:
    """What came to one question in one way of asking.

    Attributes:
        right: with choices, whether the likeliest is the answer; else as `said_right`.
        said: the greedy answer; empty where only the choices were scored.
        said_right: whether `said` names the answer and no other choice.
        tokens: positions of the prompt and of `said`.
        seconds: from the question to the whole of `said`, with the video in the KV cache.
    """

    right: bool
    said: str = ""
    said_right: bool = False
    probabilities: tuple[float, ...] = ()
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Answered:
    """One question: the reply to it, and those with something taken away.

    `strip` has the seconds and a JPEG of each frame, for people.
    """

    item: Item
    reply: Reply
    controls: dict[str, Reply]
    strip: tuple[tuple[float, bytes], ...] = field(default=(), repr=False)


@dataclass(frozen=True, eq=False)
class Watched:
    """A video in soft tokens, as it is (under "") and in each control, and its questions."""

    items: Sequence[Item]
    views: dict[str, np.ndarray | None]
    seconds: float  # of reading and encoding
    strip: tuple[tuple[float, bytes], ...] = ()


@dataclass(frozen=True)
class Results:
    """All questions of a run, and the videos that could not be used."""

    bundle: str
    llm: Path
    answered: list[Answered]
    video_seconds: list[float]
    unread: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()


def evaluate(
    bundle: str | Path,
    items: Iterable[Item],
    *,
    with_controls: bool = True,
    with_strips: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Results:
    """Ask all `items`; `options` are those of `VideoChat` (`llm`, `frames`, `n_ctx`, ...).

    A video that cannot be read is noted and left out. Raises ReellamaError when none can be.
    """
    answered: list[Answered] = []
    seconds: list[float] = []
    unread: list[str] = []
    with VideoChat(bundle=bundle, **options) as talk:
        frames = talk.reading.frames
        wanted = CONTROLS if with_controls else ()
        for group in by_video(iter(items)):
            try:
                seen = watch(talk.bundle, group, wanted, frames=frames, with_strip=with_strips)
            except VideoError as error:
                unread.append(str(error))
                continue
            seconds.append(seen.seconds)
            answered += ask(talk.chat, seen, talk.bundle.describe)
            if progress:
                progress(len(answered))
        llm = talk.engine.path
    if not answered:
        raise ReellamaError(unread[0] if unread else "there is nothing to ask")
    return Results(str(bundle), llm, answered, seconds, tuple(unread), wanted)


def watch(
    bundle: Bundle,
    items: Sequence[Item],
    wanted: Sequence[str] = (),
    *,
    frames: int | None = None,
    with_strip: bool = False,
) -> Watched:
    """Look at the video that all `items` are about. Raises VideoError."""
    began = time.perf_counter()
    first = items[0]
    clip = read_frames(
        first.video,
        frames=frames or bundle.frames,
        start=first.start,
        end=first.end,
        max_side=MAX_SIDE,
    )
    views = ablations.views(bundle, clip, wanted)
    took = time.perf_counter() - began
    return Watched(items, views, took, _strip(clip) if with_strip else ())


def ask(chat: Chat, seen: Watched, describe: str) -> list[Answered]:
    """Ask all questions about a video in all ways; `describe` is what asks for a description.

    The KV cache holds the video from its first question to its last.
    """
    clip = Clip([], np.zeros(0), 0.0, seen.items[0].video)
    replies: dict[str, list[Reply]] = {}
    for name, soft in seen.views.items():
        chat.clear()
        chat.videos = [] if soft is None else [Video(clip.path, soft, clip)]
        chat.read_ahead()
        # In a control choices are only scored, which takes no generated text.
        replies[name] = [
            _reply(chat, item, describe, generate=not (name and item.choices))
            for item in seen.items
        ]
    return [
        Answered(item, reply, {name: replies[name][i] for name in replies if name}, seen.strip)
        for i, (item, reply) in enumerate(zip(seen.items, replies[""], strict=True))
    ]


def _reply(chat: Chat, item: Item, describe: str, *, generate: bool) -> Reply:
    """The reply to a question about the videos of `chat`."""
    began = time.perf_counter()
    question = item.question or describe
    prompt = chat.prompt(multiple_choice(question, item.choices) if item.choices else question)
    said = ""
    if generate:
        tokens = chat.engine.generate(prompt, max_tokens=MAX_TOKENS, n_probs=0)
        said = "".join(token.text for token in tokens).strip()
    took = time.perf_counter() - began
    size = chat.engine.count(prompt) + chat.engine.last.n_generated
    if not item.choices:
        answers = (item.answer, *item.also)
        right = item.kind == "open" and any(contains(said, answer) for answer in answers)
        return Reply(right, said, right, (), size, took)
    likely = probabilities(chat.engine, prompt, item.choices)
    answer = item.choices.index(item.answer)
    said_right = named(said, item.choices) == [answer]
    right = int(likely.argmax()) == answer
    return Reply(right, said, said_right, tuple(likely.tolist()), size, took)


def _strip(clip: Clip) -> tuple[tuple[float, bytes], ...]:
    return tuple(
        (float(time), _jpeg(frame)) for time, frame in zip(clip.times, clip.frames, strict=True)
    )


def _jpeg(frame: np.ndarray) -> bytes:
    picture = Image.fromarray(frame)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()
