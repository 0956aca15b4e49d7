"""llama.cpp's quantizer in a process of its own.

    python -m reellama.gguf_tools.quantization.quantize_child

`llama_model_quantize` cannot be interrupted, and aborts the process if one of its assertions fails.
A child process can be killed at any moment, and an abort ends only the child. Jobs go to the
child's stdin, and llama.cpp's log comes from its stdout, as lines of JSON. When stdin is closed, as
when the parent is killed, the child removes its partial file and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from reellama.gguf_tools.closeable import Closeable
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.lazy_packages import import_lazily

if TYPE_CHECKING:
    from reellama.gguf_tools.quantization.imatrix import Imatrix

COMMAND = (sys.executable, "-m", "reellama.gguf_tools.quantization.quantize_child")
MAX_STRING = 127  # bytes of a string in a llama_model_kv_override

LogCallback = Callable[[int, str], None]  # level and text of llama.cpp's log


@dataclass(frozen=True)
class QuantizeJob:
    """The arguments of a call of `llama_model_quantize`. Paths are absolute."""

    source: str
    output: str
    ftype: int  # of llama.cpp's enum llama_ftype
    only_copy: bool = False
    dry_run: bool = False
    pure: bool = False
    output_type: int | None = None  # this and the other tensor types: of ggml's enum ggml_type
    embedding_type: int | None = None
    # Regular expressions with types; the first that matches a tensor's name counts.
    overrides: tuple[tuple[str, int], ...] = ()
    quantize_output: bool = True
    metadata: tuple[tuple[str, int | float | bool | str], ...] = ()  # keys to set
    prune_layers: tuple[int, ...] = ()
    keep_split: bool = False  # as many files as the source; `output` is their common prefix
    imatrix: str | None = None
    n_threads: int = 0  # 0: one for each processor


class QuantizerProcess(Closeable):
    """The parent's handle of the child process. Use it in a `with` block, which ends it."""

    def __init__(self) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the child
        self._child = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            cwd=Path(__file__).parents[3],  # where the child finds this package
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # else a failed assertion calls gdb
        )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def run(self, job: QuantizeJob, on_log: LogCallback) -> bool:
        """Run a job; returns whether it succeeded. Raises ReellamaError if the child died."""
        assert self._child.stdin is not None and self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(asdict(job)) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        for line in self._child.stdout:
            message = json.loads(line)
            if "done" in message:
                return bool(message["done"])
            if "error" in message:
                raise ReellamaError(message["error"])
            on_log(message["level"], message["text"])
        raise self._death()

    def _death(self) -> ReellamaError:
        status = self._child.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it gave no reason")
        exit_text = f"signal {-status}" if status < 0 else f"exit status {status}"
        return ReellamaError(f"llama.cpp's quantizer ended with {exit_text}: {last}")

    def close(self) -> None:
        """Kill the child."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._stderr):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]  # both are pipes


def main() -> None:
    """Run jobs until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the child
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # other output must not get into the replies
    jobs: queue.SimpleQueue[QuantizeJob] = queue.SimpleQueue()
    unfinished: list[QuantizeJob] = []
    threading.Thread(target=_receive, args=(jobs, unfinished), daemon=True).start()

    def reply(**message: Any) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    # Import the functions alone: the rest of llama_cpp takes longer than to quantize a small model.
    import_lazily(["llama_cpp"])
    from llama_cpp import llama_cpp as llama

    @llama.llama_log_callback  # stays referenced: main does not return before the process ends
    def log(level: int, text: bytes, _user_data: object) -> None:
        reply(level=level, text=text.decode("utf-8", "replace"))

    llama.llama_log_set(log, ctypes.c_void_p(None))
    llama.llama_backend_init()
    while True:
        job = jobs.get()
        try:
            done = _quantize(llama, job)
        except ReellamaError as error:
            unfinished.remove(job)
            reply(error=str(error))
        else:
            unfinished.remove(job)  # before the reply, after which the file is the parent's
            reply(done=done)


def _receive(jobs: queue.SimpleQueue[QuantizeJob], unfinished: list[QuantizeJob]) -> None:
    """Pass jobs to the main thread, and end the process when stdin is closed."""
    for line in sys.stdin:
        fields = json.loads(line)
        for name in ("overrides", "metadata"):
            fields[name] = tuple(map(tuple, fields[name]))
        fields["prune_layers"] = tuple(fields["prune_layers"])
        job = QuantizeJob(**fields)
        unfinished.append(job)  # from here on this process removes the job's partial file
        jobs.put(job)
    for job in unfinished:
        if not job.dry_run:
            _remove_output(job)
    os._exit(1)


