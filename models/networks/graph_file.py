"""A graph file: what a network computes, as ONNX without its weights.

The weights stay where they are, in a safetensors file, and are handed to onnxruntime by name. So a
graph is a few kilobytes, weights exist once, and new weights of the same shapes need no new graph.

It is a ZIP archive of graph.onnx and graph.json, with merges.txt for a network of texts. The
archive's checksums show damage, and it is written in one step. `made_for` in graph.json is the
fingerprint of the network that it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

from reellama.gguf_tools.atomic_write import replacing
from reellama.gguf_tools.errors import ReellamaError

# Raise it when the networks' code computes something else from the same weights: older graphs are
# then made again.
VERSION = 1
GRAPHS = "graphs"  # the folder of a bundle's graphs
MODEL, DESCRIPTION, MERGES = "graph.onnx", "graph.json", "merges.txt"


class GraphError(ReellamaError):
    """A graph that cannot be used; the message is what is wrong, without the file's name."""


@dataclass(frozen=True)
class Graph:
    """A network's ONNX model, and the names of the weights that it takes from their file.

    reason: why there is no model, where this network cannot be exported; else "".
    merges: of the tokenizer, where it takes tokens (`models/vision/clip_tokenizer.py`).
    """

    model: bytes
    weights: tuple[str, ...]
    reason: str = ""
    merges: str = ""


def fingerprint(settings: Mapping[str, Any], shapes: Mapping[str, Sequence[Any]]) -> str:
    """SHA-256, in hexadecimal, of all but the values of the weights that a graph depends on."""
    fields = [VERSION, settings, sorted(shapes.items())]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_graph(path: Path, made_for: str) -> Graph | None:
    """The graph in a file, None where there is no file.

    Raises GraphError for a file that is damaged, or made for a network with another fingerprint.
    """
    try:
        with ZipFile(path) as archive:
            description = json.loads(archive.read(DESCRIPTION))
            model = archive.read(MODEL)
            merges = archive.read(MERGES).decode() if MERGES in archive.namelist() else ""
        if description["made_for"] != made_for:
            raise GraphError("it was made for other weights, or by another version")
        return Graph(model, tuple(description["weights"]), description["reason"], merges)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise GraphError(f"it cannot be read: {error.strerror}") from error
    except (BadZipFile, zlib.error, ValueError, KeyError, TypeError, EOFError) as error:
        raise GraphError("it is damaged") from error
    except (NotImplementedError, RuntimeError) as error:  # flags of ZIP that Python does not read
        raise GraphError("it is damaged") from error


def write_graph(path: Path, graph: Graph, made_for: str) -> None:
    """Write a graph file, whole or not at all, always of the same bytes for the same graph.

    Raises ReellamaError where it cannot be written.
    """
    description = {"made_for": made_for, "reason": graph.reason, "weights": graph.weights}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReellamaError(f"cannot save {path}: {error.strerror}") from error
    with replacing(path) as temporary, ZipFile(temporary, "w") as archive:
        text = json.dumps(description, indent=0)
        parts = [(MODEL, graph.model), (DESCRIPTION, text.encode())]
        for name, data in (*parts, *([(MERGES, graph.merges.encode())] if graph.merges else [])):
            archive.writestr(ZipInfo(name), data, ZIP_DEFLATED, 9)
