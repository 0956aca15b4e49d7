"""Export a network from torch to a graph without weights, and check the one against the other."""

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

OPSET = 18  # of ONNX: what onnxruntime reads since 2023
FRAMES = "frames"  # the name of the dimension of any size, the first of each input
CHECKED_FRAMES = (1, 2, 5)  # how many frames a graph is checked with
# The largest difference from torch's float32, in parts of its largest number. Measured: 2e-6.
TOLERANCE = 1e-4


def export_graph(
    module: nn.Module, inputs: Mapping[str, Tensor], weight_names: Mapping[str, str]
) -> Graph:
    """The graph of a module in float32, in inference mode.

    inputs: examples with two frames or more, by name, in their order. weight_names: what the file
    of the weights calls them, by their names in the module; others become a part of the graph.
    Raises GraphError where torch cannot export the module.
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
                optimize=False,  # else products with weights would become new weights
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
    """Compare what onnxruntime and torch make of random inputs that are like the example.

    Raises GraphError where they differ.
    """
    session = GraphSession(graph, weights)
    random = torch.Generator().manual_seed(0)
    for count in CHECKED_FRAMES:
        inputs = [_random_like(tensor, count, random) for tensor in example.values()]
        with torch.inference_mode():
            wanted = module(*inputs)
        outputs = session.outputs(*(each.cpu().numpy() for each in inputs))
        for found, tensor in zip(
            outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True
        ):
            difference = float(np.abs(found - tensor.cpu().numpy()).max())
            if not difference <= TOLERANCE * float(tensor.abs().max()):
                raise GraphError(f"onnxruntime is {difference:.2g} away from torch")


def _random_like(example: Tensor, count: int, random: torch.Generator) -> Tensor:
    shape = (count, *example.shape[1:])
    if example.dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
    if example.dtype == torch.int64:  # tokens: the last one of the vocabulary ends a text
        ids = torch.randint(0, int(example.max()), shape, generator=random)
        ids[:, -1] = example.max()
        return ids
    if example.ndim == 1:  # times: they ascend
        return torch.arange(count, dtype=example.dtype)
    return torch.randn(shape, generator=random)


def _without_weights(model: ModelProto, weight_names: Mapping[str, str]) -> ModelProto:
    """The model, simplified, with references in place of the weights, by their names in the file.

    They are inputs while it is simplified: what is computed from them alone is left to onnxruntime.
    """
    from onnx import helper
    from onnxscript import optimizer

    kept = [w for w in model.graph.initializer if w.name not in weight_names]
    weights = [w for w in model.graph.initializer if w.name in weight_names]
    inputs = list(model.graph.input)
    _replace(model.graph.initializer, kept)
    model.graph.input.extend(
        helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in weights
    )
    model = optimizer.optimize(model)
    _replace(
        model.graph.input, [i for i in model.graph.input if i.name in {v.name for v in inputs}]
    )
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(_reference(w) for w in weights if w.name in used)
    _drop_source_locations(model)
    for named in (*model.graph.initializer,):
        named.name = weight_names.get(named.name, named.name)
    for node in model.graph.node:
        _replace(node.input, [weight_names.get(name, name) for name in node.input])
    return model


def _reference(weight: TensorProto) -> TensorProto:
    """A tensor whose numbers are elsewhere: onnxruntime is given them by its name."""
    from onnx import TensorProto

    size = int(np.prod(weight.dims)) * np.dtype(np.float32).itemsize
    made = TensorProto(name=weight.name, data_type=weight.data_type, dims=weight.dims)
    made.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights"), ("offset", "0"), ("length", str(size))):
        entry = made.external_data.add()
        entry.key, entry.value = key, value
    return made


def _drop_source_locations(model: ModelProto) -> None:
    """Remove where in the sources each node comes from: nine tenths of the bytes."""
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
    return [w for w in model.graph.initializer if w.external_data]


def _replace(repeated: Any, values: Sequence[Any]) -> None:
    """Put other values into a repeated field of a protobuf."""
    kept = list(values)
    del repeated[:]
    repeated.extend(kept)
