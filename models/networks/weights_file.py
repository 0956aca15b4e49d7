"""The weights of a network in a safetensors file, as numpy arrays, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from reellama.models.bundle_config import BundleError


@contextmanager
def opened_weights(path: Path, framework: str = "numpy") -> Iterator[Any]:
    """A weights file as safetensors opens it. Raises BundleError for one that is missing or is
    none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework) as file:
            yield file
    except FileNotFoundError as error:
        raise BundleError(f"{path}: missing; copy the whole bundle, or train it again") from error
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: not a safetensors file: {error}") from error


def read_weights(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Weights by name, float32. Raises BundleError, for numbers that are not finite too."""
    return dict(each_weight(path, names))


def each_weight(path: Path, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors one by one, so that a caller that copies them never has all of them twice."""
    with opened_weights(path) as file:
        for name in names:
            weight = file.get_tensor(name).astype(np.float32)
            if not np.isfinite(weight).all():
                raise not_finite(path, name)
            yield name, weight


def weight_shapes(path: Path) -> dict[str, list[Any]]:
    """The type and the shape of each of its tensors, by name; only the header is read."""
    with opened_weights(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no dict
    return {name: [part.get_dtype(), *part.get_shape()] for name, part in slices.items()}


def not_finite(path: Path, name: str) -> BundleError:
    """The error for a weight that holds NaN or infinite numbers."""
    return BundleError(
        f"{path}: {name} holds NaN or infinite numbers; the training diverged or the file is "
        "damaged"
    )
