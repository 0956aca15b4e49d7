"""A graph in onnxruntime, with its weights: a function of arrays.

session = GraphSession(read_graph(path, made_for), weights)
soft = session(features, times)
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

# Since version 1.29, onnxruntime's binaries for Linux send usage data to Microsoft unless this is
# set before they are loaded. Nothing leaves the machine here.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

from reellama.gguf_tools import heap
from reellama.gguf_tools.threads import default_threads
from reellama.models.networks.graph_file import Graph, GraphError
from reellama.models.networks.weights_file import iter_weights

# In the order of preference; the CPU runs the nodes that CUDA does not support.
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
ERRORS_ONLY = 3  # one of onnxruntime's log levels


class GraphSession:
    """A network in onnxruntime. Several threads may call it at once.

    Args:
        graph: the network without weights.
        weights: the safetensors file with its weights.

    Attributes:
        merges: BPE merges of the tokenizer, for a network that takes tokens.

    Raises:
        GraphError: onnxruntime cannot load the graph.
        BundleError: the weights are damaged.
    """

    def __init__(self, graph: Graph, weights: Path) -> None:
        values = [
            onnxruntime.OrtValue.ortvalue_from_numpy(weight)  # copies the weight
            for _, weight in iter_weights(weights, graph.weights)
        ]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads = default_threads()
        # Threads that spin while they wait take the cores from llama.cpp and from other programs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_external_initializers(list(graph.weights), values)
        options.enable_cpu_mem_arena = False  # an arena never frees memory, and is no faster here
        try:
            self._session = onnxruntime.InferenceSession(
                graph.model, options, providers=providers()
            )
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise GraphError(f"onnxruntime does not take it: {_first_line(error)}") from error
        del values, options
        heap.trim_heap()
        self._inputs = self._session.get_inputs()
        self.merges = graph.merges

    @property
    def input_shape(self) -> list[int | str]:
        """Shape of the first input; a string stands for a dynamic dimension."""
        return list(self._inputs[0].shape)

    def outputs(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """All outputs for the arrays, which have the types and shapes of the network's inputs."""
        names = (value.name for value in self._inputs)
        outputs: list[np.ndarray] = self._session.run(None, dict(zip(names, arrays, strict=True)))
        return outputs

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """The first output for the arrays."""
        return self.outputs(*arrays)[0]


def providers() -> list[str]:
    """The execution providers of onnxruntime on this machine, the fastest first."""
    available = onnxruntime.get_available_providers()
    return [name for name in PROVIDERS if name in available]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
