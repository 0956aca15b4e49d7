"""Ask a bundle questions about videos, and judge the answers; each video is encoded once."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.open_bundle import VideoBundle
from reellama.models.prompt_format import multiple_choice
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions
from reellama.pipeline.chat.conversation import Chat, Video
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.evaluation.answer_matching import (
    choice_prefix_probabilities,
    choice_probabilities,
    contains,
    first_mentioned,
    mentioned_choices,
)
from reellama.pipeline.evaluation.controls import (
    CONTROLS,
    FOOTAGE_CONTROLS,
    OTHER,
    WITHHELD,
    soft_tokens_by_control,
)
from reellama.pipeline.evaluation.items import EvalItem, by_video
from reellama.pipeline.video.clip import Clip, read_frames
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.source import VideoError

MAX_TOKENS = 64  # of a generated answer
THUMBNAIL = 112  # pixels on the longest side of a frame on the HTML page
JPEG_QUALITY = 60

QuestionProgress = Callable[[int], None]  # questions done


@dataclass(frozen=True)
class ModelReply:
    """The reply to a question, asked unchanged or in a control.

    Attributes:
        right: with choices, whether the most probable is the answer; else as `generated_right`.
        generated_text: the greedy answer; empty if only the choices were scored.
        generated_right: whether `generated_text` names the answer and no other choice.
        probabilities: of the choices, in their order.
        tokens: of the prompt and of `generated_text`.
        seconds: from the question to the end of `generated_text`, with the video in the KV cache.
    """

    right: bool
    generated_text: str = ""
    generated_right: bool = False
    probabilities: tuple[float, ...] = ()
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class AnsweredItem:
    """A question with the reply, and the replies in controls.

    `strip` has the time in seconds and a JPEG of each frame, for the HTML page.
    """

    item: EvalItem
    reply: ModelReply
    controls: dict[str, ModelReply]
    strip: tuple[tuple[float, bytes], ...] = field(default=(), repr=False)


@dataclass(frozen=True, eq=False)
class EncodedVideo:
    """A video with its questions, unchanged and in controls."""

    items: Sequence[EvalItem]
    views: dict[str, Video | None]  # by control, "" for the unchanged video; None means no video
    seconds: float  # of reading and encoding
    strip: tuple[tuple[float, bytes], ...] = ()


@dataclass(frozen=True)
class EvaluationResults:
    """All questions of a run, and the videos that could not be used."""

    bundle: str
    llm: Path
    answered: list[AnsweredItem]
    video_seconds: list[float]
    unreadable: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()


def evaluate(
    bundle: str | Path,
    items: Iterable[EvalItem],
    *,
    with_controls: bool = True,
    with_strips: bool = False,
    progress: QuestionProgress | None = None,
    **options: Any,
) -> EvaluationResults:
    """Ask all `items`.

    Args:
        with_controls: also ask in the controls of CONTROLS.
        with_strips: keep small JPEGs of the frames, for the HTML page.
        progress: called with the questions done.
        options: keyword arguments of `VideoChat` (`llm`, `frames`, `n_ctx`, ...).

    Videos that cannot be read are left out and listed in the results. Raises ReellamaError if none
    can be read.
    """
    answered: list[AnsweredItem] = []
    seconds: list[float] = []
    unreadable: list[str] = []
    with VideoChat(bundle=bundle, **options) as video_chat:
        frames = video_chat.read_options.frames
        controls = CONTROLS if with_controls else ()
        for group in by_video(iter(items)):
            try:
                encoded = encode_video(
                    video_chat.bundle,
                    group,
                    controls,
                    frames=frames,
                    pooling=video_chat.pooling,
                    with_strip=with_strips,
                )
            except VideoError as error:
                unreadable.append(str(error))
                continue
            seconds.append(encoded.seconds)
            answered += ask_items(video_chat.conversation, encoded, video_chat.bundle.describe)
            if progress:
                progress(len(answered))
        llm = Path(video_chat.llm)
    if not answered:
        raise ReellamaError(unreadable[0] if unreadable else "there is nothing to ask")
    return EvaluationResults(str(bundle), llm, answered, seconds, tuple(unreadable), controls)


def ask_of_clips(
    video_chat: VideoChat,
    items: Iterable[EvalItem],
    controls: Sequence[str] = FOOTAGE_CONTROLS,
    progress: QuestionProgress = lambda done: None,
) -> tuple[list[AnsweredItem], list[str]]:
    """Ask all `items`, and with controls also without a video and about the previous item's video.

    Of `video_chat` only `add` and its conversation are used, so bundles of any kind can be
    evaluated. Returns the answers, and the reasons why videos could not be read. Raises
    ReellamaError if none can be read.
    """
    groups = list(by_video(iter(items)))
    answered: list[AnsweredItem] = []
    unreadable: list[str] = []
    blind: dict[Hashable, ModelReply] = {}  # replies without the video, by question
    before: Video | None = None
    if OTHER in controls:  # the first item is asked about the last readable video
        videos = (_add_video(video_chat, group[0].video, []) for group in reversed(groups))
        before = next((video for video in videos if video), None)
    for group in groups:
        started_at = time.perf_counter()
        video = _add_video(video_chat, group[0].video, unreadable)
        if video is None:
            continue
        views: dict[str, Video | None] = {"": video, **({OTHER: before} if before else {})}
        encoded = EncodedVideo(group, views, time.perf_counter() - started_at)
        answers = ask_items(video_chat.conversation, encoded, video_chat.bundle.describe)
        if WITHHELD in controls:
            answers = [_with_blind_reply(video_chat, answer, blind) for answer in answers]
        answered += answers
        before = video if before else None
        progress(len(answered))
    if not answered:
        raise ReellamaError(unreadable[0] if unreadable else "there is nothing to ask")
    return answered, unreadable


def _with_blind_reply(
    video_chat: VideoChat, answered: AnsweredItem, blind_replies: dict[Hashable, ModelReply]
) -> AnsweredItem:
    """`answered` with the reply without the video as its first control."""
    item = answered.item
    key = (item.question, item.choices, item.answer)
    if key not in blind_replies:
        alone = EncodedVideo([item], {"": None}, 0.0)
        [blind_replies[key]] = [
            blind.reply
            for blind in ask_items(video_chat.conversation, alone, video_chat.bundle.describe)
        ]
    return replace(answered, controls={WITHHELD: blind_replies[key], **answered.controls})


def _add_video(video_chat: VideoChat, path: Path, unreadable: list[str]) -> Video | None:
    """A video in soft tokens, without frames; None, with the error added to `unreadable`, if it
    cannot be read."""
    video_chat.videos.clear()
    try:
        video = video_chat.add(path)
    except VideoError as error:
        unreadable.append(str(error))
        return None
    return replace(video, clip=replace(video.clip, frames=[]))


def encode_video(
    bundle: VideoBundle,
    items: Sequence[EvalItem],
    controls: Sequence[str] = (),
    *,
    frames: int | None = None,
    pooling: PoolingOptions = DEFAULT_POOLING,
    with_strip: bool = False,
) -> EncodedVideo:
    """Encode the video that all `items` are about.

    Args:
        frames: frames to read; None means the bundle's number.
        with_strip: keep small JPEGs of the frames.

    Raises VideoError for a video that cannot be read.
    """
    started_at = time.perf_counter()
    first = items[0]
    read_options = VideoReadOptions(frames=frames, start=first.start, end=first.end)
    clip = read_frames(first.video, read_options.for_bundle(bundle))
    soft_tokens = soft_tokens_by_control(bundle, clip, controls, pooling)
    no_frames = Clip([], np.zeros(0), 0.0, first.video)  # frees the frames
    views = {
        name: None if soft is None else Video(clip.path, soft, no_frames)
        for name, soft in soft_tokens.items()
    }
    seconds = time.perf_counter() - started_at
    return EncodedVideo(items, views, seconds, _strip(clip) if with_strip else ())


def ask_items(chat: Chat, encoded: EncodedVideo, describe: str) -> list[AnsweredItem]:
    """Ask all questions about a video, unchanged and in controls.

    The video stays in the KV cache from its first question to its last.

    describe: the prompt for a description, for items without a question.
    """
    replies: dict[str, list[ModelReply]] = {}
    for name, video in encoded.views.items():
        chat.clear()
        chat.videos = [] if video is None else [video]
        chat.read_ahead()
        # In a control listed choices are only scored, without generating a text.
        replies[name] = [
            _reply(chat, item, describe, generate=not (name and item.choices and item.listed))
            for item in encoded.items
        ]
    return [
        AnsweredItem(
            item, reply, {name: replies[name][i] for name in replies if name}, encoded.strip
        )
        for i, (item, reply) in enumerate(zip(encoded.items, replies[""], strict=True))
    ]


def _reply(chat: Chat, item: EvalItem, describe: str, *, generate: bool) -> ModelReply:
    """The reply to a question about the videos of `chat`."""
    started_at = time.perf_counter()
    question = item.question or describe
    listed = item.choices and item.listed
    prompt = chat.prompt(multiple_choice(question, item.choices) if listed else question)
    text = ""
    if generate:
        tokens = chat.engine.generate(prompt, max_tokens=MAX_TOKENS, n_probs=0)
        text = "".join(token.text for token in tokens).strip()
    seconds = time.perf_counter() - started_at
    n_tokens = chat.engine.count(prompt) + chat.engine.last.n_generated
    if not item.choices:
        answers = (item.answer, *item.also)
        right = item.kind == "open" and any(contains(text, answer) for answer in answers)
        return ModelReply(right, text, right, (), n_tokens, seconds)
    answer = item.choices.index(item.answer)
    if item.listed:
        probabilities = choice_probabilities(chat.engine, prompt, item.choices)
        generated_right = mentioned_choices(text, item.choices) == [answer]
    else:
        probabilities = choice_prefix_probabilities(chat.engine, prompt, item.choices)
        generated_right = first_mentioned(text, item.choices) == answer
    right = int(probabilities.argmax()) == answer
    return ModelReply(
        right, text, generated_right, tuple(probabilities.tolist()), n_tokens, seconds
    )


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
