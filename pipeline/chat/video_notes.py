"""Describe a video in text with times, for an LLM that cannot read soft tokens.

The bundle describes the whole video, then each of a few parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from reellama import prompts
from reellama.gguf_tools.text.whole_sentences import whole_sentences
from reellama.models.token_pooling.options import PoolingOptions
from reellama.pipeline.chat.conversation import Chat, Video
from reellama.pipeline.chat.subtitle_answers import as_text
from reellama.pipeline.llm.generation_options import Sampling
from reellama.pipeline.video.clip import read_frames
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.source import VideoError
from reellama.pipeline.video.timestamps import format_time

if TYPE_CHECKING:
    from reellama.pipeline.chat.video_chat import VideoChat

# Looking at a part takes a second or two; one that is shorter than this shows what the whole does.
PART_SECONDS = 4.0
MAX_PARTS = 6
SUBTITLE_POSITIONS = 2048  # of the context of the model that gets the notes
NOTE_TOKENS = 128  # a note is a sentence or two


@dataclass(frozen=True)
class Note:
    """A description of the part from `start` to `end` seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class NotedVideo(Video):
    """A video with notes: the first describes the whole, the others its parts."""

    notes: tuple[Note, ...] = ()


def take_notes(
    video_chat: VideoChat,
    video: Video,
    read_options: VideoReadOptions,
    pooling: PoolingOptions,
    context_left: int,
) -> tuple[Note, ...]:
    """Describe a video that was read with `read_options`, then its parts, as the bundle sees them.

    pooling, context_left: of each part, as `VideoBundle.prompt_parts` takes them.
    """
    clip = video.clip
    start = read_options.start or 0.0
    end = clip.duration if read_options.end is None else min(read_options.end, clip.duration)
    notes = [Note(start, end, _describe(video_chat, video))]
    n = min(MAX_PARTS, int((end - start) / PART_SECONDS))
    if n > 1:
        borders = [start + (end - start) * i / n for i in range(n + 1)]
        for a, b in pairwise(borders):
            with suppress(VideoError):  # a damaged part has no note of its own
                part = _read_part(
                    video_chat, video, replace(read_options, start=a, end=b), pooling, context_left
                )
                notes.append(Note(a, b, _describe(video_chat, part)))
    return tuple(notes)


def notes_as_text(videos: Sequence[NotedVideo]) -> str:
    """All notes on `videos` as text for an LLM, after an introduction."""
    lines = [prompts.load("video_notes")]
    for i, video in enumerate(videos, 1):
        duration = video.clip.duration
        length = f", {duration:.1f} seconds long" if duration else ", a picture"
        lines += ["", f"Video {i}: {video.path.name}{length}"]
        for note in video.notes:
            times = f"{format_time(note.start)} to {format_time(note.end)}: " if duration else ""
            lines.append(f"- {times}{note.text}")
        lines += as_text(video.clip.subtitles, SUBTITLE_POSITIONS).splitlines()
    return "\n".join(lines)


def _read_part(
    video_chat: VideoChat,
    video: Video,
    part: VideoReadOptions,
    pooling: PoolingOptions,
    context_left: int,
) -> Video:
    bundle = video_chat.bundle
    clip = read_frames(video.path, part.for_bundle(bundle))
    encoded = bundle.encode(clip.frames, clip.times, pooling, context_left)
    return Video(video.path, bundle.prompt_parts(encoded, pooling, context_left), clip)


def _describe(video_chat: VideoChat, video: Video) -> str:
    chat = Chat(video_chat.engine, system=video_chat.bundle.system, videos=[video])
    answer = chat.ask(
        video_chat.bundle.describe_briefly, sampling=Sampling(), max_tokens=NOTE_TOKENS, n_probs=0
    )
    text = " ".join("".join(token.text for token in answer).split())
    is_cut_off = video_chat.engine.last.stop_reason in ("length", "context")
    return whole_sentences(text) if is_cut_off else text
