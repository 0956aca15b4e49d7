"""The store of files by itself: what is in use stays, and nothing else."""

import io
import os
import time
from pathlib import Path

import pytest

from reellama.pipeline.server.files import file_store
from reellama.pipeline.server.files.file_store import FileStore, FileStoreError

CONTENT = b"some bytes of a picture"


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path, 2 * len(CONTENT), lambda _: "picture")


def add(store: FileStore) -> str:
    return store.add(io.BytesIO(CONTENT), "a.png", "vision").id


def no_links(*_: object) -> None:
    raise PermissionError("no hard links here")


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_in_use_stays_until_nobody_uses_it(
    store: FileStore, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    id_ = add(store)
    first, second = store.hold(id_), store.hold(id_)
    assert first is second
    store.delete(id_)
    content = first.content
    del first, second
    assert content.path.read_bytes() == CONTENT
    with pytest.raises(FileStoreError, match="there is no file"):
        store.hold(id_)
    del content
    assert list(store.folder.iterdir()) == []


def test_a_deleted_file_in_use_still_takes_room(store: FileStore) -> None:
    held = [store.hold(add(store)) for _ in range(2)]
    for each in held:
        store.delete(each.stored.id)
    with pytest.raises(FileStoreError, match="no room"):
        add(store)
    del each, held
    add(store)


def test_a_file_deleted_between_two_steps_is_not_there(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = add(store)
    known = store.get(id_)
    store.delete(id_)
    monkeypatch.setattr(store, "get", lambda _: known)
    with pytest.raises(FileStoreError, match="there is no file") as caught:
        store.hold(id_)
    assert caught.value.status == 404


def test_files_held_by_a_killed_server_are_removed(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = add(store)
    left = store.folder / ".held-by-a-killed-server"
    os.link(store.get(id_).path, left)
    os.utime(left, (0, 0))  # an old file that is newly in use
    store.sweep()
    assert left.exists()
    later = time.time() + file_store.ABANDONED_SECONDS + 1
    monkeypatch.setattr(file_store, "time", type("T", (), {"time": lambda: later}))
    store.sweep()
    assert not left.exists() and store.get(id_).path.read_bytes() == CONTENT
