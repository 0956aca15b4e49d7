"""A graph in onnxruntime, with its weights: a function of arrays.

session = GraphSession(read_graph(path, made_for), weights)
soft = session(features, times)
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

# Since 1.29 its binaries for Linux report to Microsoft how they are used, unless this is set
# before they are loaded. Nothing leaves the machine here.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

from reellama.gguf_tools import heap
from reellama.gguf_tools.threads import default_threads
from reellama.models.networks.graph_file import Graph, GraphError
from reellama.models.networks.weights_file import each_weight

# In the order in which they are tried; the processor takes what another does not.
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
ERRORS_ONLY = 3  # of onnxruntime's levels of logging


class GraphSession:
    """A network that runs in onnxruntime. It may be called from several threads at once.

    merges: of the tokenizer, for a network of texts.

    Raises GraphError for a graph that onnxruntime does not take, and BundleError for weights that
    are damaged.
    """

    def __init__(self, graph: Graph, weights: Path) -> None:
        values = [
            onnxruntime.OrtValue.ortvalue_from_numpy(weight)  # a copy
            for _, weight in each_weight(weights, graph.weights)
        ]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads = default_threads()
        # Threads that spin while they wait take the cores from llama.cpp and from other programs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_external_initializers(list(graph.weights), values)
        options.enable_cpu_mem_arena = False  # it keeps what was taken once, and is no quicker
        try:
            self._session = onnxruntime.InferenceSession(
                graph.model, options, providers=providers()
            )
        except Exception as error:  # onnxruntime's own kinds have no base in common
            raise GraphError(f"onnxruntime does not take it: {_first_line(error)}") from error
        del values, options
        heap.trim_heap()
        self._inputs = self._session.get_inputs()
        self.merges = graph.merges

    @property
    def input_shape(self) -> list[int | str]:
        """Sizes of the first input; a string where any size is taken."""
        return list(self._inputs[0].shape)

    def outputs(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Run it on arrays of the types and shapes that the network takes."""
        names = (each.name for each in self._inputs)
        found: list[np.ndarray] = self._session.run(None, dict(zip(names, arrays, strict=True)))
        return found

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """The first of its outputs."""
        return self.outputs(*arrays)[0]


def providers() -> list[str]:
    """What onnxruntime may run graphs on here, the quickest first."""
    found = onnxruntime.get_available_providers()
    return [name for name in PROVIDERS if name in found]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
