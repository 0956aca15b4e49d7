"""Speed and memory over a grid of settings, in processes of their own."""

import csv
import io
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.measuring import bench, bench_output
from reellama.gguf_tools.measuring.bench import grid
from reellama.gguf_tools.measuring.bench_results import BenchResult
from reellama.gguf_tools.measuring.bench_tests import BenchTest
from reellama.gguf_tools.runtime import backend
from tests.helpers import tiny_model

pytestmark = pytest.mark.measures

MIB = 1 << 20
TESTS = (BenchTest("pp", 16), BenchTest("tg", 4), BenchTest("sp", 8))
FAST = ("-p", "16", "-n", "4", "-s", "8", "-r", "2", "-t", "1")


@pytest.fixture(scope="module")
def results(tiny_llama: Path) -> list[BenchResult]:
    return bench.run(grid([tiny_llama], n_threads=[1]), TESTS, 3)


def test_each_test_has_its_speed_and_its_samples(results: list[BenchResult]) -> None:
    assert [result.test for result in results] == ["pp16", "tg4", "sp8"]
    for result, n in zip(results, (16, 4, 8), strict=True):
        assert (result.n_prompt + result.n_gen + result.n_soft) == n
        assert len(result.samples_ns) == 3
        speeds = [1e9 * n / sample for sample in result.samples_ns]
        assert result.avg_ts == pytest.approx(statistics.mean(speeds))
        assert result.stddev_ts == pytest.approx(statistics.stdev(speeds))
        assert result.avg_ns == round(statistics.mean(result.samples_ns))
        assert result.load_ns > 0


def test_tensors_are_placed_as_it_is_asked_for(tiny_llama: Path) -> None:
    placed = grid([tiny_llama], n_threads=[1], n_cpu_moe=[0, 1], tensor_buft_overrides=["attn=CPU"])
    first, second = bench.run(placed, TESTS[:1], 1)
    assert (first.n_cpu_moe, second.n_cpu_moe) == (0, 1)
    assert first.tensor_buft_overrides == "attn=CPU"
    assert "ncmoe" in bench_output.table([first, second])[0]
    for text, message in (
        ("attn=Moon", "no memory 'Moon' here; there is .*CPU"),
        ("attn", "'attn' is not PATTERN=MEMORY"),
        ("(=CPU", "is no regular expression"),
    ):
        with pytest.raises(ReellamaError, match=message):
            bench.run(grid([tiny_llama], tensor_buft_overrides=[text]), TESTS[:1], 1)


def test_the_model_and_the_settings_are_named(results: list[BenchResult], tiny_llama: Path) -> None:
    result = results[0]
    assert result.model_filename == str(tiny_llama)
    assert result.model_type.startswith("llama")
    n_weights = sum(array.size for array in tiny_model.weights("llama").values())
    assert (result.model_n_params, result.model_size) == (n_weights, 4 * n_weights)
    assert (result.n_threads, result.n_batch, result.n_ubatch) == (1, 2048, 512)
    assert (result.type_k, result.type_v, result.flash_attn) == ("f16", "f16", "auto")
    assert result.n_gpu_layers == 0


def test_the_peak_of_memory_is_of_the_measuring_process_alone(results: list[BenchResult]) -> None:
    held = bytearray(os.urandom(MIB)) * 400  # which the child must not be charged with
    assert len(held) == 400 * MIB
    [result] = bench.run(grid([results[0].model_filename], n_threads=[1]), [BenchTest("tg", 1)], 1)
    assert 10 * MIB < result.peak_rss < 300 * MIB


def test_a_prompt_longer_than_a_batch_is_read_in_parts(tiny_llama: Path) -> None:
    setups = grid([tiny_llama], n_threads=[1], n_batch=[8], n_ubatch=[4])
    pp, sp = bench.run(setups, [BenchTest("pp", 20), BenchTest("sp", 20)], 1, warmup=False)
    assert (pp.n_prompt, sp.n_soft, pp.n_batch, pp.n_ubatch) == (20, 20, 8, 4)


