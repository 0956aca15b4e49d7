"""Picking a quantization: what is measured, what is remembered, and the rule."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.download import hub
from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.locate.stores import hub_cache
from reellama.gguf_tools.measuring.divergence import Estimate
from reellama.gguf_tools.measuring.perplexity import measure_perplexity
from reellama.gguf_tools.memory.offload import plan_offload
from reellama.gguf_tools.picking.candidates import HubModel, LocalModel
from reellama.gguf_tools.picking.pick import Picked, PickSettings, pick
from reellama.gguf_tools.picking.selection import Limits, Measured, broken_limits, choose
from reellama.gguf_tools.quantization.quantize import quantize
from tests.conftest import Result
from tests.helpers.hub_server import Hub, running

Run = Callable[..., Result]
TYPES = ("Q8_0", "Q4_0")
MEMORY = 1 << 30


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("Eight maids a-milking, seven swans a-swimming. " * 12)
    return path


@pytest.fixture(scope="module")
def settings(text: Path) -> PickSettings:
    return PickSettings(text, n_chunks=1, n_gen=2, repetitions=1, n_threads=1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def first(tiny_llama: Path, settings: PickSettings, work: Path) -> Picked:
    """Both types of the tiny model, measured."""
    source = LocalModel(str(tiny_llama), TYPES, work)
    return pick(source, Limits(), work, n_ctx=512, memory=MEMORY, settings=settings)


@pytest.mark.numeric
def test_each_type_is_measured_against_the_file(
    first: Picked, tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    assert [*first.measured] == ["F32", *TYPES] and first.n_new == 3
    assert first.measured["F32"].kl == Estimate(0.0, 0.0)
    [made] = quantize(tiny_llama, "Q4_0", tmp_path / "q4.gguf")
    divergence = measure_perplexity(
        made.path, text, reference=tiny_llama, n_chunks=1, n_threads=1
    ).divergence
    q4 = first.measured["Q4_0"]
    assert divergence and q4.kl.value == pytest.approx(divergence.kl.value, rel=1e-3)
    assert q4.n_bytes == made.path.stat().st_size
    assert q4.plan == plan_offload(read_gguf(made.path), 512, MEMORY)
    assert q4.speed.value > 0 and q4.peak_rss > made.n_bytes
    assert all(first.predicted[name] > 0 for name in first.measured)


def test_a_second_run_measures_nothing_and_may_ask_otherwise(
    first: Picked, tiny_llama: Path, settings: PickSettings, work: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere.gguf"  # it is known by its content
    moved.write_bytes(tiny_llama.read_bytes())
    limit = first.measured["Q8_0"].kl.value
    source = LocalModel(str(moved), TYPES, work)
    again = pick(source, Limits(max_kld=limit), work, n_ctx=1024, memory=MEMORY, settings=settings)
    assert again.n_new == 0 and again.choice == "Q8_0"
    assert again.measured["Q4_0"].kl == first.measured["Q4_0"].kl
    assert again.measured["Q4_0"].plan.n_ctx == 1024
    assert not [path for path in work.rglob("*.gguf") if path.stat().st_blocks * 512 > 1 << 16]


def test_another_file_is_measured_anew(
    first: Picked, tiny_llama: Path, settings: PickSettings, work: Path, tmp_path: Path
) -> None:
    content = tiny_llama.read_bytes()
    (tmp_path / "other.gguf").write_bytes(content[:-4] + b"\0\0\0\0")
    source = LocalModel(str(tmp_path / "other.gguf"), ["F32"], work)
    assert not source.others
    assert pick(source, Limits(), work, n_ctx=512, memory=MEMORY, settings=settings).n_new == 1


def measured(first: Measured, n_bytes: int, kl: float, speed: float) -> Measured:
    plan = replace(first.plan, all_bytes=n_bytes + 5)
    kl_, speed_ = Estimate(kl, 0.0), Estimate(speed, 0.0)
    return replace(first, n_bytes=n_bytes, kl=kl_, speed=speed_, plan=plan)


numbers = st.integers(0, 5)


@given(
    st.lists(st.tuples(numbers, numbers, numbers), max_size=6),
    st.none() | numbers,
    st.none() | numbers,
    st.none() | numbers,
)
def test_what_is_picked_is_the_best_of_what_keeps_the_limits(
    first: Picked,
    files: list[tuple[int, int, int]],
    kld: int | None,
    speed: int | None,
    vram: int | None,
) -> None:
    found = [measured(first.measured["Q4_0"], *each) for each in files]
    limits = Limits(kld, speed, None if vram is None else vram + 5)
    keeping = [
        (n_bytes, kl)
        for n_bytes, kl, tokens in files
        if (kld is None or kl <= kld)
        and (speed is None or tokens >= speed)
        and (vram is None or n_bytes <= vram)
    ]
    chosen = choose(found, limits)
    if chosen is None:
        assert not keeping and all(broken_limits(each, limits) for each in found)
        return
    best = min(keeping) if kld is not None else min(keeping, key=lambda each: each[::-1])
    assert (chosen.n_bytes, chosen.kl.value) == best and not broken_limits(chosen, limits)


@pytest.fixture(scope="module")
def on_hub(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("made")
    made = {each.type: each.path for each in quantize(tiny_llama, ["F16", *TYPES], folder)}
    files = {f"Tiny-{type_}.gguf": path.read_bytes() for type_, path in made.items()}
    return files | {"README.md": b"# Tiny", "mmproj-Tiny-F16.gguf": b"GGUF"}


@pytest.fixture
def server(
    empty_home: Path, on_hub: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    with running(Hub({"owner/Tiny-GGUF": on_hub})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # as it was at start
        monkeypatch.setattr(hub, "FIRST_PAUSE", 0.01)
        yield server


def test_of_the_hub_one_file_after_another_is_there(
    server: Hub, on_hub: dict[str, bytes], settings: PickSettings, tmp_path: Path
) -> None:
    most = 0

    def watch(*_: object) -> None:
        nonlocal most
        whole = {len(content) for name, content in on_hub.items() if name.startswith("Tiny")}
        lying = [p for p in tmp_path.glob("reellama-*/*.gguf") if p.stat().st_size in whole]
        most = max(most, len(lying))

    def run(limits: Limits) -> Picked:
        source = HubModel("hf:owner/Tiny-GGUF", (), print, watch)
        return pick(
            source, limits, tmp_path, n_ctx=512, memory=MEMORY, settings=settings, progress=watch
        )

    small = run(Limits(vram=len(on_hub["Tiny-Q4_0.gguf"]) + 1))
    assert [*small.measured] == ["F16", "Q4_0"] and "Q8_0" in small.skipped
    assert small.choice is None  # its KV cache and the rest do not fit
    n_downloads = len(server.downloads)
    assert n_downloads == 2 and not any("Q8_0" in r.path for r in server.downloads)
    everything = run(Limits(max_kld=10.0))
    assert [*everything.measured] == ["F16", *sorted(TYPES)] and everything.n_new == 1
    assert everything.choice == "Q4_0" and most == 1
    n_downloads = len(server.downloads)
    assert run(Limits()).n_new == 0 and len(server.downloads) == n_downloads
    assert not [*tmp_path.glob("tmp*"), *hub_cache().glob("models--*/blobs/*")]


def test_a_repository_without_a_reference_is_refused(server: Hub, on_hub: dict[str, bytes]) -> None:
    server.repos["owner/Q4-GGUF"] = {"Tiny-Q4_0.gguf": on_hub["Tiny-Q4_0.gguf"]}
    for name, match in (
        ("owner/Q4-GGUF", "none of F32, BF16, F16, Q8_0, Q6_K to measure others against"),
        ("owner/Tiny-GGUF:Q4_0", "to pick among all write hf:owner/Tiny-GGUF"),
    ):
        with pytest.raises(GGUFError, match=match):
            HubModel(name, (), print, lambda *_: None)
    with pytest.raises(GGUFError, match="has no Q2_K; it has F16, Q4_0, Q8_0"):
        HubModel("owner/Tiny-GGUF", ["q2_k"], print, lambda *_: None)


def test_a_file_that_memory_is_too_slow_for_is_not_tried(
    tiny_llama: Path, settings: PickSettings, tmp_path: Path
) -> None:
    source = LocalModel(str(tiny_llama), TYPES, tmp_path)
    found = pick(source, Limits(min_speed=1e12), tmp_path, memory=MEMORY, settings=settings)
    assert [*found.measured] == ["F32"] and found.choice is None
    assert all("memory allows" in why for why in found.skipped.values())


def test_the_command_ends_in_a_recommendation(
    reellama: Run, tiny_llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELLAMA_CACHE", str(tmp_path))
    words = ["gguf", "pick", tiny_llama, "--types", "q4_0", "--text", text, "--chunks", "1"]
    words += ["--threads", "1", "--ctx", "512"]
    shown = reellama(*words, "--max-kld", "10", "--vram", "1GiB")
    assert shown.status == 0 and "picked" in shown.out
    quantizing, using = shown.out.splitlines()[-2:]
    assert quantizing.strip() == f"reellama gguf quantize {tiny_llama} Q4_0 -o llama-Q4_0.gguf"
    assert using.strip() == "llama-server -m llama-Q4_0.gguf -ngl 3 -c 512"
    found = json.loads(reellama(*words, "--max-kld", "0", "--json").out)
    assert found["choice"] == "F32" and found["n_new"] == 0
    assert found["commands"] == [f"llama-server -m {tiny_llama} -ngl 0 -c 512"]
    nothing = reellama(*words, "--min-speed", "1e15")
    assert nothing.status == 1 and "keeps all limits" in nothing.err
