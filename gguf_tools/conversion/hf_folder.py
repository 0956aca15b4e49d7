"""The JSON files of a Hugging Face model folder, and the model's name."""

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reellama.gguf_tools.errors import ReellamaError


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises ReellamaError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReellamaError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ReellamaError(f"{path} is damaged: it is not JSON; download it again") from error
    if not isinstance(value, dict):
        raise ReellamaError(f"{path} is damaged: it is not a JSON object; download it again")
    return value


def read_json_if_there(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty one if there is no file."""
    return read_json(path) if path.is_file() else {}


@contextmanager
def reporting_damage(path: Path) -> Iterator[None]:
    """A context that turns errors from malformed content of `path` into a ReellamaError."""
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        reason = f"{type(error).__name__}: {error}"[:100].replace("\n", " ")
        raise ReellamaError(
            f"{path} is damaged or says what is not known here ({reason}); download it again"
        ) from error


def model_name(folder: Path) -> str:
    """Return a model's name: that of its folder, or of its repository in the hub's cache.

    The hub's cache calls folders `models--owner--name/snapshots/<commit>`.
    """
    folder = folder.resolve()
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return folder.name or "model"