def test_a_prompt_and_an_answer_are_timed_together_at_a_depth(tiny_llama: Path) -> None:
    tests = [BenchTest.parse(name) for name in ("pp16+tg4", "tg4 @ d64", "pp16+tg4 @ d64")]
    results = bench.run(grid([tiny_llama], n_threads=[1], n_batch=[32]), tests, 2)
    assert [result.test for result in results] == ["pp16+tg4", "tg4 @ d64", "pp16+tg4 @ d64"]
    counts = [(r.n_prompt, r.n_gen, r.n_depth) for r in results]
    assert counts == [(16, 4, 0), (0, 4, 64), (16, 4, 64)]
    both = results[0]
    assert both.avg_ts == pytest.approx(statistics.mean(20e9 / ns for ns in both.samples_ns))


def test_a_model_that_cannot_forget_a_part_is_read_anew_for_each_run(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "mamba.gguf", "mamba")
    [result] = bench.run(grid([path], n_threads=[1]), [BenchTest("tg", 2, depth=16)], 3)
    assert len(result.samples_ns) == 3


def test_numbers_may_be_ranges_as_in_llama_bench(reellama: Callable, tiny_llama: Path) -> None:
    words = (
        "-p",
        "8-24+8",
        "-pg",
        "8,2",
        "-n",
        "2-8*2",
        "-s",
        "0",
        "-d",
        "0,8",
        "-npl",
        "1,2",
        "-r",
        "1",
    )
    result = reellama("gguf", "bench", tiny_llama, "-t", "1", "-o", "jsonl", *words)
    assert result.status == 0
    names = [json.loads(line)["test"] for line in result.out.splitlines()]
    plain = ["pp8", "pp16", "pp24", "tg2", "tg4", "tg8", "pp8+tg2"]
    deep = [f"{name} @ d8" for name in plain]
    assert names == [f"{name}{n}" for each in (plain, deep) for n in ("", " x2") for name in each]


@pytest.mark.parametrize(
    "words",
    [("-p", "8-4"), ("-p", "1-9*1"), ("-p", "0-9*2"), ("-p", "1-99999"), ("-p", "x"), ("-pg", "8")],
)
def test_ranges_that_end_nowhere_are_refused(
    reellama: Callable, tiny_llama: Path, words: tuple[str, str]
) -> None:
    assert reellama("gguf", "bench", tiny_llama, *words).status == 2


def test_soft_tokens_of_a_model_with_positions_in_four_directions(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "qwen2vl.gguf", "qwen2vl")
    [result] = bench.run(grid([path], n_threads=[1]), [BenchTest("sp", 8)], 1)
    assert result.avg_ts > 0


def test_a_grid_is_every_combination(tiny_llama: Path, gemma: Path) -> None:
    setups = grid(
        [tiny_llama, gemma],
        n_gpu_layers=[0, "auto"],
        n_threads=[1, 2, 3],
        type_k=["f16", "q8_0"],
        flash_attn=["on", "auto"],
    )
    assert len(setups) == len(set(setups)) == 2 * 2 * 3 * 2 * 2
    assert [setup.settings.n_threads for setup in setups[:4]] == [1, 2, 3, 1]


