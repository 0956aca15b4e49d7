"""The `FootageClassifier` without torch: is a video real footage or a drawn clip?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reellama.models.networks.weights_file import read_weights, weight_shapes


class NumpyFootageClassifier:
    """The footage classifier of a bundle. Without weights it takes every video for real footage.

    path: a safetensors file. prefix: of the classifier's weights there.
    """

    def __init__(self, path: Path, prefix: str) -> None:
        names = [f"{prefix}.linear.{name}" for name in ("weight", "bias")]
        is_stored = names[0] in weight_shapes(path)
        self._weights = list(read_weights(path, names).values()) if is_stored else None

    @property
    def has_weights(self) -> bool:
        """Whether the file has the classifier's weights."""
        return self._weights is not None

    def __call__(self, features: np.ndarray) -> bool:
        """Whether features `[T, cells, channels]` are of real footage."""
        return bool(self._classify(features.mean((0, 1))[None])[0])

    def of_frames(self, features: np.ndarray) -> np.ndarray:
        """Whether each frame by itself is of real footage: bool `[T]`."""
        return self._classify(features.mean(1))

    def _classify(self, means: np.ndarray) -> np.ndarray:
        """Mean features `[N, channels]` -> whether each is of real footage, bool `[N]`."""
        if self._weights is None:
            return np.ones(len(means), bool)
        weight, bias = self._weights
        return np.asarray(means @ weight[0] + bias > 0)
