"""Collect statistics of the inputs of a model's weight matrices while llama.cpp computes.

llama.cpp calls back for every node of its graph, before and after the node is computed, with a
ggml_tensor. No function gives access to that structure's fields (above all `src`), so the structure
is declared here and checked on tensors with known content before use.
"""

from __future__ import annotations

import ctypes
from functools import cache

import llama_cpp.llama_cpp as llama
import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime.ggml_library import ggml_function

MAX_DIMS, MAX_SRC, MAX_OP_PARAMS, MAX_NAME = 4, 10, 64, 64  # GGML_MAX_*
OBJECT_BYTES = 32  # sizeof(struct ggml_object), which precedes a tensor in memory
TYPE_F32 = 0  # GGML_TYPE_F32
OUTPUT = "output.weight"
# Products of fewer rows are skipped, as in llama.cpp's tools/imatrix.
MIN_ROWS = 16


class GGMLTensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * MAX_DIMS),  # lengths, of a row first
        ("nb", ctypes.c_size_t * MAX_DIMS),  # strides in bytes
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * (MAX_OP_PARAMS // 4)),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * MAX_SRC),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * MAX_NAME),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    ]


class Activations:
    """Sums of squares of the inputs of each weight matrix of the blocks.

    Make a context with `callback`, and call `check` after every decode. The products that count are
    those of llama.cpp's tools/imatrix.

    Args:
        process_output: include the output matrix, unless it is tied to the token embeddings.

    Attributes:
        sums: by weight name, float64 `[n_experts or 1, n_inputs]`.
        counts: by weight name, the rows summed up, int64 `[n_experts or 1]`.
        callback: the `cb_eval` of a context.

    Raises ReellamaError if llama.cpp's ggml_tensor is not the structure declared here.
    """

    def __init__(self, *, process_output: bool = False) -> None:
        self._process_output = process_output
        self._mul_mat, self._mul_mat_id = check_layout()
        self.sums: dict[str, np.ndarray] = {}
        self.counts: dict[str, np.ndarray] = {}
        self.callback = llama.ggml_backend_sched_eval_callback(self._on_node)
        self._error: BaseException | None = None

    def check(self) -> None:
        """Raise the error of the callback, if any: exceptions cannot pass through llama.cpp."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _on_node(self, pointer: int, ask: bool, _user_data: object) -> bool:
        """With `ask`, whether the node is needed; else add its inputs, and False ends the graph."""
        try:
            if self._error is not None:
                return ask
            node = GGMLTensor.from_address(pointer)
            if ask:
                return self._is_needed(node)
            if node.op == self._mul_mat:
                self._add(node)
            else:
                self._add_experts(node)
        except BaseException as error:  # noqa: BLE001  # Ctrl-C too is passed on by check
            self._error = error
            return ask
        return True

    def _is_needed(self, node: GGMLTensor) -> bool:
        if node.op == self._mul_mat_id:
            return True
        if node.op != self._mul_mat:
            return False
        inputs = GGMLTensor.from_address(node.src[1])
        if inputs.ne[1] < MIN_ROWS or inputs.type != TYPE_F32:
            return False
        name = weight_name(node.src[0])
        return name.startswith("blk.") or (self._process_output and name == OUTPUT)

    def _add(self, node: GGMLTensor) -> None:
        weight = GGMLTensor.from_address(node.src[0])
        rows = _floats(node.src[1])  # [ne3, ne2, n_rows, n_inputs]
        n_matrices = weight.ne[2] * weight.ne[3]
        sums, counts = self._entry(weight_name(node.src[0]), 1, n_matrices * rows.shape[-1])
        by_matrix = sums.reshape(n_matrices, -1)
        for i3, i2 in np.ndindex(rows.shape[:2]):
            matrix = i3 % weight.ne[3] * weight.ne[2] + i2 % weight.ne[2]
            by_matrix[matrix] += _squares(rows[i3, i2])
        counts += rows[..., 0].size // n_matrices
        _check_finite(sums, node)

    def _add_experts(self, node: GGMLTensor) -> None:
        weight = GGMLTensor.from_address(node.src[0])
        rows = _floats(node.src[1])[0]  # [n_tokens, n_expert_used or 1, n_inputs]
        experts = _array(node.src[2], np.int32)[0, 0]  # [n_tokens, n_expert_used]
        n_experts = weight.ne[2]
        sums, counts = self._entry(weight_name(node.src[0]), n_experts, n_experts * rows.shape[-1])
        for used in range(experts.shape[1]):
            column = rows[:, used % rows.shape[1]]
            for expert in np.unique(experts[:, used]):
                chosen = column[experts[:, used] == expert]
                sums[expert] += _squares(chosen)
                counts[expert] += len(chosen)
        _check_finite(sums, node)

    def _entry(self, name: str, n_counts: int, n_values: int) -> tuple[np.ndarray, np.ndarray]:
        sums = self.sums.setdefault(name, np.zeros((n_counts, n_values // n_counts)))
        return sums, self.counts.setdefault(name, np.zeros(n_counts, np.int64))


@cache
def check_layout() -> tuple[int, int]:
    """Check GGMLTensor on a product of two tensors.

    Returns the numbers of the operations MUL_MAT and MUL_MAT_ID. Raises ReellamaError if a field
    has another offset.
    """
    context = ggml_function("ggml_init", ctypes.c_void_p, _InitParams)(
        _InitParams(1 << 16, None, False)
    )
    try:
        new = ggml_function("ggml_new_tensor_3d", ctypes.c_void_p, *_NEW_TENSOR_3D)
        left, right = new(context, TYPE_F32, 3, 5, 1), new(context, TYPE_F32, 3, 7, 2)
        ggml_function("ggml_set_name", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
            left, b"a name"
        )
        product = ggml_function("ggml_mul_mat", ctypes.c_void_p, *[ctypes.c_void_p] * 3)(
            context, left, right
        )
        node, weight, inputs = map(GGMLTensor.from_address, (product, left, right))
        overhead = ggml_function("ggml_tensor_overhead", ctypes.c_size_t)()
        data = ggml_function("ggml_get_data", ctypes.c_void_p, ctypes.c_void_p)(right)
        ops = _operations()
        matches = (
            overhead - OBJECT_BYTES == ctypes.sizeof(GGMLTensor)
            and (list(node.ne), list(node.src[:3])) == ([5, 7, 2, 1], [left, right, None])
            and (list(inputs.ne), list(inputs.nb)) == ([3, 7, 2, 1], [4, 12, 84, 168])
            and (weight.name, inputs.data, node.type) == (b"a name", data, TYPE_F32)
            and ops.get(b"MUL_MAT") == node.op
            and b"MUL_MAT_ID" in ops
        )
    finally:
        ggml_function("ggml_free", None, ctypes.c_void_p)(context)
    if not matches:
        raise ReellamaError(
            "the installed llama.cpp keeps its tensors in another way than this reellama knows; "
            "install the versions that belong together: pip install -U reellama llama-cpp-python"
        )
    return ops[b"MUL_MAT"], ops[b"MUL_MAT_ID"]


def weight_name(pointer: int) -> str:
    """The name of a weight. A copy on a device is named `CUDA0#name#0`, of which `name` is used."""
    name = GGMLTensor.from_address(pointer).name.decode("utf-8", "replace")
    parts = name.split("#")
    return parts[1] if len(parts) > 1 else name


class _InitParams(ctypes.Structure):
    _fields_ = [
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    ]


_NEW_TENSOR_3D = (ctypes.c_void_p, ctypes.c_int, *[ctypes.c_int64] * 3)


def _operations() -> dict[bytes, int]:
    """Operation numbers by name; the numbers change between versions of ggml."""
    name = ggml_function("ggml_op_name", ctypes.c_char_p, ctypes.c_int)
    # 48 is above the number of MUL_MAT_ID, and below GGML_OP_COUNT, where ggml's table ends.
    return {name(number): number for number in range(48)}


def _floats(pointer: int) -> np.ndarray:
    return _array(pointer, np.float32)


def _array(pointer: int, dtype: type) -> np.ndarray:
    """Copy a tensor of four-byte numbers from its device: `[ne3, ne2, ne1, ne0]`."""
    tensor = GGMLTensor.from_address(pointer)
    n_bytes = ggml_function("ggml_nbytes", ctypes.c_size_t, ctypes.c_void_p)(pointer)
    buffer = np.empty(n_bytes, np.uint8)
    get = ggml_function("ggml_backend_tensor_get", None, *_TENSOR_GET)
    get(pointer, buffer.ctypes.data, 0, n_bytes)
    return np.ndarray(tuple(tensor.ne)[::-1], dtype, buffer, 0, tuple(tensor.nb)[::-1])


_TENSOR_GET = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)


def _squares(rows: np.ndarray) -> np.ndarray:
    """Sums of squares over rows: float32 `[n, n_inputs]` to float64 `[n_inputs]`."""
    return np.einsum("ij,ij->j", rows, rows).astype(np.float64)


def _check_finite(sums: np.ndarray, node: GGMLTensor) -> None:
    if not np.isfinite(sums).all():
        raise ReellamaError(
            f"the inputs of {weight_name(node.src[0])} are not finite numbers: the model is damaged"
        )
