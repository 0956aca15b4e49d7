"""Memory of large requests is given back, some time after them and once for all."""

import asyncio

import pytest

from reellama.gguf_tools import heap
from reellama.pipeline.server.admission import spare_memory
from reellama.pipeline.server.admission.spare_memory import LARGE, SpareMemory


@pytest.fixture
def given_back(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    found: list[bool] = []
    own = heap.give_back

    def give_back() -> None:
        own()
        found.append(True)

    monkeypatch.setattr(heap, "give_back", give_back)
    monkeypatch.setattr(spare_memory, "SECONDS", 0.01)
    return found


@pytest.mark.parametrize(("sizes", "n"), [((LARGE - 1,) * 9, 0), ((LARGE, 1, LARGE), 1)])
def test_memory_is_given_back_once_after_large_requests(
    given_back: list[bool], sizes: tuple[int, ...], n: int
) -> None:
    async def requests() -> None:
        spare = SpareMemory()
        for size in sizes:
            spare.took(size)
        await asyncio.sleep(0.2)

    asyncio.run(requests())
    assert len(given_back) == n
