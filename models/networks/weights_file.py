"""Read the weights of a network from a safetensors file into NumPy arrays, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from reellama.models.bundle_config import BundleError


@contextmanager
def opened_weights(path: Path, framework: str = "numpy") -> Iterator[Any]:
    """`safe_open` of a file. Raises BundleError if it is missing or not a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework) as file:
            yield file
    except FileNotFoundError as error:
        raise BundleError(f"{path}: missing; copy the whole bundle, or train it again") from error
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: not a safetensors file: {error}") from error


def read_weights(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Weights by name, float32. Raises BundleError for a bad file and for values not finite."""
    return dict(iter_weights(path, names))


def iter_weights(path: Path, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """As `read_weights`, one by one, so that a caller that copies them never holds them twice."""
    with opened_weights(path) as file:
        for name in names:
            weight = file.get_tensor(name).astype(np.float32)
            if not np.isfinite(weight).all():
                raise not_finite(path, name)
            yield name, weight


def weight_shapes(path: Path) -> dict[str, list[Any]]:
    """Type and shape of each tensor in a file, by name: `["F16", 576, 384]`. Reads the header
    only."""
    with opened_weights(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no dict
    return {name: [part.get_dtype(), *part.get_shape()] for name, part in slices.items()}


def not_finite(path: Path, name: str) -> BundleError:
    """The error for a weight with NaN or infinite values."""
    return BundleError(
        f"{path}: {name} holds NaN or infinite numbers; the training diverged or the file is "
        "damaged"
    )
