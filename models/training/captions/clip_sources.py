"""Sources of clips with questions and answers for training: video files, or rendered clips.

Both have the same interface: clip `number` of a split has texts, of which the first is its
description, and can be read as frames with their seconds.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.synthetic.rendered_clips import RenderedClip, RenderedClips

Texts = Sequence[tuple[str, str]]  # (question, answer)
Frames = tuple[Sequence[np.ndarray], np.ndarray]  # uint8 [H, W, 3] each, and seconds [T]
ReadVideo = Callable[[Path, int], Frames]  # (path, number of frames) -> frames and seconds

TRAIN, VALIDATION, STILLS = "train", "validation", "stills"
# One video in 20 is for validation. A hash of its name decides, so that the choice stays when rows
# are added.
VALIDATE_ONE_IN = 20


class ClipSource(Protocol):
    """Clips of the splits "train" and "validation".

    Attributes:
        reversible: whether the source has texts for clips that run backwards. If so, clip number
            `count + i` of the split "train" is clip i backwards, of which only texts exist.
    """

    reversible: bool

    def fingerprint(self, split: str) -> str:
        """A hash that changes when the clips of a split or their frames change."""

    def count(self, split: str) -> int:
        """Number of clips in a split, without those that run backwards."""

    def texts(self, split: str, number: int) -> Texts:
        """Questions and answers of a clip; the first question asks for its description."""

    def read(self, split: str, number: int) -> Frames:
        """Frames of a clip and their seconds."""


class RenderedSource:
    """Rendered clips. The split "stills" has single frames.

    stills: number of stills. describe: the question for a description.
    """

    reversible = True

    def __init__(self, clips: RenderedClips, stills: int, describe: str) -> None:
        self.clips = clips
        self.describe = describe
        self._texts: dict[tuple[str, int], Texts] = {}
        self._counts = {
            TRAIN: clips.config.clips,
            VALIDATION: clips.config.validation,
            STILLS: stills,
        }

    def fingerprint(self, split: str) -> str:
        return short_hash(f"{asdict(self.clips.config)} {split} {self.count(split)}")

    def count(self, split: str) -> int:
        return self._counts[split]

    def _clip(self, split: str, number: int) -> RenderedClip:
        if number >= self.count(split):
            return self.clips.backwards(split, number - self.count(split))
        return self.clips.still(number) if split == STILLS else self.clips.clip(split, number)

    def texts(self, split: str, number: int) -> Texts:
        if (split, number) not in self._texts:
            clip = self._clip(split, number)
            self._texts[split, number] = [(self.describe, clip.caption), *clip.texts]
        return self._texts[split, number]

    def read(self, split: str, number: int) -> Frames:
        count = 1 if split == STILLS else self.clips.config.frames
        frames, times = self._clip(split, number).draw(count)
        return list(frames), times


@dataclass(frozen=True)
class CaptionRow:
    """A video with one question and its answer."""

    video: Path
    question: str
    answer: str


class FileSource:
    """Videos and texts named in a JSONL or CSV file.

    A row has `video`, a path relative to the file, and `caption`, a list of `captions`, or
    `question` and `answer`. Rows of one video are texts of one clip. Captions may span lines.

    frames: number of frames to read. describe: the question for rows with a caption.
    """

    reversible = False

    def __init__(self, path: Path, read_video: ReadVideo, frames: int, describe: str) -> None:
        self.path = path
        self.read_video = read_video
        self.frames = frames
        videos: dict[Path, list[tuple[str, str]]] = {}
        for row in read_caption_rows(path, describe):
            videos.setdefault(row.video, []).append((row.question, row.answer))
        names = sorted(videos)
        held_out = {path for path in names if int(short_hash(path.name), 16) % VALIDATE_ONE_IN == 0}
        train = [name for name in names if name not in held_out]
        if not (held_out and train):  # a handful of videos: train and validate on all of them
            train = names
            held_out = set(names)
        self._videos = {TRAIN: train, VALIDATION: sorted(held_out)}
        self._texts = videos

    def fingerprint(self, split: str) -> str:
        stats = [(str(v), v.stat().st_size, v.stat().st_mtime) for v in self._videos[split]]
        return short_hash(f"{stats} {self.frames}")

    def count(self, split: str) -> int:
        return len(self._videos[split])

    def texts(self, split: str, number: int) -> Texts:
        return self._texts[self._videos[split][number]]

    def read(self, split: str, number: int) -> Frames:
        return self.read_video(self._videos[split][number], self.frames)


def read_caption_rows(path: Path, describe: str) -> list[CaptionRow]:
    """The rows of a JSONL or CSV file; `describe` is the question of those with a caption.

    Raises ReellamaError with file and line for a row that cannot be used.
    """
    try:
        lines = list(_csv_rows(path) if path.suffix.lower() == ".csv" else _jsonl_rows(path))
    except OSError as error:
        raise ReellamaError(f"{path}: {error.strerror}; name a JSONL or CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ReellamaError(f"{path}: not a JSONL or CSV file in UTF-8: {error}") from error
    rows = [row for line, values in lines for row in _rows(path, line, values, describe)]
    if not rows:
        raise ReellamaError(
            f"{path}: no rows; each needs video, and caption, captions, or question and answer"
        )
    return rows


def _csv_rows(path: Path) -> Iterator[tuple[int, object]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for values in reader:
            yield reader.line_num, values


def _jsonl_rows(path: Path) -> Iterator[tuple[int, object]]:
    with path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            if text.strip():
                try:
                    yield line, json.loads(text)
                except ValueError as error:
                    raise ReellamaError(f"{path}:{line}: not JSON: {error}") from error


def _rows(path: Path, line: int, values: object, describe: str) -> list[CaptionRow]:
    """The rows of one line: one for its answer, or one for each of its captions."""
    fields = values if isinstance(values, dict) else {}
    several = fields.get("captions")
    single = {name: value for name, value in fields.items() if name and name != "captions"}
    text = {name: str(value).strip() for name, value in single.items() if value is not None}
    listed = [str(caption).strip() for caption in several] if isinstance(several, list) else []
    captions = [caption for caption in (*listed, text.get("caption", "")) if caption]
    turns = [(describe, caption) for caption in captions]
    if text.get("question") and text.get("answer"):
        turns = [(text["question"], text["answer"])]
    if not (text.get("video") and turns):
        raise ReellamaError(
            f"{path}:{line}: a row needs video, and caption, captions, or question and answer"
        )
    video = path.parent / text["video"]
    if not video.exists():
        raise ReellamaError(f"{path}:{line}: no such video: {video}")
    return [CaptionRow(video, question, answer) for question, answer in turns]


def short_hash(text: str) -> str:
    """A hash of 16 hexadecimal digits, for names of caches."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
