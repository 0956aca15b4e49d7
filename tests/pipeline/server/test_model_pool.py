"""Models in memory: which of them go when it is short, and never one that is worked with."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reellama.pipeline.llm.batching.generation_job import Stopped
from reellama.pipeline.server.loaded_model import Key, LoadedModel
from reellama.pipeline.server.model_pool import ModelPool
from reellama.pipeline.server.settings import Settings


class SlowToClose:
    """What stands for a model's batcher: its memory is free once `may_close` is set."""

    def __init__(self) -> None:
        self.closing, self.may_close = threading.Event(), threading.Event()

    def close(self) -> None:
        self.closing.set()
        assert self.may_close.wait(60)


def idle_model(name: str, used: float) -> LoadedModel:
    batcher: Any = SlowToClose()
    return LoadedModel(name, ((Path(name), (0, 0), None),), batcher, 0.0, -1, last_used_at=used)


class Tower:
    """What stands for a bundle: whether its tower was freed."""

    lora = ()
    is_unloaded = False

    def unload(self) -> None:
        self.is_unloaded = True


def test_a_model_takes_the_towers_of_all_its_bundles_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As those of one LLM that is asked for by the server's name for it and by its path."""
    batcher: Any = SlowToClose()
    batcher.may_close.set()
    first, second, shared = Tower(), Tower(), Tower()

    async def load(_registered: Any, key: Key, _lora: Any) -> LoadedModel:
        return LoadedModel("llm", key, batcher, 0.0, -1)

    async def run() -> None:
        pool = ModelPool(Settings())
        monkeypatch.setattr(pool, "_load", load)

        async def use(bundle: Tower, *files: Path) -> LoadedModel:
            registered: Any = SimpleNamespace(files=files, bundle=bundle, service_name="llm")
            registered.manifest = SimpleNamespace(adapters=())
            loaded, _ = await pool.acquire(registered, None)
            await pool.release(loaded)
            return loaded

        loaded = [await use(bundle) for bundle in (first, second, shared, first)]
        await use(shared, Path(__file__))
        await pool._unload(loaded[0])

    asyncio.run(run())
    assert first.is_unloaded and second.is_unloaded
    assert not shared.is_unloaded  # another model sees with it


def test_a_model_that_is_taken_while_another_goes_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(available=0, total=1 << 30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: full)

    async def run() -> list[str]:
        pool = ModelPool(Settings())
        old, new = idle_model("old", 1.0), idle_model("new", 2.0)
        pool._loaded = {model.key: model for model in (old, new)}
        making = asyncio.create_task(pool._make_room(0))
        batchers: list[Any] = [old.batcher, new.batcher]
        assert await asyncio.to_thread(batchers[0].closing.wait, 60)
        new.users += 1  # as `acquire` does
        for batcher in batchers:
            batcher.may_close.set()
        await making
        return [model.name for model in pool.loaded()]

    assert asyncio.run(run()) == ["new"]


def test_a_model_stays_while_a_thread_works_with_it_though_its_request_is_gone() -> None:
    model = idle_model("held", 1.0)
    batcher: Any = model.batcher
    batcher.may_close.set()
    working, may_end = threading.Event(), threading.Event()

    def work() -> None:
        with model.in_use():
            working.set()
            assert may_end.wait(60)
            assert not batcher.closing.is_set()

    async def run() -> None:
        request = asyncio.create_task(asyncio.to_thread(work))
        assert await asyncio.to_thread(working.wait, 60)
        request.cancel()
        closing = asyncio.create_task(asyncio.to_thread(model.close))
        await asyncio.wait([closing], timeout=0.1)
        assert not batcher.closing.is_set()
        may_end.set()
        await closing
        assert batcher.closing.is_set()
        with pytest.raises(Stopped), model.in_use():
            pass

    asyncio.run(run())
