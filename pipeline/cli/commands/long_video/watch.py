"""`reellama watch`: a worker that writes a sidecar beside each new video of a folder."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import BadParameter, Exit, Option

from reellama.pipeline.cli.commands.long_video.long_video_options import SceneOptions

if TYPE_CHECKING:
    from types import FrameType

    from reellama.pipeline.long_video.timeline import LongVideo, Timeline
    from reellama.pipeline.long_video.watch_folder import WatchedFolder


@dataclass(frozen=True)
class WatchOptions:
    """How a folder is watched."""

    recursive: Annotated[bool, Option("--recursive", help="Folders inside it too.")] = False
    once: Annotated[bool, Option("--once", help="Do what is there, then end.")] = False
    status: Annotated[bool, Option("--status", help="Say how far each video is, and end.")] = False
    json: Annotated[bool, Option("--json", help="With --status: a JSON list.")] = False
    interval: Annotated[
        float, Option(min=0.1, metavar="SECONDS", help="Between two looks at the folder.")
    ] = 2.0
    settled: Annotated[
        float, Option(min=0, metavar="SECONDS", help="A file unchanged for so long is whole.")
    ] = 2.0
    retry: Annotated[
        bool, Option("--retry", help="Forget earlier failures and try these files again.")
    ] = False


def run(root: Path, options: WatchOptions, models: SceneOptions) -> None:
    """Watch until Ctrl-C or SIGTERM; with --once, raises Exit(1) where a video failed."""
    from reellama.pipeline.long_video.watch_folder import WatchedFolder

    if options.json and not options.status:
        raise BadParameter("--json is for --status")
    folder = WatchedFolder(root, recursive=options.recursive, settled=options.settled)
    if options.status:
        _print_status(folder, as_json=options.json)
        return
    if options.retry:
        for entry in folder.entries():
            if entry.failure is not None:
                folder.forget(entry.path)
    signal.signal(signal.SIGTERM, _interrupt)
    worker = _Worker(models)
    try:
        while True:
            busy = worker.work(folder)
            if options.once and not busy and not _unfinished(folder):
                break
            if not busy:
                time.sleep(min(options.interval, 0.5) if options.once else options.interval)
    finally:
        worker.close()
    if any(entry.failure is not None for entry in folder.entries()):
        raise Exit(1)


class _Worker:
    """The models, loaded when there is first something to watch."""

    def __init__(self, models: SceneOptions) -> None:
        self.models = models
        self.long_video: LongVideo | None = None

    def work(self, folder: WatchedFolder) -> bool:
        """Do everything that can be done now; says whether there was anything."""
        from reellama.pipeline.cli.console import note, strip_control
        from reellama.pipeline.long_video.watch_folder import sidecar

        busy = False
        for path in folder.waiting():
            if folder.process(path, self.describe):
                busy = True
                note(f"{strip_control(str(path))}: {sidecar(path, 'json').name}")
            elif failure := folder.failure(path):
                busy = True
                where = "" if failure.error.startswith(str(path)) else f"{path}: "
                note(strip_control(where + failure.error))
        return busy

    def describe(self, path: Path) -> Timeline:
        """The timeline of a video."""
        if self.long_video is None:
            self.long_video = self.models.open()
        return self.long_video.timeline(path)

    def close(self) -> None:
        """Give the memory back."""
        if self.long_video is not None:
            self.long_video.close()


def _unfinished(folder: WatchedFolder) -> bool:
    """Whether something is still being copied or watched by another worker."""
    return any(entry.state in ("new", "copying", "working") for entry in folder.entries())


def _print_status(folder: WatchedFolder, *, as_json: bool) -> None:
    from reellama.pipeline.cli.console import note, out, strip_control

    entries = folder.entries()
    if as_json:
        rows = [{**asdict(entry), "path": str(entry.path)} for entry in entries]
        sys.stdout.write(json.dumps(rows, ensure_ascii=False) + "\n")
        return
    for entry in entries:
        line = f"{entry.state:8}  {entry.path.relative_to(folder.root)}"
        if entry.failure is not None:
            again = datetime.fromtimestamp(entry.failure.next_try).strftime("%H:%M:%S")
            line += f"  ({entry.failure.error}; tried {entry.failure.tries} times"
            line += f", again at {again})" if entry.state == "failed" else ")"
        out.print(strip_control(line), markup=False, soft_wrap=True)
    counts = Counter(entry.state for entry in entries)
    note(", ".join(f"{n} {state}" for state, n in counts.items()) or "no videos there")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
