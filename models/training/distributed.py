"""Data-parallel training: each process takes its part of a batch, and gradients are averaged.

On two cores, two processes of one thread each are faster than one process of two threads, which
wait for each other at every layer. Under `torchrun`, its processes are used.
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
from reellama.gguf_tools.threads import usable_cores


def rank() -> int:
    """The rank of this process; rank 0 reports and saves."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_launched() -> bool:
    """Whether this process was started as one of several, by `spawn` or torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def init_processes() -> None:
    """Join the process group that the environment variables of `spawn` or torchrun describe."""
    if dist.is_initialized() or not is_launched():
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo")
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))
    torch.set_num_threads(max(1, usable_cores() // local_processes))


def shut_down() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until all processes have called this."""
    if world_size() > 1:
        dist.barrier()


def local_batch_size(batch: int) -> int:
    """Samples of a batch that one process takes. Raises ReellamaError for a remainder."""
    if batch % world_size():
        raise ReellamaError(
            f"a batch of {batch} cannot be shared by {world_size()} processes alike"
        )
    return batch // world_size()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over all processes."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def mean(value: Tensor) -> Tensor:
    """The mean of a scalar over all processes, detached."""
    value = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value / world_size()


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, `[B, ...]` -> `[world * B, ...]`, with gradients."""
    return rows if world_size() == 1 else _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    """`all_gather` whose gradient is summed over all processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        total = gradient.clone()
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]


def workers() -> int:
    """How many processes should draw clips for this one: one less than there are cores, divided
    among the ranks; 0 if every core has a rank, which then draws for itself."""
    return (usable_cores() - 1) // world_size()


def spawn(function: Callable[..., Any], processes: int, *arguments: Any) -> None:
    """Call `function(*arguments)` in `processes` new processes of one group.

    Raises the ReellamaError that one of them raised.
    """
    errors = mp.get_context("spawn").SimpleQueue()
    # The store listens from here on, so that no other program can take the port before the
    # processes connect to it.
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
    """The body of a process of `spawn`."""
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
        os._exit(1)  # an orderly exit could wait for the other processes, which wait for this one


def _end_with_parent() -> None:
    """End this process when its parent ends, even if that was killed.

    PyTorch only sends SIGINT in that case, which a background job (`nohup ... &`) ignores.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
