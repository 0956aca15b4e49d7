"""The child processes of the sandbox, and the threads that wait for them."""

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
MAX_SECONDS = 3.0  # of CPU time that a task may take
QUICK_SECONDS = 0.3  # of CPU time, enough for most tasks
MAX_MEMORY = 1 << 30  # bytes that a task may take


class SandboxError(ReellamaError):
    """A client's template or schema that is invalid or takes too much. `status` is HTTP's."""

    status = 400


class SandboxLimitError(SandboxError):
    """A task that exceeded its limit of time or memory."""

    def __init__(self, task: str) -> None:
        super().__init__(f"this {task} takes too long or too much memory: send a simpler one")


class SandboxChild:
    """A child process, started for the first task, and again for the next one after it died.

    seconds: CPU time that a task may take; cpu_seconds_used: that of all tasks so far.
    """

    def __init__(self, seconds: float = MAX_SECONDS, memory: int = MAX_MEMORY) -> None:
        self.seconds, self.cpu_seconds_used = seconds, 0.0
        self._limits = json.dumps({"memory": memory})
        self._child: subprocess.Popen[str] | None = None

    def ask(self, task: str, **arguments: Any) -> dict[str, Any]:
        """Run a task of `sandbox_child`; returns its answer. Raises SandboxError."""
        if self._child is None or self._child.poll() is not None:
            self._child = self._start()
        child = self._child
        assert child.stdin is not None and child.stdout is not None
        request = {"task": task, "seconds": self.seconds, **arguments}
        try:
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except OSError:  # the child has died
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
        """Kill the child and the processes that it has forked."""
        child, self._child = self._child, None
        if child is not None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(OSError):  # flushing fails: the child does not read any more
                    pipe.close()  # type: ignore[union-attr]

    def _start(self) -> subprocess.Popen[str]:
        environment = child_environment() | {
            "PYTHONIOENCODING": "utf-8",
            "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",  # macOS: forks use no Objective-C
        }
        return subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.sandbox_child", self._limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=ROOT,
            text=True,
            start_new_session=True,  # out of reach of Ctrl-C; killed together with its forks
        )


class Sandbox:
    """A pool of children, each with a thread that waits for it.

    A client has one child at a time, so that its many tasks delay no other client. A task that
    takes more than QUICK_SECONDS starts again with MAX_SECONDS; one child is kept free of those.
    """

    def __init__(self, n_children: int = N_CHILDREN) -> None:
        self._threads = ThreadPoolExecutor(n_children, "sandbox")
        self._thread_local = threading.local()
        self._children: list[SandboxChild] = []
        self._semaphore = FairSemaphore(n_children, max_per_client=1)
        self._slow_semaphore = FairSemaphore(max(1, n_children - 1), max_per_client=1)

    async def call(self, function: Callable[[SandboxChild], T]) -> T:
        """Call a function with a child, in the child's thread; again if the quick try fails."""
        try:
            return await self._run(function, QUICK_SECONDS)
        except SandboxLimitError:
            async with self._slow_semaphore.acquire():
                return await self._run(function, MAX_SECONDS)

    async def _run(self, function: Callable[[SandboxChild], T], seconds: float) -> T:
        def run() -> T:
            if not hasattr(self._thread_local, "child"):
                self._thread_local.child = SandboxChild()
                self._children.append(self._thread_local.child)
            child: SandboxChild = self._thread_local.child
            used_before, child.seconds = child.cpu_seconds_used, seconds
            try:
                return function(child)
            finally:
                permit.seconds = child.cpu_seconds_used - used_before

        async with self._semaphore.acquire() as permit:
            return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def close(self) -> None:
        """Kill the children, and cancel the calls that wait for one."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.close()
