"""Captions without a model that writes: those of the clips that look most alike.

Devlin et al., 2015, "Exploring nearest neighbor approaches for image captioning": of the captions
of the nearest clips the one that agrees best with the others, the consensus, is said.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from math import log, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reellama.gguf_tools.atomic_write import replacing, stamp
from reellama.gguf_tools.errors import ReellamaError
from reellama.models.cache_folders import TRUNK_FEATURES
from reellama.pipeline.evaluation.caption_metrics import caption_words
from reellama.pipeline.evaluation.captioned_clips import CaptionedClip
from reellama.pipeline.video.clip import read_frames
from reellama.pipeline.video.read_options import MAX_SIDE

if TYPE_CHECKING:
    from reellama.models.vision.encoder import Tower

FRAMES = 8  # of a clip
TRUNK_SIDE = 224  # pixels
MAX_N = 4  # longest n-gram

NGram = tuple[str, ...]
Vector = dict[NGram, float]


class CaptionSimilarity:
    """How alike captions are: cosine of n-grams weighed by rarity, mean over n of 1 to 4.

    That is CIDEr (Vedantam et al., 2015) between two captions. `groups` are the captions of each
    clip, by which rarity is counted.
    """

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self._clips = Counter(
            gram for captions in groups for gram in {g for text in captions for g in _grams(text)}
        )
        self._all = log(max(2, len(groups)))

    def vector(self, caption: str) -> Vector:
        """Weights of the n-grams, of length 1/2 for each n: two vectors make 1 at most."""
        weights = {
            gram: count * (self._all - log(max(1, self._clips[gram])))
            for gram, count in Counter(_grams(caption)).items()
        }
        lengths = [0.0] * (MAX_N + 1)
        for gram, weight in weights.items():
            lengths[len(gram)] += weight * weight
        return {
            gram: weight / sqrt(MAX_N * lengths[len(gram)])
            for gram, weight in weights.items()
            if weight
        }

    def consensus(self, captions: Sequence[str]) -> str:
        """The caption with the highest mean similarity to all; the first of equals."""
        vectors = [self.vector(caption) for caption in captions]
        total: Counter[NGram] = Counter()
        for vector in vectors:
            total.update(vector)
        # The mean of products is the product with the mean.
        scores = [sum(w * total[gram] for gram, w in vector.items()) for vector in vectors]
        return captions[int(np.argmax(scores))]


def _grams(text: str) -> Iterable[NGram]:
    words = caption_words(text)
    return (tuple(words[i : i + n]) for n in range(1, MAX_N + 1) for i in range(len(words) - n + 1))


def imagenet_trunk() -> Tower:
    """EfficientNet-lite0 as ImageNet trained it: the same for every bundle that is measured."""
    from reellama.models.training.phases.contrastive import NewTowerConfig, new_clip
    from reellama.models.vision.encoder import Tower

    return Tower(new_clip(NewTowerConfig(image_size=TRUNK_SIDE)))


def trunk_features(
    clips: Sequence[CaptionedClip],
    tower: Tower,
    *,
    cache: Path | None = TRUNK_FEATURES,
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """The mean of all cells of all frames, as unit rows: float32 [clips, channels].

    A clip that cannot be read is a row of zeros. Rows are kept in `cache` for the next time.
    """
    cache_path = None if cache is None else cache / f"{_key(clips)}.npy"
    if cache_path is not None:
        with suppress(OSError, ValueError, EOFError):
            return np.load(cache_path, allow_pickle=False)
    rows: list[np.ndarray | None] = []
    for clip in clips:
        row = None
        with suppress(ReellamaError):
            frames = read_frames(clip.video, frames=FRAMES, max_side=MAX_SIDE).frames
            row = tower.grid(frames).mean((0, 1))
        rows.append(row)
        progress(len(rows))
    width = next((len(row) for row in rows if row is not None), 0)
    features = np.stack([np.zeros(width) if row is None else row for row in rows])
    features = (features / np.maximum(np.linalg.norm(features, axis=1), 1e-9)[:, None]).astype(
        np.float32
    )
    if cache_path is not None:
        with suppress(OSError, ReellamaError):  # the answer is as good, only not kept
            cache_path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(cache_path) as temporary, open(temporary, "wb") as file:
                np.save(file, features)
    return features


def neighbour_captions(
    features: np.ndarray,
    train: Sequence[CaptionedClip],
    train_features: np.ndarray,
    similarity: CaptionSimilarity,
    k: int,
) -> list[str]:
    """For each row of `features` the consensus of the captions of its `k` nearest of `train`."""
    nearest = np.argsort(-(features @ train_features.T), axis=1, kind="stable")[:, :k]
    return [
        similarity.consensus([caption for i in row for caption in train[i].captions])
        for row in nearest
    ]


def _key(clips: Sequence[CaptionedClip]) -> str:
    """What the features depend on, as a name for a file."""
    key_fields = [FRAMES, TRUNK_SIDE, *([str(c.video.resolve()), *stamp(c.video)] for c in clips)]
    return hashlib.sha256(json.dumps(key_fields).encode()).hexdigest()
