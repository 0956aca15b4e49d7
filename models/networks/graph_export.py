"""Export a network from torch to a graph without weights, and check the graph against torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from reellama.models.networks.graph_file import Graph, GraphError
from reellama.models.networks.graph_session import GraphSession

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

OPSET = 18  # of ONNX; onnxruntime reads it since 2023
FRAMES = "frames"  # name of the dynamic dimension, the first of each input
CHECKED_FRAMES = (1, 2, 5)  # numbers of frames that a graph is checked with
# Largest difference from torch's float32 output, relative to its largest value. Measured: 2e-6.
TOLERANCE = 1e-4


def export_graph(
    module: nn.Module, inputs: Mapping[str, Tensor], weight_names: Mapping[str, str]
) -> Graph:
    """The graph of a module in float32, in inference mode.

    Args:
        module: computes the outputs from the inputs.
        inputs: example inputs of two frames or more, by name, in the module's order.
        weight_names: name of a weight in the module -> its name in the weights file. Weights that
            are not in it become a part of the graph.

    Raises:
        GraphError: torch cannot export the module.
    """
    frames = torch.export.Dim(FRAMES, min=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                input_names=list(inputs),
                dynamic_shapes=tuple({0: frames} for _ in inputs),
                dynamo=True,
                optimize=False,  # constant folding would turn products of weights into new weights
                opset_version=OPSET,
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise GraphError(f"torch cannot export it: {reason}") from error
    model = _without_weights(model, weight_names)
    return Graph(model.SerializeToString(), tuple(w.name for w in _external(model)))


def check_graph(
    graph: Graph, weights: Path, module: nn.Module, example: Mapping[str, Tensor]
) -> None:
    """Raise GraphError where onnxruntime and torch differ on random inputs like the example."""
    session = GraphSession(graph, weights)
    random = torch.Generator().manual_seed(0)
    for n_frames in CHECKED_FRAMES:
        inputs = [_random_like(tensor, n_frames, random) for tensor in example.values()]
        with torch.inference_mode():
            expected = module(*inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        outputs = session.outputs(*(tensor.cpu().numpy() for tensor in inputs))
        for output, tensor in zip(outputs, expected, strict=True):
            difference = float(np.abs(output - tensor.cpu().numpy()).max())
            # Written so that a NaN fails, too.
            if not difference <= TOLERANCE * float(tensor.abs().max()):
                raise GraphError(f"onnxruntime is {difference:.2g} away from torch")


def _random_like(example: Tensor, n_frames: int, random: torch.Generator) -> Tensor:
    """A random input of the example's type and of `n_frames` frames."""
    shape = (n_frames, *example.shape[1:])
    if example.dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
    if example.dtype == torch.int64:  # CLIP's token ids; the largest is the end of the text
        ids = torch.randint(0, int(example.max()), shape, generator=random)
        ids[:, -1] = example.max()
        return ids
    if example.ndim == 1:  # times, which ascend
        return torch.arange(n_frames, dtype=example.dtype)
    return torch.randn(shape, generator=random)


def _without_weights(model: ModelProto, weight_names: Mapping[str, str]) -> ModelProto:
    """The model, optimized, with references in place of the weights, named as in their file.

    While the model is optimized, the weights are inputs, so that the optimizer folds no constants
    out of them. onnxruntime does that when it loads the weights.
    """
    from onnx import helper
    from onnxscript import optimizer

    constants = [w for w in model.graph.initializer if w.name not in weight_names]
    weights = [w for w in model.graph.initializer if w.name in weight_names]
    inputs = {value.name for value in model.graph.input}
    _replace(model.graph.initializer, constants)
    model.graph.input.extend(
        helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in weights
    )
    model = optimizer.optimize(model)
    _replace(model.graph.input, [value for value in model.graph.input if value.name in inputs])
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(_reference(w) for w in weights if w.name in used)
    _drop_source_locations(model)
    for tensor in model.graph.initializer:
        tensor.name = weight_names.get(tensor.name, tensor.name)
    for node in model.graph.node:
        _replace(node.input, [weight_names.get(name, name) for name in node.input])
    return model


def _reference(weight: TensorProto) -> TensorProto:
    """A tensor without values; `GraphSession` gives them to onnxruntime by the tensor's name."""
    from onnx import TensorProto

    n_bytes = int(np.prod(weight.dims)) * np.dtype(np.float32).itemsize
    reference = TensorProto(name=weight.name, data_type=weight.data_type, dims=weight.dims)
    reference.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights"), ("offset", "0"), ("length", str(n_bytes))):
        entry = reference.external_data.add()
        entry.key, entry.value = key, value
    return reference


def _drop_source_locations(model: ModelProto) -> None:
    """Remove the source location of each node, which takes nine tenths of the bytes."""
    model.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    parts: Sequence[Any] = (
        *model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output,
    )  # fmt: skip
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _external(model: ModelProto) -> list[TensorProto]:
    """The tensors that are references to the weights file."""
    return [w for w in model.graph.initializer if w.external_data]


def _replace(repeated: Any, values: Sequence[Any]) -> None:
    """Replace the values of a repeated field of a protobuf."""
    copied = list(values)  # deleting below invalidates values that are still in the field
    del repeated[:]
    repeated.extend(copied)
