"""Choose the runtime of a bundle's network, and load the network there:

1. onnxruntime with the bundle's own graph (`graphs/NAME.zip`), or
2. onnxruntime with a graph from the user's cache, which was exported on this machine before, or
3. onnxruntime with a graph that is exported now and kept in the cache, if the packages that
   `can_export` names are installed, or
4. torch.

A damaged graph, or one for other weights, counts as missing. REELLAMA_NETWORKS=torch skips 1 to 3.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.cache_folders import EXPORTED_GRAPHS
from reellama.models.networks.graph_file import (
    GRAPHS,
    Graph,
    GraphError,
    fingerprint,
    read_graph,
    write_graph,
)
from reellama.models.networks.weights_file import weight_shapes

EXPORT_PACKAGES = ("torch", "onnx", "onnxscript")
RUNTIME = "REELLAMA_NETWORKS"  # environment variable: `torch` or `onnx`


class NetworkSource(Protocol):
    """A network of a bundle before it is loaded.

    Attributes:
        name: see `network_sources`.
        folder: of the bundle.
        settings: what the network's graph depends on besides the weights, as JSON values.
    """

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def settings(self) -> dict[str, Any]: ...

    def weights(self) -> Path | None:
        """The safetensors file with the network's weights, or None."""
        ...

    def keep_weights(self, folder: Path) -> Path | None:
        """Write the weights into `folder` if no file has them yet, and return their file. Needs
        torch. Raises ReellamaError."""
        ...

    def export(self) -> Graph:
        """Export the network with torch and check the graph against it. Raises GraphError."""
        ...


class OpenedNetwork(NamedTuple):
    """A network's session in onnxruntime, or None where torch must run the network.

    warning: why a graph was not used, else "".
    """

    session: Any  # GraphSession | None; onnxruntime is imported late
    warning: str = ""


def open_network(source: NetworkSource) -> OpenedNetwork:
    """Load a network as the module's docstring says. Raises BundleError for damaged weights."""
    if os.environ.get(RUNTIME, "") == "torch":
        return OpenedNetwork(None)
    weights = source.weights()
    if weights is None and can_export():
        with suppress(OSError):
            weights = source.keep_weights(EXPORTED_GRAPHS)
    if weights is None:
        return OpenedNetwork(None)
    from reellama.models.networks.graph_session import GraphSession

    made_for = fingerprint(source.settings, weight_shapes(weights))
    cached_graph = EXPORTED_GRAPHS / f"{made_for}.zip"
    warning = ""
    for path in (source.folder / GRAPHS / f"{source.name}.zip", cached_graph):
        try:
            graph = read_graph(path, made_for)
            if graph is not None and graph.model:
                return OpenedNetwork(GraphSession(graph, weights), warning)
            if graph is not None:
                return OpenedNetwork(None, warning)  # an earlier export failed
        except GraphError as error:
            warning = f"{path} is not used: {error}"
    graph = _exported(source)
    if graph is None:
        return OpenedNetwork(None, warning)
    with suppress(ReellamaError):  # a graph that is not kept is exported again the next time
        write_graph(cached_graph, graph, made_for)
    if not graph.model:
        return OpenedNetwork(None, f"torch runs the {source.name}: {graph.reason}")
    return OpenedNetwork(GraphSession(graph, weights), warning)


def can_export() -> bool:
    """Whether the packages that torch needs to write ONNX are installed."""
    return all(find_spec(name) for name in EXPORT_PACKAGES)


def write_graphs(sources: Iterable[NetworkSource]) -> list[Path]:
    """Export networks and write their graphs into their bundle; returns the files.

    A CLIP whose weights are not in the bundle gets a copy of them there. Raises GraphError where a
    network cannot be exported or onnxruntime computes something else.
    """
    written = []
    for source in sources:
        weights = source.keep_weights(source.folder / GRAPHS)
        assert weights is not None
        made_for = fingerprint(source.settings, weight_shapes(weights))
        written.append(source.folder / GRAPHS / f"{source.name}.zip")
        write_graph(written[-1], source.export(), made_for)
    return written


def _exported(source: NetworkSource) -> Graph | None:
    """Export a network's graph now; None where the packages are missing, and a graph without a
    model where torch cannot export the network."""
    if not can_export():
        return None
    try:
        return source.export()
    except GraphError as error:
        return Graph(b"", (), str(error))
