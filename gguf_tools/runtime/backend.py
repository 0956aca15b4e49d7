"""Load models with llama.cpp, with its log captured and a guard against the AMX crash.

All models of the project are loaded here, so that the guard always applies.
"""

import ctypes
import os
import re
import weakref
from collections import deque
from pathlib import Path
from typing import Any, Literal, NamedTuple

import llama_cpp.llama_cpp as llama

from reellama.gguf_tools.closeable import Closeable
from reellama.gguf_tools.errors import GGUFError, ReellamaError
from reellama.gguf_tools.format.load_checks import check_loadable
from reellama.gguf_tools.format.reader import GGUFFile
from reellama.gguf_tools.format.split_files import read_model
from reellama.gguf_tools.memory.offload import count_fitting_layers, gpu_share
from reellama.gguf_tools.runtime import aborts, amx_guard
from reellama.gguf_tools.runtime.ggml_library import ggml_function
from reellama.gguf_tools.runtime.tensor_placement import Placement, overrides

GpuLayers = int | Literal["auto", "all"]

LOG_LINES = 200  # log lines of llama.cpp that are kept
LOG_DEBUG, LOG_ERROR, LOG_CONTINUED = 1, 4, 5  # of enum ggml_log_level
DEVICE_GPU, DEVICE_INTEGRATED_GPU = 1, 2  # of enum ggml_backend_dev_type
# llama.cpp's messages on running out of memory, from its different parts.
OUT_OF_MEMORY = re.compile("(cannot|failed to|unable to) allocate|bad_alloc|out of memory", re.I)


class Device(NamedTuple):
    """A device that layers can be offloaded to."""

    name: str
    description: str
    free_bytes: int
    total_bytes: int


_log: deque[tuple[int, str]] = deque(maxlen=LOG_LINES)


def _keep_log(level: int, text: bytes, _user_data: object) -> None:
    line = text.decode("utf-8", "replace")
    if level == LOG_CONTINUED and _log:
        level, beginning = _log.pop()
        line = beginning + line
    if level != LOG_DEBUG:
        _log.append((level, line))


# A global, because a callback must stay referenced for as long as llama.cpp may call it.
log_callback = llama.llama_log_callback(_keep_log)
_started = False


def init() -> None:
    """Initialize llama.cpp, once, and send its log to `log_lines` instead of stderr."""
    global _started
    if not _started:
        _started = True
        llama.llama_log_set(log_callback, ctypes.c_void_p(None))
        llama.llama_backend_init()
        aborts.install_abort_handlers()


def log_lines() -> list[str]:
    """llama.cpp's last LOG_LINES log lines, oldest first."""
    return [text.rstrip("\n") for _, text in _log]


def last_errors() -> list[str]:
    """The error messages among the last log lines, oldest first."""
    return [text.strip() for level, text in _log if level == LOG_ERROR]


def last_error_line() -> str:
    """llama.cpp's last error message on one line, without function names; "" if there is none."""
    line = " ".join(" ".join(last_errors()[-1:]).split())
    return re.sub(r"^(\w+: )+", "", line)


def system_info() -> str:
    """llama.cpp's line on the features of its build and of this processor."""
    init()
    return llama.llama_print_system_info().decode("utf-8", "replace").strip()


def extra_bufts_safe() -> bool:
    """Whether llama.cpp's extra buffer types (weights repacked for AMX) can be used here.

    If the processor and the build have AMX, a child process tries them once, which takes seconds,
    and the answer is cached on disk. The environment variable REELLAMA_EXTRA_BUFTS, "on" or "off",
    overrides it. Raises ReellamaError for any other value of that variable.
    """
    return amx_decision().safe


def amx_decision() -> amx_guard.AmxDecision:
    """The answer of `extra_bufts_safe`, with its reason."""
    return amx_guard.decide_extra_bufts(system_info())


def supports_gpu_offload() -> bool:
    """Whether llama.cpp was compiled for, and found, a device to offload layers to."""
    init()
    return bool(llama.llama_supports_gpu_offload())


def devices() -> list[Device]:
    """The GPUs that llama.cpp can use."""
    init()
    gpus = []
    for index in range(ggml_function("ggml_backend_dev_count", ctypes.c_size_t)()):
        device = ggml_function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)(index)
        type_ = ggml_function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)(device)
        if type_ not in (DEVICE_GPU, DEVICE_INTEGRATED_GPU):
            continue
        name, description = (
            ggml_function(function, ctypes.c_char_p, ctypes.c_void_p)(device).decode(
                "utf-8", "replace"
            )
            for function in ("ggml_backend_dev_name", "ggml_backend_dev_description")
        )
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        size_p = ctypes.POINTER(ctypes.c_size_t)
        memory = ggml_function("ggml_backend_dev_memory", None, ctypes.c_void_p, size_p, size_p)
        memory(device, ctypes.byref(free), ctypes.byref(total))
        gpus.append(Device(name, description, free.value, total.value))
    return gpus