def test_a_quantized_kv_cache_is_measured(tiny_llama: Path) -> None:
    # Heads are 16 wide, and q8_0 takes 32 at once: llama.cpp refuses that.
    setups = grid([tiny_llama], n_threads=[1], type_k=["q8_0"])
    with pytest.raises(ReellamaError, match=r"could not make a context of 4 positions .*type_k q8"):
        bench.run(setups, [BenchTest("tg", 4)], 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type_k": ["f17"]}, "type_k cannot be 'f17': choose one of f32, f16"),
        ({"flash_attn": ["maybe"]}, "flash_attn cannot be 'maybe': choose one of auto, off, on"),
        ({"n_threads": [0]}, "n_threads is 0, but must be 1 or more"),
        ({"type_v": ["q8_0"], "flash_attn": ["off"]}, "type_v q8_0 needs flash attention"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_runs(
    tiny_llama: Path, settings: dict, message: str
) -> None:
    with pytest.raises(ReellamaError, match=message):
        grid([tiny_llama], **settings)


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ReellamaError, match=r"cannot read .*gone.gguf: No such file"):
        bench.run(grid([tmp_path / "gone.gguf"]), TESTS, 1)


def test_a_bad_model_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.gguf"
    path.write_text("These are my notes.")
    with pytest.raises(ReellamaError, match="notes.gguf is not a GGUF file"):
        bench.run(grid([path]), TESTS, 1)


def test_a_process_that_dies_is_told_with_what_it_measured(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, sys; sys.stderr.write('GGML_ASSERT(false) failed\\n'); os.abort()"
    monkeypatch.setattr(bench, "CHILD", (sys.executable, "-c", code))
    with pytest.raises(ReellamaError) as caught:
        bench.run(grid([tiny_llama]), TESTS, 1)
    assert "llama.gguf (n_threads default" in str(caught.value)
    assert str(caught.value).endswith("was ended by signal 6: GGML_ASSERT(false) failed")


def test_what_a_file_holds_is_not_measured_again(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept.jsonl"
    setups = grid([tiny_llama], n_threads=[1])
    first = bench.run(setups, TESTS[:2], 1, resume=kept)
    # A line that was being written when the process was killed.
    with kept.open("a") as file:
        file.write('{"key": "ha')
    measured: list[str] = []
    again = bench.run(
        setups,
        TESTS,
        1,
        resume=kept,
        progress=lambda done, total, _: measured.append(f"{done}/{total}"),
    )
    assert again[:2] == first
    assert measured == ["0/2", "1/2", "2/2"]  # a warm-up and a repetition of sp8
    assert [json.loads(line)["test"] for line in kept.read_text().splitlines()] == [
        "pp16",
        "tg4",
        "sp8",
    ]
    monkeypatch.setattr(bench, "CHILD", ("false",))  # nothing is left that would need it
    assert bench.run(setups, TESTS, 1, resume=kept) == again


def test_a_model_that_changed_is_measured_again(tiny_llama: Path, tmp_path: Path) -> None:
    kept, path = tmp_path / "kept.jsonl", tmp_path / "model.gguf"
    path.write_bytes(tiny_llama.read_bytes())
    setups, tests = grid([path], n_threads=[1]), [BenchTest("tg", 2)]
    bench.run(setups, tests, 1, resume=kept)
    os.utime(path, (1, 1))
    bench.run(setups, tests, 1, resume=kept)
    bench.run(setups, tests, 2, resume=kept)  # so is one that is to be measured more often
    assert len(kept.read_text().splitlines()) == 3


@pytest.mark.parametrize("content", ["my notes\n", "[1]\n", '{"key": "a"}\n', "3\n"])
def test_a_file_of_something_else_is_left_alone(
    tiny_llama: Path, tmp_path: Path, content: str
) -> None:
    kept = tmp_path / "notes.txt"
    kept.write_text(content)
    with pytest.raises(ReellamaError, match="is not a file of results: line 1 is something else"):
        bench.run(grid([tiny_llama]), TESTS, 1, resume=kept)
    assert kept.read_text() == content


def test_a_killed_grid_goes_on_where_it_was(tiny_llama: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    command = [sys.executable, "-m", "reellama", "gguf", "bench", str(tiny_llama)]
    command += ["-p", "16", "-n", "0", "-s", "0", "-r", "1", "-ub", "1,2,4,8"]
    command += ["--resume", str(kept), "-o", "json", "-t", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and (not kept.exists() or not kept.read_text()):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    n_kept = len(kept.read_text().splitlines())
    assert 1 <= n_kept <= 4
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [row["n_ubatch"] for row in json.loads(result.stdout)] == [1, 2, 4, 8]
    assert len(kept.read_text().splitlines()) == 4
    assert len(result.stderr.splitlines()) == 4 - n_kept  # a line for each setup that it measured


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
positive = st.integers(1, 2**40)
made = st.builds(
    BenchResult,
    **{
        field.name: {"str": texts, "int": positive, "float": st.floats(0.01, 1e6)}.get(
            str(field.type), st.none() | positive
        )
        for field in fields(BenchResult)
        if field.name != "samples_ns"
    },
    samples_ns=st.lists(positive, min_size=1, max_size=3).map(tuple),
)


@given(st.lists(made, max_size=4))
def test_every_format_gives_back_what_went_in(results: list[BenchResult]) -> None:
    objects = json.loads(bench_output.as_json(results))
    for result, each in zip(results, objects, strict=True):
        assert each.pop("samples_ts") == [_n(result) * 1e9 / ns for ns in result.samples_ns]
        assert BenchResult(**each | {"samples_ns": tuple(each["samples_ns"])}) == result

    rows = list(csv.DictReader(io.StringIO(bench_output.as_csv(results), newline="")))
    database = sqlite3.connect(":memory:")
    database.executescript(bench_output.sql(results))
    stored = database.execute(f"SELECT * FROM {bench_output.TABLE}").fetchall()
    for result, row, values in zip(results, rows, stored, strict=True):
        for name, value in zip(bench_output.FIELDS, values, strict=True):
            assert value == getattr(result, name)
            assert row[name] == ("" if value is None else str(value))


def _n(result: BenchResult) -> int:
    return result.n_parallel * (result.n_prompt + result.n_gen + result.n_soft)


def test_a_table_shows_the_settings_that_differ(results: list[BenchResult]) -> None:
    header, rows = bench_output.table(results)
    assert header == [
        "model",
        "size",
        "params",
        "backend",
        "threads",
        "test",
        "t/s",
        "load",
        "memory",
    ]
    assert [row[5] for row in rows] == ["pp16", "tg4", "sp8"]
    other = replace(results[0], type_k="q8_0", n_batch=64, model_filename="/other.gguf", vram=MIB)
    header, rows = bench_output.table([*results, other])
    assert header[4:7] == ["threads", "n_batch", "type_k"]
    assert header[-1] == "VRAM"
    assert (rows[0][0], rows[-1][0], rows[-1][-1]) == ("llama.gguf", "other.gguf", "1.0 MiB")


@pytest.mark.parametrize("form", ["table", "md", "csv", "json", "sql"])
def test_the_command_writes_any_format(reellama: Callable, tiny_llama: Path, form: str) -> None:
    result = reellama("gguf", "bench", tiny_llama, *FAST, "-n", "0", "-s", "0", "-o", form)
    assert result.status == 0
    assert "pp16" in result.out
    assert result.err.startswith("llama.gguf (n_threads 1, ") and result.err.count("\n") == 1


@pytest.mark.parametrize("options", [("-t", "two"), ("-ngl", "some"), ("-o", "xml")])
def test_wrong_arguments_end_with_2(
    reellama: Callable, tiny_llama: Path, options: tuple[str, ...]
) -> None:
    assert reellama("gguf", "bench", tiny_llama, *options).status == 2


def test_nothing_to_measure_is_said(reellama: Callable, tiny_llama: Path) -> None:
    result = reellama("gguf", "bench", tiny_llama, "-p", "0", "-n", "0", "-s", "0")
    assert (result.status, result.out) == (2, "")
    assert "there is nothing to measure: all of -p, -n, -s and -pg are 0" in result.err


@pytest.mark.skipif(backend.supports_gpu_offload(), reason="there is a GPU here")
def test_who_asks_for_a_gpu_that_is_not_there_is_told(
    reellama: Callable[..., Any], tiny_llama: Path
) -> None:
    found = reellama("gguf", "bench", tiny_llama, *FAST, "-ngl", "0,2")
    assert found.status == 0
    assert found.err.count("finds no GPU here") == 1
