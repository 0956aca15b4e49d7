"""Threads follow the load: one for each core that no other program uses, and at least one."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.runtime import free_cores
from reellama.gguf_tools.runtime.backend import load_model
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings
from reellama.gguf_tools.runtime.free_cores import (
    PERIOD,
    CoreUse,
    FreeCores,
    cores_left,
    threads_for,
)

# Prints the threads of a context of 2 at most, before and after it has seen some load.
COMPUTE = """
import os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, range(os.cpu_count()))
from reellama.gguf_tools.runtime import backend, free_cores
free_cores.default_threads = lambda: 2
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings
with backend.load_model(sys.argv[1]) as model:
    with Context(model, 64, ContextSettings(n_threads=int(sys.argv[2]) or None)) as context:
        time.sleep(2 * free_cores.PERIOD)
        context.decode_token(1, 0)
        print(context.n_threads)
"""


@contextmanager
def every_core_is_busy() -> Iterator[None]:
    count = 2 * (os.cpu_count() or 1)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def threads_of_a_context(model: Path, asked: int) -> int:
    command = [sys.executable, "-c", COMPUTE, str(model), str(asked)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_where_every_core_is_busy_a_context_takes_one_thread_unless_it_was_given_more(
    tiny_llama: Path,
) -> None:
    with every_core_is_busy():
        assert threads_of_a_context(tiny_llama, 0) == 1
        assert threads_of_a_context(tiny_llama, 2) == 2


@given(st.integers(1, 256), st.floats(0, 1), st.floats(0, 1))
def test_what_this_process_uses_itself_counts_as_free(n: int, own: float, others: float) -> None:
    own_use, others_use = own * n * (1 - others), others * n
    before = CoreUse(now=100.0, idle=50.0, own=7.0, n_cores=n)
    idle = max(n - own_use - others_use, 0.0)
    after = CoreUse(100.0 + PERIOD, 50.0 + PERIOD * idle, 7.0 + PERIOD * own_use, n)
    assert abs(cores_left(before, after) - (n - others_use)) < 1e-6


@given(st.floats(0, 300), st.integers(1, 256))
def test_threads_are_at_least_one_and_at_most_the_maximum(cores: float, max_threads: int) -> None:
    assert 1 <= threads_for(cores, max_threads) <= max_threads
    assert threads_for(cores, max_threads) <= cores + 1


def test_a_second_thread_wants_most_of_a_core() -> None:
    assert [threads_for(cores, 2) for cores in (0.0, 1.0, 1.5, 1.8, 2.0)] == [1, 1, 1, 2, 2]


def test_the_clocks_of_this_machine_are_read() -> None:
    before, after = CoreUse.read(), CoreUse.read()
    assert after.n_cores == before.n_cores >= 1
    assert after.now >= before.now and after.own >= before.own
    assert 0 <= cores_left(before, after) <= after.n_cores


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> FreeCores:
    monkeypatch.setattr(FreeCores, "threads", lambda _: 4)
    return FreeCores()


@contextmanager
def another_thread_in(entered: AbstractContextManager[object]) -> Iterator[threading.Event]:
    """Another thread is in `entered` until this ends; the event says that it got there."""
    there, over = threading.Event(), threading.Event()

    def be_there() -> None:
        with entered:
            there.set()
            assert over.wait(30)

    thread = threading.Thread(target=be_there)
    thread.start()
    try:
        yield there
    finally:
        over.set()
        thread.join()


def test_threads_that_compute_at_the_same_time_share_the_cores(four_cores: FreeCores) -> None:
    with four_cores.long_computation(), four_cores.short_computation() as n:
        assert n == 4  # one thread shares with nobody
    with another_thread_in(four_cores.long_computation()) as there:
        assert there.wait(30)
        with four_cores.short_computation() as n:
            assert n == 2
    with four_cores.short_computation() as n:
        assert n == 4


def test_a_long_computation_waits_for_the_short_ones_of_others(
    four_cores: FreeCores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_cores, "MAX_WAIT_SECONDS", 30.0)
    with ExitStack() as stack:
        with four_cores.short_computation() as n:
            assert n == 4
            there = stack.enter_context(another_thread_in(four_cores.long_computation()))
            assert not there.wait(0.05)
        assert there.wait(10)


def test_a_long_computation_does_not_wait_long(four_cores: FreeCores) -> None:
    with four_cores.short_computation(), another_thread_in(four_cores.long_computation()) as there:
        assert there.wait(10)


@pytest.mark.parametrize("asked", [None, 2])
def test_a_context_shares_the_cores_unless_it_was_given_threads(
    tiny_llama: Path, asked: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FreeCores, "threads", lambda _: 2)
    with (
        load_model(tiny_llama) as model,
        Context(model, 64, ContextSettings(n_threads=asked)) as context,
    ):
        with another_thread_in(free_cores.long_computation()) as there:
            assert there.wait(30)
            context.decode_token(1, 0)
            assert context.n_threads == (asked or 1)
        context.decode_token(1, 1)
        assert context.n_threads == 2
