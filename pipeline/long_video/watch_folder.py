"""Watch a folder, and write `clip.mp4.json` and `clip.mp4.srt` beside each `clip.mp4`.

Any number of workers share a folder, and each may be killed at any moment. A video is done if its
JSON exists and states the file's size and date; both sidecars are written atomically, the JSON
last. Locks are the operating system's, which releases those of a process that dies. Failures are
stored in `.reellama` with their reasons, and retried after increasing waits.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from reellama.gguf_tools.atomic_write import write_atomically
from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.long_video.timeline import Timeline
from reellama.pipeline.long_video.timeline_formats import to_srt
from reellama.pipeline.video.clip import refuse_url
from reellama.pipeline.video.file_signature import VIDEO_SUFFIXES
from reellama.pipeline.video.subtitles import are_written_by_us

STATE_FOLDER = ".reellama"  # the folder of locks, failures and half-written files
LOCKS = 256  # videos with the same lock, which is rare, wait for each other
GUARD = "lock"  # held for a moment, while the lock of a video is taken or given back
SETTLED_SECONDS = 2.0  # seconds without a change after which a file counts as copied
FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 10.0, 3600.0  # seconds before another try
MAX_TRIES = 8
# A worker that dies while it watches may have been killed for another reason: no wait at first.
DEATHS_WITHOUT_WAIT = 3
DIED_MESSAGE = "the worker ended while it was watching this"

State = Literal["done", "new", "copying", "working", "failed", "given up"]
Describe = Callable[[Path], Timeline]


@dataclass(frozen=True)
class WatchFailure:
    """A failure with a file of this size and date, which is retried at `next_try`."""

    error: str
    tries: int
    next_try: float  # seconds since 1970
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class WatchedVideoState:
    """A video and its state."""

    path: Path
    state: State
    failure: WatchFailure | None = None


class WatchedFolder:
    """A watched folder.

    Args:
        recursive: include subfolders.
        settled: seconds without a change after which a file counts as copied.

    Raises ReellamaError if `root` is no folder.
    """

    def __init__(
        self, root: Path, *, recursive: bool = False, settled: float = SETTLED_SECONDS
    ) -> None:
        refuse_url(root)
        if not root.is_dir():
            raise ReellamaError(f"{root} is not a folder")
        self.root, self.recursive, self.settled = root, recursive, settled
        self.state_folder = root / STATE_FOLDER

    def videos(self) -> list[Path]:
        """All videos, sorted by path."""
        paths = self.root.rglob("*") if self.recursive else self.root.iterdir()
        return sorted(
            path
            for path in paths
            if path.suffix.lower() in VIDEO_SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(self.root).parts)
            and path.is_file()
        )

    def entries(self) -> list[WatchedVideoState]:
        """All videos with their states."""
        return [entry for path in self.videos() if (entry := self._entry(path))]

    def waiting(self) -> Iterator[Path]:
        """Yield the videos that can be processed now; the state is read just before each."""
        for path in self.videos():
            state = self.state(path)
            ready = state == "new"
            if state == "failed" and (failure := self.failure(path)):
                ready = failure.next_try <= time.time()
            if ready:
                yield path

    def state(self, path: Path) -> State:
        """The state of a video, except for "working", which only `entries` detects."""
        stat = path.stat()
        if self._done(path, stat):
            return "done"
        if time.time() - max(stat.st_mtime, stat.st_ctime) < self.settled:
            return "copying"
        failure = self.failure(path)
        if failure is None:
            return "new"
        return "given up" if failure.tries >= MAX_TRIES else "failed"

    def failure(self, path: Path) -> WatchFailure | None:
        """The last failure of a video; None if there is none, or if the file changed since."""
        try:
            failure = WatchFailure(**json.loads(self._record(path).read_text(encoding="utf-8")))
            stat = path.stat()
        except (OSError, ValueError, TypeError):
            return None
        is_of_this_file = (failure.size, failure.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
        return failure if is_of_this_file else None

    def process(self, path: Path, describe: Describe) -> bool:
        """Write the sidecars of a video, unless another worker does or did.

        Returns whether this call wrote them. Failures are stored; KeyboardInterrupt is raised.
        """
        with self._claimed(path) as claimed:
            if not claimed or self.state(path) in ("done", "copying"):
                return False
            stat = path.stat()
            before = self.failure(path)
            self._remember(path, stat, DIED_MESSAGE, before)  # in case this process is killed
            try:
                self._write(path, stat, describe(path))
            except (ReellamaError, OSError, MemoryError) as error:
                reason = str(error) or type(error).__name__
                self._remember(path, stat, " ".join(reason.split()), before)
                return False
            except BaseException:  # Ctrl-C is no failure of the video
                self._forget(path, before)
                raise
            self._forget(path, None)
            return True

    def forget(self, path: Path) -> None:
        """Remove the stored failure of a video."""
        self._forget(path, None)

    def _write(self, path: Path, stat: os.stat_result, timeline: Timeline) -> None:
        now = path.stat()
        if (now.st_size, now.st_mtime_ns) != (stat.st_size, stat.st_mtime_ns):
            raise ReellamaError("the file was changed while it was watched")
        source = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        data = {**timeline.to_json(), "path": path.name, "source": source}
        srt = sidecar(path, "srt")
        if not srt.exists() or are_written_by_us(srt):  # never overwrite subtitles by others
            self._put(srt, to_srt(timeline))
        self._put(sidecar(path, "json"), json.dumps(data, indent=2, ensure_ascii=False) + "\n")

    def _put(self, target: Path, text: str) -> None:
        """Write a file atomically. The next try overwrites the partial file of a killed worker."""
        half = self.state_folder / f"half-{self._number(target, 1 << 62)}"
        # The name of a video may have bytes that are not UTF-8; JSON has their escapes.
        with half.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, target)

    def _entry(self, path: Path) -> WatchedVideoState | None:
        try:
            state = self.state(path)
        except OSError:  # gone meanwhile
            return None
        if state in ("new", "failed", "given up"):
            with self._claimed(path) as free:
                if not free:
                    return WatchedVideoState(path, "working")
        return WatchedVideoState(path, state, None if state == "done" else self.failure(path))

    @contextmanager
    def _claimed(self, path: Path) -> Iterator[bool]:
        """A context that holds the lock of a video; False if another worker holds it.

        The lock's file exists only while the lock is held.
        """
        self.state_folder.mkdir(exist_ok=True)
        file = self.state_folder / f"lock-{self._number(path, LOCKS)}"
        lock = FileLock(file)
        # Lock files are made and removed only under this guard, as otherwise a worker could lock a
        # file that another is removing.
        guard = FileLock(self.state_folder / GUARD)
        try:
            with guard:
                lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            with guard:
                lock.release()
                file.unlink(missing_ok=True)

    def _remember(
        self, path: Path, stat: os.stat_result, error: str, before: WatchFailure | None
    ) -> None:
        tries = before.tries + 1 if before else 1
        wait = min(FIRST_WAIT_SECONDS * 2 ** (tries - 1), MAX_WAIT_SECONDS)
        if error == DIED_MESSAGE and tries <= DEATHS_WITHOUT_WAIT:
            wait = 0.0
        failure = WatchFailure(error, tries, time.time() + wait, stat.st_size, stat.st_mtime_ns)
        write_atomically(self._record(path), json.dumps(asdict(failure)))

    def _forget(self, path: Path, before: WatchFailure | None) -> None:
        if before is None:
            self._record(path).unlink(missing_ok=True)
        else:
            write_atomically(self._record(path), json.dumps(asdict(before)))

    def _record(self, path: Path) -> Path:
        return self.state_folder / f"failure-{self._number(path, 1 << 62)}.json"

    def _number(self, path: Path, n: int) -> int:
        """A number below `n` for a path in the folder, the same in every process."""
        name = os.fsencode(path.relative_to(self.root).as_posix())
        return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") % n

    def _done(self, path: Path, stat: os.stat_result) -> bool:
        try:
            source = json.loads(sidecar(path, "json").read_text(encoding="utf-8"))["source"]
            there = sidecar(path, "srt").exists()
            return there and source == {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        except (OSError, ValueError, TypeError, KeyError):
            return False


def sidecar(path: Path, kind: str) -> Path:
    """The sidecar of a video.

    >>> sidecar(Path("a/clip.mp4"), "srt").name
    'clip.mp4.srt'
    """
    return path.with_name(f"{path.name}.{kind}")
