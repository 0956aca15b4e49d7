"""Children with limits, and the threads that wait for them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.server.admission.fair_semaphore import FairSemaphore
from reellama.pipeline.server.sandbox.child_environment import ROOT, child_environment

T = TypeVar("T")

N_CHILDREN = 2
SECONDS = 3.0  # CPU time that a task may take
QUICK = 0.3  # seconds of CPU time that are enough for most tasks
MEMORY = 1 << 30  # bytes that a task may take


class SandboxError(ReellamaError):
    """A template or schema of a client that was refused, or took too much. `status` is HTTP's."""

    status = 400


class SandboxLimitError(SandboxError):
    """A task that took more time or memory than its limits."""

    def __init__(self, task: str) -> None:
        super().__init__(f"this {task} takes too long or too much memory: send a simpler one")


class SandboxChild:
    """One child, started when it is first asked, and again after one that died.

    seconds: CPU time that a task may take; cpu_seconds_used: what all tasks took together.
    """

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self.seconds, self.cpu_seconds_used = seconds, 0.0
        self._limits = json.dumps({"memory": memory})
        self._child: subprocess.Popen[str] | None = None

    def ask(self, task: str, **arguments: Any) -> dict[str, Any]:
        """What a task of `sandbox_child` answers. Raises SandboxError."""
        if self._child is None or self._child.poll() is not None:
            self._child = self._start()
        child = self._child
        assert child.stdin is not None and child.stdout is not None
        request = {"task": task, "seconds": self.seconds, **arguments}
        try:
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except OSError:  # it died while it was asked
            line = ""
        if not line:
            self.close()
            self.cpu_seconds_used += self.seconds
            raise SandboxLimitError(task)
        reply: dict[str, Any] = json.loads(line)
        self.cpu_seconds_used += reply["cpu"]
        answer: dict[str, Any] | None = reply["answer"]
        if answer is None:
            raise SandboxLimitError(task)
        if "error" in answer:
            raise SandboxError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """End the child, and what it is doing."""
        child, self._child = self._child, None
        if child is not None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(OSError):  # what was not read any more
                    pipe.close()  # type: ignore[union-attr]

    def _start(self) -> subprocess.Popen[str]:
        environment = child_environment() | {
            "PYTHONIOENCODING": "utf-8",
            "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",  # macOS: a fork uses none of it
        }
        return subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.sandbox_child", self._limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=ROOT,
            text=True,
            start_new_session=True,  # Ctrl-C at the server is for the server; ended with its forks
        )


class Sandbox:
    """`N_CHILDREN` children, each with a thread of its own: who waits for one holds nobody else.

    A client has one of them at a time, so that those who ask for much wait for themselves. What
    takes more than `QUICK` seconds begins again with all the time that there is; of that one piece
    is done at a time, and the other children stay free for what is quick.
    """

    def __init__(self, n_children: int = N_CHILDREN) -> None:
        self._threads = ThreadPoolExecutor(n_children, "sandbox")
        self._own = threading.local()
        self._children: list[SandboxChild] = []
        self._semaphore = FairSemaphore(n_children, max_each=1)
        self._slow_semaphore = FairSemaphore(max(1, n_children - 1), max_each=1)

    async def call(self, work: Callable[[SandboxChild], T]) -> T:
        """The outcome of `work`, which is given a child, in that child's thread.

        It may be called twice.
        """
        try:
            return await self._run(work, QUICK)
        except SandboxLimitError:
            async with self._slow_semaphore.acquire():
                return await self._run(work, SECONDS)

    async def _run(self, work: Callable[[SandboxChild], T], seconds: float) -> T:
        def run() -> T:
            if not hasattr(self._own, "child"):
                self._own.child = SandboxChild()
                self._children.append(self._own.child)
            child: SandboxChild = self._own.child
            used_before, child.seconds = child.cpu_seconds_used, seconds
            try:
                return work(child)
            finally:
                permit.seconds = child.cpu_seconds_used - used_before

        async with self._semaphore.acquire() as permit:
            return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def close(self) -> None:
        """End the children; what waits for them is refused."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.close()
