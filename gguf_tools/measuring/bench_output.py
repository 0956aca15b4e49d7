"""Results of `bench` as text, with llama-bench's names for the fields: Markdown, CSV, JSON, SQL."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from reellama.gguf_tools.measuring.bench_results import BenchResult
from reellama.gguf_tools.sizes import show_size

TABLE = "reellama_bench"  # in SQL
FIELDS = tuple(field.name for field in fields(BenchResult) if field.name != "samples_ns")
INTEGERS = (
    "model_size",
    "model_n_params",
    "n_batch",
    "n_ubatch",
    "n_threads",
    "n_gpu_layers",
    "n_prompt",
    "n_gen",
    "n_soft",
    "n_depth",
    "n_parallel",
    "n_cpu_moe",
    "avg_ns",
    "stddev_ns",
    "load_ns",
    "peak_rss",
    "vram",
)
REALS = ("avg_ts", "stddev_ts")
# Settings that a table shows if they differ between results, and their short names.
SETTINGS = {"n_gpu_layers": "ngl", "n_threads": "threads", "n_batch": "n_batch"}
SETTINGS |= {"n_cpu_moe": "ncmoe", "tensor_buft_overrides": "ot"}
SETTINGS |= {"n_ubatch": "n_ubatch", "type_k": "type_k", "type_v": "type_v", "flash_attn": "fa"}
ALWAYS = "n_threads"


def table(results: Sequence[BenchResult]) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows of a table for people, as strings."""
    settings = [
        name
        for name in SETTINGS
        if name == ALWAYS or len({getattr(result, name) for result in results}) > 1
    ]
    if any(result.backends != "CPU" for result in results) and "n_gpu_layers" not in settings:
        settings.insert(0, "n_gpu_layers")
    with_vram = any(result.vram is not None for result in results)
    names = {Path(result.model_filename).name for result in results}
    several = len(names) > len({result.model_type for result in results})
    header = ["model", "size", "params", "backend", *(SETTINGS[name] for name in settings)]
    header += ["test", "t/s", "load", "memory", *(["VRAM"] if with_vram else [])]
    rows = []
    for result in results:
        row = [Path(result.model_filename).name if several else result.model_type]
        row += [show_size(result.model_size), _count(result.model_n_params), result.backends]
        row += [str(getattr(result, name)) for name in settings]
        row += [result.test, f"{result.avg_ts:.2f} ± {result.stddev_ts:.2f}"]
        row += [f"{result.load_ns / 1e9:.2f} s", show_size(result.peak_rss)]
        row += [show_size(result.vram or 0)] if with_vram else []
        rows.append(row)
    return header, rows


def markdown(results: Sequence[BenchResult]) -> str:
    """Return a Markdown table."""
    header, rows = table(results)
    marks = ["---" if name in ("model", "backend") else "---:" for name in header]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, marks, *rows))


def as_csv(results: Sequence[BenchResult]) -> str:
    """Return CSV with a header, with all values in quotes as in llama-bench."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(FIELDS)
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for result in results:
        writer.writerow(["" if value is None else value for value in _values(result)])
    return file.getvalue()


def as_json(results: Sequence[BenchResult]) -> str:
    """Return a JSON array of objects, with the samples in ns and in tokens a second."""
    return json.dumps([_object(result) for result in results], indent=2) + "\n"


def as_jsonl(results: Sequence[BenchResult]) -> str:
    """Return the objects of `as_json`, one a line."""
    return "".join(json.dumps(_object(result)) + "\n" for result in results)


def sql(results: Sequence[BenchResult]) -> str:
    """Return SQL statements that create a table, if it does not exist, and fill it."""
    kinds = {**dict.fromkeys(INTEGERS, "INTEGER"), **dict.fromkeys(REALS, "REAL")}
    declared = ",\n".join(f"  {name} {kinds.get(name, 'TEXT')}" for name in FIELDS)
    lines = [f"CREATE TABLE IF NOT EXISTS {TABLE} (\n{declared}\n);\n"]
    for result in results:
        literals = ", ".join(map(_literal, _values(result)))
        lines.append(f"INSERT INTO {TABLE} ({', '.join(FIELDS)}) VALUES ({literals});")
    return "\n".join(lines) + "\n"


FORMATS = {"md": markdown, "csv": as_csv, "json": as_json, "jsonl": as_jsonl, "sql": sql}


def _values(result: BenchResult) -> list[Any]:
    return [getattr(result, name) for name in FIELDS]


def _object(result: BenchResult) -> dict[str, Any]:
    n = result.n_parallel * (result.n_prompt + result.n_gen + result.n_soft)
    return {**asdict(result), "samples_ts": [1e9 * n / time for time in result.samples_ns]}


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return repr(value) if isinstance(value, (int, float)) else "'" + value.replace("'", "''") + "'"


def _count(n: int) -> str:
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.2f} M"
