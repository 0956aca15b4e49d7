"""Whether a video is real footage or a drawn clip: a `FootageClassifier` without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reellama.models.networks.weights_file import read_weights, weight_shapes


class NumpyFootageClassifier:
    """The classifier in a bundle's weights file, whose names there begin with `prefix`; without
    one, everything is real footage."""

    def __init__(self, path: Path, prefix: str) -> None:
        names = [f"{prefix}.linear.{name}" for name in ("weight", "bias")]
        known = names[0] in weight_shapes(path)
        self._weights = list(read_weights(path, names).values()) if known else None

    @property
    def has_weights(self) -> bool:
        """Whether there is a classifier."""
        return self._weights is not None

    def __call__(self, features: np.ndarray) -> bool:
        """Whether features `[T, cells, channels]` are of real footage."""
        return bool(self._classify(features.mean((0, 1))[None])[0])

    def of_frames(self, features: np.ndarray) -> np.ndarray:
        """Which frames by themselves are of real footage: bool `[T]`."""
        return self._classify(features.mean(1))

    def _classify(self, means: np.ndarray) -> np.ndarray:
        if self._weights is None:
            return np.ones(len(means), bool)
        weight, bias = self._weights
        return np.asarray(means @ weight[0] + bias > 0)
