"""Clips with questions and answers for training: from files, or drawn as needed.

Both kinds of source look the same to training: clip `number` of a split has texts, the first of
which is its description, and can be read as frames with their seconds.
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
# Path of a video and how many frames -> frames and seconds; given by the caller.
ReadVideo = Callable[[Path, int], Frames]

TRAIN, VALIDATION, STILLS = "train", "validation", "stills"
# One video in twenty validates, chosen by its name, so that the choice stays when rows are added.
VALIDATE_ONE_IN = 20


class ClipSource(Protocol):
    """Clips of the splits "train" and "validation".

    Attributes:
        reversible: whether it has texts for clips that run backwards. Then, in the split "train",
            clip number `count + i` is clip i backwards; only its texts are asked for.
    """

    reversible: bool

    def fingerprint(self, split: str) -> str:
        """Changes when the clips of a split, or their frames, do."""

    def count(self, split: str) -> int:
        """How many clips a split has, each counted once."""

    def texts(self, split: str, number: int) -> Texts:
        """Questions and answers of a clip; the first asks for its description."""

    def read(self, split: str, number: int) -> Frames:
        """A clip's frames."""


class RenderedSource:
    """Clips drawn by `reellama.models.synthetic.render`; the split "stills" has single frames."""

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
    """One line of a JSONL or CSV file."""

    video: Path
    question: str
    answer: str


class FileSource:
    """Videos and texts named in a JSONL or CSV file.

    A row has `video`, a path relative to the file, and `caption`, a list of `captions`, or
    `question` and `answer`. Rows of one video are texts of one clip. Captions may span lines.
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
        held_out = {name for name in names if _number(name.name) % VALIDATE_ONE_IN == 0}
        kept = [name for name in names if name not in held_out]
        if not (held_out and kept):  # a handful of videos: train and validate on all of them
            kept = names
            held_out = set(names)
        self._videos = {TRAIN: kept, VALIDATION: sorted(held_out)}
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
    """What one line says of its video: an answer, a caption, or several captions."""
    row = values if isinstance(values, dict) else {}
    several = row.get("captions")
    single = {name: row[name] for name in row if row[name] is not None and name != "captions"}
    text = {name: str(value).strip() for name, value in single.items() if name}
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
    """A short hash, for names of caches."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _number(text: str) -> int:
    return int(short_hash(text), 16)