class Model(Closeable):
    """A loaded llama.cpp model. Close it after use, or use it in a `with` block.

    Attributes:
        file: the header of the GGUF.
        n_gpu_layers: offloaded layers, the output layer counted as one; -1 means all.
    """

    def __init__(self, pointer: int, file: GGUFFile, n_gpu_layers: int) -> None:
        self.file = file
        self.n_gpu_layers = n_gpu_layers
        self._pointer = pointer
        # A finalizer also runs at exit, before the interpreter tears down what freeing needs.
        self._free = weakref.finalize(self, llama.llama_model_free, pointer)

    @property
    def ptr(self) -> Any:
        """The `llama_model *`. Raises ReellamaError if the model was closed."""
        if not self._free.alive:
            raise ReellamaError(f"the model {self.path} was closed")
        return self._pointer

    @property
    def vocab(self) -> Any:
        """The `const llama_vocab *`, which lives as long as the model."""
        return llama.llama_model_get_vocab(self.ptr)

    @property
    def path(self) -> Path:
        """The GGUF file that the model was loaded from."""
        return self.file.path

    @property
    def on_gpu(self) -> float:
        """The share of the weights on GPUs, 0 to 1."""
        return gpu_share(self.file, self.n_gpu_layers) if devices() else 0.0

    @property
    def n_embd(self) -> int:
        """Width of a soft token, which is a row of a batch of embeddings."""
        return int(llama.llama_model_n_embd_inp(self.ptr))

    @property
    def n_layer(self) -> int:
        """The number of layers, without the output layer."""
        return int(llama.llama_model_n_layer(self.ptr))

    @property
    def continues_text(self) -> bool:
        """Whether the model predicts the next token. Encoders such as BERT do not."""
        causal = self.file.metadata.get(f"{self.file.architecture}.attention.causal", True)
        decodes = llama.llama_model_has_decoder(self.ptr)
        return bool(causal and decodes and not llama.llama_model_has_encoder(self.ptr))

    def close(self) -> None:
        """Free the model. Contexts of it must have been freed before."""
        self._free()


def load_model(
    path: str | Path,
    *,
    n_gpu_layers: GpuLayers = 0,
    vocab_only: bool = False,
    weights: bool = True,
    use_mmap: bool = True,
    n_ctx: int = 4096,
    placement: Placement = (),
) -> Model:
    """Load a GGUF file with llama.cpp.

    Args:
        n_gpu_layers: layers to offload, the output layer counted as one. "all" or a negative number
            means all, and "auto" as many as fit into the free memory of the GPUs.
        vocab_only: load only the vocabulary, for tokenizing.
        weights: False loads only the vocabulary and the sizes; such a model cannot compute.
        n_ctx: positions of the KV cache for which "auto" leaves room.
        placement: devices of single tensors, whatever their layer (see `tensor_placement`).

    Raises GGUFError for a file that is missing, truncated, damaged, no GGUF or unsupported by
    llama.cpp, and if memory runs out.
    """
    file = read_model(path)
    check_loadable(file)
    init()
    aborts.set_model_name(file.path)
    parameters = llama.llama_model_default_params()
    parameters.n_gpu_layers = _layers_to_offload(file, n_gpu_layers, n_ctx)
    parameters.vocab_only = vocab_only
    parameters.no_alloc = not weights
    mapped = use_mmap and weights  # llama.cpp aborts if both mmap and no_alloc are set
    parameters.load_mode = llama.LLAMA_LOAD_MODE_MMAP if mapped else llama.LLAMA_LOAD_MODE_NONE
    parameters.use_extra_bufts = weights and not vocab_only and extra_bufts_safe()
    buft_overrides = overrides(placement)  # stays referenced until the model is loaded
    if placement:
        parameters.tensor_buft_overrides = ctypes.addressof(buft_overrides)
    _log.clear()
    pointer = llama.llama_model_load_from_file(os.fsencode(file.path), parameters)
    if not pointer:
        raise GGUFError(_load_error(file))
    return Model(pointer, file, parameters.n_gpu_layers)


def _layers_to_offload(file: GGUFFile, n_gpu_layers: GpuLayers, n_ctx: int) -> int:
    if n_gpu_layers == "all":
        return -1
    if n_gpu_layers == "auto":
        gpus = devices()
        return count_fitting_layers(file, n_ctx, sum(gpu.free_bytes for gpu in gpus)) if gpus else 0
    if not isinstance(n_gpu_layers, int):
        raise ReellamaError(f'n_gpu_layers is a number, "auto" or "all", not {n_gpu_layers!r}')
    return max(n_gpu_layers, -1)


def _load_error(file: GGUFFile) -> str:
    errors = last_errors()
    if any(map(OUT_OF_MEMORY.search, errors)):
        return (
            f"not enough memory to load {file.path} ({file.size / 1e9:.2f} GB); "
            "close other programs, or take a smaller or more strongly quantized model"
        )
    # The first error has the cause; later errors only repeat that loading failed.
    reason = errors[0].partition(": ")[2] or errors[0] if errors else "it gave no reason"
    return f"llama.cpp cannot load {file.path}: {' '.join(reason.split())}"
