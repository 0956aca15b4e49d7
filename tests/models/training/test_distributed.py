"""Several processes that train together take the step that one process would take."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.training import distributed

pytestmark = pytest.mark.numeric


def _gradient(batch: torch.Tensor) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(3, 1)
    layer(batch).square().mean().backward()
    return layer


def _shared(folder: Path) -> None:
    distributed.init_processes()
    batch = torch.arange(24.0).view(8, 3)
    assert distributed.local_batch_size(8) == 4
    layer = _gradient(batch[distributed.rank() :: distributed.world_size()])
    distributed.average_gradients(layer.parameters())
    torch.save([p.grad for p in layer.parameters()], folder / f"{distributed.rank()}.pt")
    distributed.barrier()
    distributed.shut_down()


def _failing(folder: Path) -> None:
    distributed.init_processes()
    if distributed.rank() == 1:
        raise ReellamaError("no such config")
    dist.barrier()


def _started_in_background(folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    distributed.spawn(_endless, 2, folder)


def _endless(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


def test_nobody_else_can_take_the_port_where_processes_meet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def taken(member: object, arguments: tuple[object, ...], processes: int) -> None:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", arguments[1]))
        seen.append(processes)

    seen: list[int] = []
    monkeypatch.setattr("torch.multiprocessing.spawn", taken)
    distributed.spawn(_shared, 2, Path())
    assert seen == [2]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # one that has ended stays in the list until someone asks how


def eventually(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until it holds; fail if it does not in time."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_gradients_are_those_of_the_whole_batch_in_every_process(tmp_path: Path) -> None:
    distributed.spawn(_shared, 2, tmp_path)
    whole = _gradient(torch.arange(24.0).view(8, 3))
    for number in range(2):
        found = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        for ours, p in zip(found, whole.parameters(), strict=True):
            assert torch.allclose(ours, p.grad)


def test_the_error_of_one_process_ends_all_and_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReellamaError, match="no such config"):
        distributed.spawn(_failing, 2, tmp_path)


def test_no_process_goes_on_when_its_starter_is_killed(tmp_path: Path) -> None:
    """Also where SIGINT is ignored, as in a job in the background."""
    parent = mp.get_context("spawn").Process(target=_started_in_background, args=(tmp_path,))
    parent.start()
    eventually(lambda: len(list(tmp_path.iterdir())) == 2)
    parent.terminate()
    parent.join()
    pids = [int(path.name) for path in tmp_path.iterdir()]
    eventually(lambda: not any(map(_runs, pids)))


def test_alone_there_is_nothing_to_share_or_to_wait_for() -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.local_batch_size(7)) == (
        0,
        1,
        7,
    )
    layer = _gradient(torch.ones(2, 3))
    before = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
    distributed.average_gradients(layer.parameters())
    assert all(torch.equal(a, p.grad) for a, p in zip(before, layer.parameters(), strict=True))
    distributed.barrier()
    distributed.shut_down()
