"""An event loop is woken once for what comes together, and hears all of it in order."""

import asyncio
import threading

import pytest

from reellama.pipeline.server.chat.loop_mailbox import LoopMailbox


def test_messages_of_threads_arrive_in_order_and_none_is_lost() -> None:
    heard: list[tuple[int, int]] = []

    def say(mailbox: LoopMailbox, who: int) -> None:
        for i in range(5000):
            mailbox.put(heard.append, (who, i))

    async def listen() -> None:
        mailbox = LoopMailbox.of(asyncio.get_running_loop())
        assert LoopMailbox.of(asyncio.get_running_loop()) is mailbox
        await asyncio.gather(*(asyncio.to_thread(say, mailbox, who) for who in range(3)))
        await asyncio.sleep(0.05)

    asyncio.run(listen())
    assert [[i for by, i in heard if by == who] for who in range(3)] == [list(range(5000))] * 3


def test_a_loop_is_woken_once_for_what_comes_together() -> None:
    async def listen() -> int:
        loop, n_wakes = asyncio.get_running_loop(), 0
        mailbox, wake = LoopMailbox.of(loop), loop.call_soon_threadsafe

        def counted(*args: object, **kwargs: object) -> asyncio.Handle:
            nonlocal n_wakes
            n_wakes += 1
            return wake(*args, **kwargs)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        heard: list[int] = []

        def say() -> None:
            for i in range(8):
                mailbox.put(heard.append, i)

        thread = threading.Thread(target=say)
        thread.start()
        thread.join()  # the loop cannot run meanwhile
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert heard == list(range(8))
        return n_wakes

    assert asyncio.run(listen()) == 1


def test_a_closed_loop_says_so_to_each() -> None:
    async def of_loop() -> LoopMailbox:
        return LoopMailbox.of(asyncio.get_running_loop())

    mailbox = asyncio.run(of_loop())
    for _ in range(2):
        with pytest.raises(RuntimeError):
            mailbox.put(print, None)
