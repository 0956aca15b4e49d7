"""One model in many types, in one table and two plots."""

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.measuring import compare, compare_output, plots
from reellama.gguf_tools.measuring.compare import CompareRow, CompareSettings
from reellama.gguf_tools.measuring.compare_output import ScatterPlot
from reellama.gguf_tools.measuring.divergence import Estimate

pytestmark = pytest.mark.numeric

TEXT = "The ferry came to rest on the gravel, some twenty metres short of the landing. " * 6
OPTIONS = ("--ctx", "64", "--chunks", "2", "--threads", "1")
ROW = CompareRow(
    type="Q4_0",
    n_bytes=1_000_000,
    bits_per_weight=4.5,
    perplexity=Estimate(20.0, 1.0),
    kl=Estimate(0.1, 0.01),
    kl_p99=0.5,
    same_top=Estimate(0.8, 0.01),
    pp=Estimate(100.0, 1.0),
    tg=Estimate(50.0, 1.0),
    peak_rss=1 << 28,
    vram=None,
    accuracy=None,
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> CompareSettings:
    text = tmp_path_factory.mktemp("text") / "ferry.txt"
    text.write_text(TEXT)
    return CompareSettings(
        text, n_ctx=64, n_chunks=2, n_prompt=16, n_gen=4, repetitions=2, n_threads=1
    )


@pytest.fixture(scope="module")
def rows(
    tiny_llama: Path, settings: CompareSettings, tmp_path_factory: pytest.TempPathFactory
) -> list[CompareRow]:
    work = tmp_path_factory.mktemp("work")
    return compare.compare(tiny_llama, ["Q8_0", "Q4_0", "f16"], work=work, settings=settings)


def test_a_row_for_the_base_and_one_for_each_type(rows: list[CompareRow]) -> None:
    assert [row.type for row in rows] == ["F32", "Q8_0", "Q4_0", "F16"]
    base, q8_0, q4_0, f16 = rows
    assert (base.kl, base.kl_p99, base.same_top) == (None, None, None)
    assert f16.kl and q8_0.kl and q4_0.kl
    assert f16.kl.value < q8_0.kl.value < q4_0.kl.value
    assert base.n_bytes > f16.n_bytes > q8_0.n_bytes > q4_0.n_bytes
    assert base.bits_per_weight == pytest.approx(32, abs=0.1)
    assert q8_0.bits_per_weight == pytest.approx(8.5, abs=0.2)
    for row in rows:
        assert row.perplexity.value > 1 and row.pp.value > 0 and row.tg.value > 0
        assert row.peak_rss > 1 << 20
        assert row.accuracy is None


def test_finished_rows_are_kept_and_models_are_not(
    tiny_llama: Path, settings: CompareSettings, tmp_path: Path
) -> None:
    first = compare.compare(tiny_llama, ["Q8_0"], work=tmp_path, settings=settings)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".json"]
    said: list[str] = []

    def progress(_done: int, _total: int, what: str) -> None:
        said.append(what)

    again = compare.compare(
        tiny_llama, ["Q8_0", "Q4_0"], work=tmp_path, settings=settings, progress=progress
    )
    assert again[:2] == first
    assert {what.partition(":")[0] for what in said} == {"Q4_0"}
    assert said[0] == "Q4_0: quantizing"


def test_what_was_measured_in_another_way_is_measured_again(
    tiny_llama: Path, settings: CompareSettings, tmp_path: Path
) -> None:
    [first] = compare.compare(tiny_llama, [], work=tmp_path, settings=settings)
    [again] = compare.compare(tiny_llama, [], work=tmp_path, settings=replace(settings, n_chunks=1))
    assert again.perplexity != first.perplexity
    for path in tmp_path.iterdir():
        path.write_text('{"key": 3')  # somebody's accident
    [mended] = compare.compare(tiny_llama, [], work=tmp_path, settings=settings)
    assert mended.perplexity == first.perplexity


