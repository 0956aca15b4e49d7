"""Servers that share a store: what one of them uses, another one that starts leaves alone."""

import asyncio
import io
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reellama.pipeline.server.app import create_app
from reellama.pipeline.server.files import file_store
from reellama.pipeline.server.model_registry import blob_store
from reellama.pipeline.server.settings import Settings
from reellama.pipeline.server.store_lock import using_store

PICTURE = b"\x89PNG\r\n\x1a\n"


def test_a_server_that_starts_leaves_what_another_one_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(cache=None, store=tmp_path)
    quantizing = tmp_path / ".quantizing-x"

    async def start_and_stop() -> None:
        app = create_app(settings)
        async with app.router.lifespan_context(app):
            pass

    async def run() -> None:
        first = create_app(settings)
        async with first.router.lifespan_context(first):
            files = first.state.service.files
            files._kind_of = lambda _: "picture"
            stored = files.add(io.BytesIO(PICTURE), "a.png", "vision")
            held = files.hold(stored.id)
            quantizing.mkdir()
            later = time.time() + 10 * file_store.ABANDONED_SECONDS
            for module in (file_store, blob_store):
                monkeypatch.setattr(module, "time", type("T", (), {"time": lambda: later}))
            await start_and_stop()
            assert held.path.read_bytes() == PICTURE and quantizing.exists()
        await start_and_stop()  # now alone
        assert not held.path.exists() and not quantizing.exists()

    asyncio.run(run())


def test_a_server_that_was_killed_uses_a_store_no_more(tmp_path: Path) -> None:
    command = (
        "import sys, time, pathlib\n"
        "from reellama.pipeline.server.store_lock import using_store\n"
        "with using_store(pathlib.Path(sys.argv[1]), lambda: None):\n"
        "    print('in use', flush=True)\n"
        "    time.sleep(60)"
    )
    swept: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", command, str(tmp_path)], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline()
        with using_store(tmp_path, lambda: swept.append("beside another")):
            pass
        other.kill()
    with using_store(tmp_path, lambda: swept.append("alone")):
        pass
    assert swept == ["alone"]


def test_a_store_that_cannot_be_made_or_locked_is_swept_by_age(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    swept: list[bool] = []
    with using_store(tmp_path / "file" / "store", lambda: swept.append(True)):
        assert swept == [True]
