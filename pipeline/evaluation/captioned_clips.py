"""Clips with captions by people, read from JSONL: `{"video": path, "captions": [...]}`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.user_paths import expand_user


@dataclass(frozen=True)
class CaptionedClip:
    """A video or a still picture, with captions by people."""

    video: Path
    captions: tuple[str, ...]


@dataclass(frozen=True)
class CaptionedSplit:
    """The clips that a bundle is evaluated on.

    Attributes:
        clips: all clips of the split.
        train: other clips, from which baselines may learn; may be empty.
        max_clips: clips that a task draws at most.
        seed: seed of the draws.
    """

    clips: list[CaptionedClip]
    train: list[CaptionedClip]
    max_clips: int
    seed: int = 0

    def rng(self) -> np.random.Generator:
        """A new random generator with the split's seed."""
        return np.random.default_rng(self.seed)

    def sample(self, clips: Sequence[CaptionedClip] | None = None) -> list[CaptionedClip]:
        """A random sample of at most `max_clips` of `clips` (default: all), in their order."""
        clips = self.clips if clips is None else clips
        drawn = self.rng().permutation(len(clips))[: self.max_clips]
        return [clips[i] for i in sorted(drawn)]


def read_captioned(path: Path) -> list[CaptionedClip]:
    """Read the clips of a JSONL file, with paths relative to the file.

    A line has `captions`, a list of texts, or `caption`, a text. Lines of the same video are joined
    into one clip. Raises ReellamaError, which names the line, for a line that cannot be used, and
    for fewer than two clips.
    """
    path = expand_user(path)
    captions_by_video: dict[Path, tuple[str, ...]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ReellamaError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReellamaError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                clip = _clip(json.loads(line), path.parent)
            except ValueError as error:  # from json.loads or _clip
                raise ReellamaError(f"{path}, line {number}: {error}") from error
            captions_by_video[clip.video] = captions_by_video.get(clip.video, ()) + clip.captions
    if len(captions_by_video) < 2:
        raise ReellamaError(f"{path}: {len(captions_by_video)} clips in it; two or more are needed")
    return [CaptionedClip(video, captions) for video, captions in captions_by_video.items()]


def _clip(row: Any, folder: Path) -> CaptionedClip:
    """The clip of one line. Raises ValueError, which states what is wrong with the line."""
    if not isinstance(row, dict) or not isinstance(row.get("video"), str):
        raise ValueError("`video` must be a text")
    captions = row.get("captions", row.get("caption"))
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not captions:
        raise ValueError("`captions` must be a list of texts")
    if not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise ValueError("`captions` must be texts, none of them empty")
    video = folder / expand_user(row["video"])
    if not video.exists():
        raise ValueError(f"there is no {video}")
    return CaptionedClip(video, tuple(captions))


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without numbers.

    >>> words_of("A man's dog, 2 cats")
    ['a', 'man', 's', 'dog', 'cats']
    """
    return re.findall(r"[a-z]+", text.lower())
