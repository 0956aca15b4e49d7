"""A captioning baseline: the consensus caption of the nearest training clips.

Devlin et al., 2015, "Exploring nearest neighbor approaches for image captioning": the consensus is
the caption that is most similar to all captions of the nearest clips.
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

FRAMES = 8  # frames of a clip
TRUNK_SIDE = 224  # pixels, the side of the trunk's input
MAX_N = 4  # words of the longest n-gram, as in CIDEr

NGram = tuple[str, ...]
Vector = dict[NGram, float]


class CaptionSimilarity:
    """CIDEr (Vedantam et al., 2015) between two captions, as a product of vectors.

    It is the cosine of n-grams weighted by rarity, averaged over n from 1 to 4.

    groups: the captions of each clip, from which rarity is computed.
    """

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self._clips = Counter(
            gram for captions in groups for gram in {g for text in captions for g in _grams(text)}
        )
        self._all = log(max(2, len(groups)))

    def vector(self, caption: str) -> Vector:
        """The weights of a caption's n-grams, with norm 1/2 for each n, so products are up to 1."""
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
        """The caption with the highest mean similarity to all captions; the first of equals."""
        vectors = [self.vector(caption) for caption in captions]
        total: Counter[NGram] = Counter()
        for vector in vectors:
            total.update(vector)
        # The sum of the products with all vectors is the product with the sum of the vectors.
        scores = [sum(w * total[gram] for gram, w in vector.items()) for vector in vectors]
        return captions[int(np.argmax(scores))]


def _grams(text: str) -> Iterable[NGram]:
    words = caption_words(text)
    return (tuple(words[i : i + n]) for n in range(1, MAX_N + 1) for i in range(len(words) - n + 1))


def imagenet_trunk() -> Tower:
    """EfficientNet-lite0 trained on ImageNet, which is the same for all evaluated bundles."""
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
    """Features of clips, averaged over cells and frames: float32 `[n_clips, channels]`, unit rows.

    Clips that cannot be read get rows of zeros.

    Args:
        cache: folder for the features; None computes them anew.
        progress: called with the clips done.
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
        with suppress(OSError, ReellamaError):  # a cache that cannot be written is no error
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
    """For each row of `features`, the consensus caption of its `k` nearest clips in `train`."""
    nearest = np.argsort(-(features @ train_features.T), axis=1, kind="stable")[:, :k]
    return [
        similarity.consensus([caption for i in row for caption in train[i].captions])
        for row in nearest
    ]


def _key(clips: Sequence[CaptionedClip]) -> str:
    """The name of a cache file: a hash of all that the features depend on."""
    key_fields = [FRAMES, TRUNK_SIDE, *([str(c.video.resolve()), *stamp(c.video)] for c in clips)]
    return hashlib.sha256(json.dumps(key_fields).encode()).hexdigest()