def _remove_output(job: QuantizeJob) -> None:
    """Remove the files of an unfinished job, and with `keep_split` their temporary folder too."""
    output = Path(job.output)
    if not job.keep_split:
        output.unlink(missing_ok=True)
        return
    for part in output.parent.glob(f"{glob.escape(output.name)}-*-of-*.gguf"):
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        output.parent.rmdir()


def _quantize(llama: Any, job: QuantizeJob) -> bool:
    parameters = llama.llama_model_quantize_default_params()
    parameters.nthread = job.n_threads
    parameters.ftype = job.ftype
    parameters.only_copy, parameters.dry_run, parameters.pure = (
        job.only_copy,
        job.dry_run,
        job.pure,
    )
    parameters.keep_split = job.keep_split
    parameters.allow_requantize = True  # the caller warns
    parameters.quantize_output_tensor = job.quantize_output
    if job.prune_layers:
        parameters.prune_layers = (ctypes.c_int32 * (len(job.prune_layers) + 1))(
            *job.prune_layers, -1
        )
    metadata: dict[str, int | float | bool | str] = dict(job.metadata)
    if job.output_type is not None:
        parameters.output_tensor_type = job.output_type
    if job.embedding_type is not None:
        parameters.token_embedding_type = job.embedding_type
    overrides = [(pattern.encode(), type_) for pattern, type_ in job.overrides]
    if overrides:
        end = (None, llama.GGML_TYPE_COUNT)
        array = llama.llama_model_tensor_override * (len(overrides) + 1)
        parameters.tt_overrides = array(*overrides, end)
    if job.imatrix is not None:
        from reellama.gguf_tools.quantization.imatrix import read_imatrix

        imatrix = read_imatrix(job.imatrix)
        weights = imatrix.weights()  # stays referenced until the call returns
        parameters.imatrix = _imatrix_data(llama, weights)
        metadata |= imatrix_metadata(imatrix, job.imatrix)
    if metadata:
        parameters.kv_overrides = _kv_overrides(llama, metadata)
    return (
        llama.llama_model_quantize(
            os.fsencode(job.source), os.fsencode(job.output), ctypes.byref(parameters)
        )
        == 0
    )


def imatrix_metadata(imatrix: Imatrix, path: str) -> dict[str, int | str]:
    """The metadata that llama-quantize adds to a model quantized with an imatrix.

    Only the name of the file is kept, not its folder: models are published, and paths are private.
    """
    metadata: dict[str, int | str] = {"quantize.imatrix.file": _cut(Path(path).name)}
    if imatrix.datasets:
        metadata["quantize.imatrix.dataset"] = _cut(imatrix.datasets[0])
    metadata["quantize.imatrix.entries_count"] = len(imatrix.sums)
    if imatrix.chunk_count > 0:
        metadata["quantize.imatrix.chunks_count"] = imatrix.chunk_count
    return metadata


def _cut(text: str) -> str:
    return text.encode("utf-8", "replace")[:MAX_STRING].decode("utf-8", "ignore")


def _imatrix_data(llama: Any, weights: dict[str, Any]) -> Any:
    float_p = ctypes.POINTER(ctypes.c_float)
    array = llama.llama_model_imatrix_data * (len(weights) + 1)  # the last, empty, ends it
    return array(
        *(
            (name.encode(), values.ctypes.data_as(float_p), values.size)
            for name, values in weights.items()
        )
    )


def _kv_overrides(llama: Any, metadata: dict[str, int | float | bool | str]) -> Any:
    array = (llama.llama_model_kv_override * (len(metadata) + 1))()  # the last, empty, ends it
    for override, (key, value) in zip(array, metadata.items(), strict=False):
        override.key = key.encode()
        if isinstance(value, bool):
            override.tag, override.value.val_bool = llama.LLAMA_KV_OVERRIDE_TYPE_BOOL, value
        elif isinstance(value, int):
            override.tag, override.value.val_i64 = llama.LLAMA_KV_OVERRIDE_TYPE_INT, value
        elif isinstance(value, float):
            override.tag, override.value.val_f64 = llama.LLAMA_KV_OVERRIDE_TYPE_FLOAT, value
        else:
            override.tag = llama.LLAMA_KV_OVERRIDE_TYPE_STR
            override.value.val_str = value.encode()
    return array


if __name__ == "__main__":
    main()
