"""A temporary folder is gone however the process that made it ends."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from reellama.gguf_tools.temporary_folders import temporary_folder

PROGRAM = """
import os, signal, sys
from reellama.gguf_tools.temporary_folders import temporary_folder
with temporary_folder() as folder:
    (folder / "file").write_text("content")
    print(folder, flush=True)
    sys.stdin.read(1)
    {end}
"""


def is_ignored(number: int, status: Path) -> bool:
    mask = int(status.read_text().partition("SigIgn:")[2].split()[0], 16)
    return bool(mask >> (number - 1) & 1)


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_folder_lasts_as_long_as_the_block(tmp_path: Path) -> None:
    with temporary_folder(tmp_path, ".made-") as folder:
        (folder / "file").write_text("content")
        (folder / "link").symlink_to(tmp_path)
        assert folder.parent == tmp_path and folder.name.startswith(".made-")
    assert tmp_path.is_dir() and not folder.exists()


@pytest.mark.parametrize(
    "end",
    [
        "os._exit(1)",
        "os.abort()",
        "os.kill(0, signal.SIGTERM)",  # all processes of the group
        "os.kill(0, signal.SIGKILL)",
        "os.kill(0, signal.SIGHUP)",
        "os.kill(0, signal.SIGINT)",
    ],
)
def test_a_folder_is_gone_however_the_process_ends(end: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(end=end)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        start_new_session=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert (folder / "file").is_file() and folder.parent == tmp_path
        process.stdin.write("\n")
        process.stdin.flush()
        process.wait(30)
    wait_until(lambda: not folder.exists())


def test_signals_to_a_whole_service_do_not_end_the_shell_first(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        (shell,) = (one for one in psutil.Process().children() if str(folder) in one.cmdline())
        status = Path(f"/proc/{shell.pid}/status")
        wait_until(lambda: is_ignored(signal.SIGTERM, status))
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            shell.send_signal(number)
        assert shell.is_running() and shell.status() != psutil.STATUS_ZOMBIE
    assert not folder.exists()


def test_without_a_shell_the_end_of_the_block_removes_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "Popen", missing)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder() as folder:
        assert folder.parent == tmp_path
    assert not folder.exists()