def test_models_are_kept_when_asked_for(
    tiny_llama: Path, settings: CompareSettings, tmp_path: Path
) -> None:
    first = compare.compare(tiny_llama, ["Q8_0"], work=tmp_path, settings=settings, keep=True)
    kept = tmp_path / "llama-Q8_0.gguf"
    assert kept.stat().st_size == first[1].n_bytes
    kept.unlink()
    assert (
        compare.compare(tiny_llama, ["Q8_0"], work=tmp_path, settings=settings, keep=True) == first
    )
    assert kept.exists()


def test_a_score_of_the_caller_is_a_column(
    tiny_llama: Path, settings: CompareSettings, tmp_path: Path
) -> None:
    scored: list[str] = []

    def score(path: Path) -> float:
        scored.append(path.name)
        return 0.75

    found = compare.compare(
        tiny_llama, ["Q8_0"], work=tmp_path, settings=settings, score=score, score_name="videos"
    )
    assert scored == ["llama.gguf", "llama-Q8_0.gguf"]
    assert [row.accuracy for row in found] == [0.75, 0.75]
    header, lines = compare_output.table(found)
    assert (header[-1], lines[0][-1]) == ("accuracy", "75.0%")


def test_a_type_that_cannot_be_made_is_refused_before_anything_is_measured(
    tiny_llama: Path, settings: CompareSettings, tmp_path: Path
) -> None:
    with pytest.raises(ReellamaError, match="Q9_Z"):
        compare.compare(tiny_llama, ["Q8_0", "Q9_Z"], work=tmp_path / "work", settings=settings)
    assert not (tmp_path / "work").exists()


