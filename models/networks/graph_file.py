"""Graph files: a network as ONNX, without its weights.

The weights stay in their safetensors file and are handed to onnxruntime by name. So a graph is a
few kilobytes, weights are stored once, and new weights of the same shapes need no new graph.

A graph file is a ZIP archive of graph.onnx and graph.json, and for a network that takes tokens
merges.txt. The archive's checksums show damage. `made_for` in graph.json is the `fingerprint` of
the network.
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

# Count it up when the code of a network changes its outputs: older graphs are then exported again.
VERSION = 1
GRAPHS = "graphs"  # the folder of a bundle's graphs
MODEL, DESCRIPTION, MERGES = "graph.onnx", "graph.json", "merges.txt"


class GraphError(ReellamaError):
    """A graph that cannot be used. The message says why, without the file's name."""


@dataclass(frozen=True)
class Graph:
    """A network as ONNX, without its weights.

    Attributes:
        model: the ONNX model, serialized; empty where torch cannot export the network.
        weights: names of the weights that the model takes from their file.
        reason: why `model` is empty, else "".
        merges: BPE merges of the tokenizer, for a network that takes tokens
            (`models/vision/clip_tokenizer.py`).
    """

    model: bytes
    weights: tuple[str, ...]
    reason: str = ""
    merges: str = ""


def fingerprint(settings: Mapping[str, Any], shapes: Mapping[str, Sequence[Any]]) -> str:
    """SHA-256, in hexadecimal, of what a graph depends on: all but the values of the weights.

    Args:
        settings: of the network, see `NetworkSource.settings`.
        shapes: type and shape of each weight, see `weight_shapes`.
    """
    fields = [VERSION, settings, sorted(shapes.items())]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_graph(path: Path, made_for: str) -> Graph | None:
    """The graph in a file, or None if there is no file.

    Raises GraphError for a damaged file and for a fingerprint other than `made_for`.
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
    """Write a graph file atomically; the same graph always gives the same bytes.

    Raises ReellamaError for a file that cannot be written.
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
