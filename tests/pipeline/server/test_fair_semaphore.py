"""A client that asks for much waits for itself."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from reellama.pipeline.server.admission.fair_semaphore import FairSemaphore
from reellama.pipeline.server.admission.fair_thread_pool import FairThreadPool
from reellama.pipeline.server.request_context import CLIENT
from reellama.pipeline.server.sandbox.sandbox import (
    QUICK_SECONDS,
    Sandbox,
    SandboxChild,
    SandboxError,
)


def order(asked: str, work: Callable[[str], Awaitable[None]]) -> str:
    """The order in which the requests of these clients, a letter each, come to their turn."""
    done: list[str] = []

    async def ask(client: str) -> None:
        CLIENT.set(client)
        await work(client)
        done.append(client)

    async def all_of_them() -> None:
        await asyncio.gather(*map(ask, asked))

    asyncio.run(all_of_them())
    return "".join(done)


def test_the_client_served_least_comes_first() -> None:
    semaphore = FairSemaphore(1)

    async def work(client: str) -> None:
        async with semaphore.acquire() as permit:
            await asyncio.sleep(0)
            permit.seconds = 9.0 if client == "a" else 1.0

    assert order("aaabbc", work) == "abcbaa"


def test_a_thread_pool_is_shared_fairly_between_clients() -> None:
    threads = FairThreadPool("test")
    try:
        assert order("aaaab", lambda _: threads.run(lambda: None)) == "abaaa"
    finally:
        threads.close()


def test_idle_time_gives_no_credit() -> None:
    semaphore, may_end = FairSemaphore(1), asyncio.Event()
    done: list[str] = []

    async def ask(client: str, hold: bool = False) -> None:
        CLIENT.set(client)
        async with semaphore.acquire() as permit:
            permit.seconds = 5.0
            if hold:
                await may_end.wait()
            done.append(client)

    async def ask_all() -> None:
        asked = [asyncio.ensure_future(ask("a")) for _ in range(2)]
        asked.append(asyncio.ensure_future(ask("a", hold=True)))
        while len(done) < 2:
            await asyncio.sleep(0)
        asked += [asyncio.ensure_future(ask(client)) for client in "abb"]
        await asyncio.sleep(0)
        may_end.set()
        await asyncio.gather(*asked)

    asyncio.run(ask_all())
    assert "".join(done) == "aaabab"  # not "aaabba": b begins with what a has had


def test_a_client_has_no_more_permits_at_once_than_it_may() -> None:
    semaphore, most = FairSemaphore(4, max_per_client=1), [0]
    now: list[str] = []

    async def work(client: str) -> None:
        async with semaphore.acquire():
            now.append(client)
            most[0] = max(most[0], len(now))
            assert now.count(client) == 1
            await asyncio.sleep(0.001)
            now.remove(client)

    order("aaabbb", work)
    assert most[0] == 2


@pytest.mark.parametrize("moment", ["waiting", "just cancelled", "granted"])
def test_a_cancelled_request_leaves_its_permit_to_the_next(moment: str) -> None:
    async def work() -> bool:
        semaphore = FairSemaphore(1)
        first = semaphore.acquire()
        await first.__aenter__()
        gone = asyncio.ensure_future(semaphore.acquire().__aenter__())
        await asyncio.sleep(0)
        if moment == "granted":  # it has a permit, and has not heard of it
            await first.__aexit__(None, None, None)
        gone.cancel()
        if moment == "just cancelled":  # it has not heard of that
            await first.__aexit__(None, None, None)
        await asyncio.gather(gone, return_exceptions=True)
        if moment == "waiting":
            await first.__aexit__(None, None, None)
        async with semaphore.acquire():
            return True

    assert asyncio.run(asyncio.wait_for(work(), 10))


def ask_for_seconds(child: SandboxChild, seconds: float) -> None:
    """A template that takes about as much CPU time, or is ended."""
    loops = "{% for a in range(30000) %}{% for b in range(30000) %}{% endfor %}{% endfor %}"
    source = loops if seconds > QUICK_SECONDS else "{{ messages[0].content }}"
    said = [{"role": "user", "content": "?"}]
    child.ask("template", source=source, bos="", eos="", messages=said, variables={})


def test_quick_tasks_are_not_blocked_by_slow_ones() -> None:
    """With as many clients that send what takes long as there are children, and more."""

    async def ask() -> list[str]:
        sandbox, done = Sandbox(n_children=2), list[str]()

        async def send(client: str, seconds: float) -> None:
            CLIENT.set(client)
            try:
                await sandbox.call(lambda child: ask_for_seconds(child, seconds))
            except SandboxError:
                done.append("long")
            else:
                done.append("quick")

        try:
            slow = [asyncio.ensure_future(send(f"{i}", 9.0)) for i in range(4)]
            await asyncio.sleep(0)
            await send("quick", 0.0)
            for each in slow:
                each.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
        finally:
            sandbox.close()
        return done

    assert asyncio.run(ask())[0] == "quick"
