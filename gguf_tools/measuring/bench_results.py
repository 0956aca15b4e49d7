"""Results of `bench`, and the file of results from which a grid resumes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reellama.gguf_tools.errors import ReellamaError


@dataclass(frozen=True)
class BenchResult:
    """The result of one test of one setup. Fields that llama-bench has, too, have its names."""

    test: str
    build: str
    cpu_info: str
    gpu_info: str
    backends: str
    model_filename: str
    model_type: str
    model_size: int  # bytes of its tensors
    model_n_params: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    type_k: str
    type_v: str
    n_gpu_layers: int  # -1: all
    flash_attn: str
    n_prompt: int
    n_gen: int
    n_soft: int
    test_time: str  # RFC 3339, when it ended
    avg_ns: int
    stddev_ns: int
    avg_ts: float  # tokens a second
    stddev_ts: float
    load_ns: int
    peak_rss: int  # bytes, of the process that measured all tests of this setup
    vram: int | None  # bytes, None without a GPU
    samples_ns: tuple[int, ...]
    n_depth: int = 0  # positions in the KV cache before the test
    n_parallel: int = 1  # sequences at once; avg_ts counts the tokens of all
    n_cpu_moe: int = 0  # first layers whose experts stay on the CPU
    tensor_buft_overrides: str = ""  # PATTERN=MEMORY;...


class ResultsFile:
    """Results by key, in memory and in an append-only file of JSON lines."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._results: dict[str, BenchResult] = {}
        if path is not None and path.exists():
            text = _read(path)
            whole = text[: text.rfind("\n") + 1]
            for number, line in enumerate(whole.splitlines(), 1):
                try:
                    entry = json.loads(line)
                    key = entry.pop("key")
                    self._results[key] = _from_json(entry)
                except (ValueError, LookupError, TypeError, AttributeError):
                    raise ReellamaError(
                        f"{path} is not a file of results: line {number} is something else; "
                        "give another file"
                    ) from None
            if len(whole) < len(text):  # a line that was being written when the process ended
                self._write("r+", whole, truncate=True)

    def __contains__(self, key: str) -> bool:
        return key in self._results

    def __getitem__(self, key: str) -> BenchResult:
        return self._results[key]

    def add(self, results: dict[str, BenchResult]) -> None:
        self._results |= results
        lines = (json.dumps({"key": key, **asdict(result)}) for key, result in results.items())
        self._write("a", "".join(f"{line}\n" for line in lines))

    def _write(self, mode: str, text: str, *, truncate: bool = False) -> None:
        if self._path is None:
            return
        try:
            with self._path.open(mode, encoding="utf-8") as file:
                file.write(text)
                if truncate:
                    file.truncate()
        except OSError as error:
            raise ReellamaError(f"cannot write {self._path}: {error.strerror}") from error


def _from_json(entry: dict[str, Any]) -> BenchResult:
    return BenchResult(**entry | {"samples_ns": tuple(entry["samples_ns"])})


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ReellamaError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReellamaError(f"{path} is not a file of results; give another file") from error