def test_a_killed_comparison_goes_on_and_leaves_no_half_file(
    tiny_llama: Path, settings: CompareSettings, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    command = [
        sys.executable,
        "-m",
        "reellama",
        "gguf",
        "compare",
        str(tiny_llama),
    ]
    command += ["Q8_0", "Q4_0", *OPTIONS, "--text", str(settings.text)]
    command += ["--work", str(work), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (work / "llama-Q8_0.json").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    for path in work.glob("[!.]*.json"):  # what has a final name is whole
        assert json.loads(path.read_text())["row"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [row["type"] for row in json.loads(result.stdout)] == ["F32", "Q8_0", "Q4_0"]
    assert "Q8_0 (" not in result.stderr  # it was not measured again
    assert not list(work.glob("[!.]*.gguf"))


points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


@given(points)
def test_the_front_is_what_no_other_point_beats(found: list[tuple[int, int]]) -> None:
    front = [found[index] for index in compare.pareto_front(found)]
    assert front == sorted(front)
    for x, y in found:
        beaten = any((a <= x and b <= y) and (a, b) != (x, y) for a, b in found)
        assert ((x, y) in front) == (not beaten)


def test_the_two_plots_are_of_size_and_of_speed() -> None:
    small = replace(ROW, type="Q2_K", n_bytes=500_000, kl=Estimate(1.0, 0.1), tg=Estimate(40, 1))
    base = replace(ROW, type="F16", kl=None)
    (_, by_size), (_, by_speed) = found = compare_output.plots([base, ROW, small])
    assert [name for name, _ in found] == ["size", "speed"]
    assert by_size.names == ["Q4_0", "Q2_K"]  # the base is what they are measured from
    assert by_size.front == [1, 0]  # the smaller one first, then the better one
    assert by_speed.front == [0]  # it is both faster and better
    assert by_speed.x == [50, 40]


finite = st.floats(1e-6, 1e6)


@given(st.lists(st.tuples(finite, finite), max_size=70))
def test_the_plot_of_characters_has_a_mark_for_every_type(found: list[tuple[float, float]]) -> None:
    x, y = [a for a, _ in found], [b for _, b in found]
    names = [f"T{number}" for number in range(len(found))]
    plot = ScatterPlot(
        "Quality over size", "file size, MB", names, x, y, compare.pareto_front(found)
    )
    text = compare_output.scatter(plot)
    for name in names:
        assert name in text
    drawing = [line for line in text.splitlines() if "|" in line]
    assert all(len(line) <= 75 for line in drawing)
    if found:
        places = set(zip(_cells(x, 64), _cells([math.log(b) for b in y], 16), strict=True))
        assert sum(len(line.partition("|")[2].replace(" ", "")) for line in drawing) == len(places)


def _cells(values: list[float], n: int) -> list[int]:
    return compare_output._places(values, n)


@pytest.mark.parametrize("n", [1, 15])
def test_plots_are_drawn_as_png_and_svg(tmp_path: Path, n: int) -> None:
    x, y = [float(i % 7 + 1) for i in range(n)], [2.0 ** -(i % 11) for i in range(n)]
    names = [f"IQ{i}_XXS" for i in range(n)]
    front = compare.pareto_front(list(zip(x, y, strict=True)))
    plot = ScatterPlot("Quality over size", "file size, MB", names, x, y, front)
    png, svg = plots.save(plot, tmp_path / "smol.lm-size", "SmolLM2: base F16")
    assert (png.name, svg.name) == ("smol.lm-size.png", "smol.lm-size.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    assert text.lstrip().startswith("<?xml")
    for word in (*names, "file size, MB", "Quality over size", "SmolLM2: base F16"):
        assert word in text
    assert "fill: #ffffff" in text  # a ground of its own, for pages that are dark


def test_the_same_plot_gives_the_same_svg(tmp_path: Path) -> None:
    plot = ScatterPlot("Quality over size", "file size, MB", ["Q4_0"], [1.0], [0.1], [0])
    one, other = (plots.save(plot, tmp_path / name)[1].read_bytes() for name in "ab")
    assert one == other


def test_without_matplotlib_nothing_is_measured_in_vain(
    reellama: Callable, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = reellama("gguf", "compare", tiny_llama, "Q8_0", "--plot", tmp_path / "plot")
    assert (result.status, result.out) == (1, "")
    assert result.err == (
        'reellama: plots need matplotlib; install it with: pip install "reellama[plots]"\n'
    )


def test_the_command_prints_the_table_and_the_plots(
    reellama: Callable, tiny_llama: Path, settings: CompareSettings, tmp_path: Path
) -> None:
    arguments = ["gguf", "compare", tiny_llama, "Q8_0", "Q4_0", *OPTIONS, "--text", settings.text]
    arguments += ["--work", tmp_path / "work"]
    result = reellama(*arguments, "--plot", tmp_path / "plot")
    assert result.status == 0, result.err
    head, *lines = result.out.splitlines()
    assert head.split()[:4] == ["type", "bits/weight", "size", "perplexity"]
    assert [line.split()[0] for line in lines[:3]] == ["F32", "Q8_0", "Q4_0"]
    assert "Quality over size" in result.out and "Quality over speed" in result.out
    assert sorted(path.name for path in tmp_path.glob("plot*")) == [
        "plot-size.png",
        "plot-size.svg",
        "plot-speed.png",
        "plot-speed.svg",
    ]
    markdown = reellama(*arguments, "--markdown").out.splitlines()
    assert len(markdown) == 5 and markdown[2].startswith("| F32 | 32.0")
    assert len(json.loads(reellama(*arguments, "--json").out)) == 3


def test_a_bundle_describes_videos_with_each_type(
    reellama: Callable,
    tiny_llama: Path,
    settings: CompareSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from reellama.pipeline.evaluation.accuracy import Accuracy

    asked: list[tuple[str, int, str]] = []

    class Found:
        def __init__(self) -> None:
            self.scores = {"motion": Accuracy(3, 4), "picture": Accuracy(0, 4)}

    def evaluate(bundle: str, *, clips: int, llm: Path) -> Found:
        asked.append((bundle, clips, llm.name))
        return Found()

    monkeypatch.setattr(
        "reellama.pipeline.evaluation.tasks.clip_descriptions.evaluate_descriptions", evaluate
    )
    arguments = ("gguf", "compare", tiny_llama, "Q8_0", *OPTIONS, "--text", settings.text, "--json")
    result = reellama(*arguments, "--work", tmp_path, "--bundle", "mini", "--clips", "8")
    assert [row["accuracy"] for row in json.loads(result.out)] == [3 / 8, 3 / 8]
    assert asked == [("mini", 8, "llama.gguf"), ("mini", 8, "llama-Q8_0.gguf")]
