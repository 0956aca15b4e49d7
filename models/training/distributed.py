"""One training in several processes: each takes its part of a batch, and gradients are averaged.

Two processes of one thread each take steps sooner than one process of two threads, which wait for
each other at every layer. The processes of `torchrun` are used where it started them.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from reellama.gguf_tools.errors import ReellamaError


def rank() -> int:
    """The number of this process, 0 for the one that reports and saves."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_launched() -> bool:
    """Whether this is one of several processes that were started together, as by torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def init_processes() -> None:
    """Join the process group, if the environment describes one (as torchrun does)."""
    if dist.is_initialized() or not is_launched():
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // here))


def shut_down() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until all processes are here."""
    if world_size() > 1:
        dist.barrier()


def local_batch_size(batch: int) -> int:
    """The part of a batch that one process takes; raises ReellamaError if it cannot be shared."""
    if batch % world_size():
        raise ReellamaError(
            f"a batch of {batch} cannot be shared by {world_size()} processes alike"
        )
    return batch // world_size()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make every gradient the mean of those of all processes."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def mean(value: Tensor) -> Tensor:
    """The mean of a number over all processes, without a gradient."""
    value = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value / world_size()


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, `[B, ...]` -> `[world * B, ...]`; gradients go back to each."""
    return rows if world_size() == 1 else _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    """The gradients of the rows from all processes are summed."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        every = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(every, rows.contiguous())
        return torch.cat(every)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        total = gradient.clone()
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]


def workers() -> int:
    """How many processes draw for this one: one a core in all, without those that train.

    None on a CPU where every core has its process, and each of them draws for itself.
    """
    return ((os.cpu_count() or 2) - 1) // world_size()


def spawn(function: Callable[..., Any], processes: int, *arguments: Any) -> None:
    """Call `function(*arguments)` in each of `processes` new processes, joined to one group.

    Raises the ReellamaError that one of them raised.
    """
    errors = mp.get_context("spawn").SimpleQueue()
    # It listens from here on, so that no other program can take the port before they meet there.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    try:
        mp.spawn(_member, (processes, store.port, errors, function, arguments), processes)
    except mp.ProcessExitedException as error:
        message = "training stopped: one of its processes ended" if errors.empty() else errors.get()
        raise ReellamaError(message) from error


def _member(
    number: int,
    processes: int,
    port: int,
    errors: SimpleQueue[str],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        # As under torchrun: the store is there already, and process 0 does not begin one.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        function(*arguments)
    except ReellamaError as error:
        errors.put(str(error))
        os._exit(1)  # without leaving the group: the others may wait for this one


def _end_with_parent() -> None:
    """Wait until the process that started this one has ended, killed perhaps, and end too.

    PyTorch sends SIGINT then, which a job in the background (`nohup ... &`) ignores.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
