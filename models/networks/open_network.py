"""Which runtime a network of a bundle runs in: the one place where that is decided.

1. onnxruntime, with the graph beside the bundle's weights (`graphs/NAME.zip`);
2. else with the graph that was exported on this machine before (`graphs/` in the user's cache);
3. else it is exported now, checked against torch and kept there, where the packages for that are;
4. else torch, as it does when REELLAMA_NETWORKS is `torch`.

A graph that is damaged, or made for another network, counts as missing.
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

EXPORTERS = ("torch", "onnx", "onnxscript")  # with which torch writes ONNX
RUNTIME = "REELLAMA_NETWORKS"  # environment: `torch` or `onnx`


class NetworkSource(Protocol):
    """A network of a bundle before it is loaded.

    name: see `network_sources`. folder: the bundle. settings: what its graph depends on beside its
    weights, as JSON.
    """

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def settings(self) -> dict[str, Any]: ...

    def weights(self) -> Path | None:
        """The safetensors file of its weights; None where there is none."""
        ...

    def keep_weights(self, folder: Path) -> Path | None:
        """Write the weights, where there is no file of them, into a folder, by torch; returns the
        file. Raises ReellamaError."""
        ...

    def export(self) -> Graph:
        """The network's graph, made by torch and checked against it. Raises GraphError."""
        ...


class OpenedNetwork(NamedTuple):
    """A network's session in onnxruntime, None where torch must run it; and a warning where a graph
    could not be used, else ""."""

    session: Any  # GraphSession | None: onnxruntime is imported late
    warning: str = ""


def open_network(source: NetworkSource) -> OpenedNetwork:
    """Load a network as this module says. Raises BundleError for weights that are damaged."""
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
                return OpenedNetwork(None, warning)  # known not to be exportable
        except GraphError as error:
            warning = f"{path} is not used: {error}"
    graph = _exported(source)
    if graph is None:
        return OpenedNetwork(None, warning)
    with suppress(ReellamaError):  # the answer is just as good, only not as quick the next time
        write_graph(cached_graph, graph, made_for)
    if not graph.model:
        return OpenedNetwork(None, f"torch runs the {source.name}: {graph.reason}")
    return OpenedNetwork(GraphSession(graph, weights), warning)


def can_export() -> bool:
    """Whether the packages are here with which torch writes ONNX."""
    return all(find_spec(name) for name in EXPORTERS)


def write_graphs(sources: Iterable[NetworkSource]) -> list[Path]:
    """Export networks and write their graphs into their bundle, with the weights of a tower that
    open_clip keeps elsewhere.

    Raises GraphError where that cannot be done, or where onnxruntime makes something else of it.
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
    """The network's graph, made now; one without a model where torch cannot export it, None where
    ONNX cannot be written here."""
    if not can_export():
        return None
    try:
        return source.export()
    except GraphError as error:
        return Graph(b"", (), str(error))
