"""Files of this machine that requests name: read where they lie, whatever their size."""

import asyncio
import hashlib
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from reellama.pipeline.server.files.file_store import FileStore
from reellama.pipeline.server.media.decode_process import MediaLimits, decode
from reellama.pipeline.server.media.media_items import (
    MediaError,
    MediaItem,
    StoredContent,
    content_digest,
)
from reellama.pipeline.server.media.media_kind import sniff_kind
from reellama.pipeline.server.media.media_references import read_text
from reellama.pipeline.server.request_context import CLIENT, LOCAL
from reellama.pipeline.server.settings import Settings
from reellama.pipeline.video.read_options import VideoReadOptions

T = TypeVar("T")


def read(url: str, **settings: Any) -> Any:
    async def reading() -> Any:
        files = FileStore(Path("nowhere"), 0, sniff_kind)
        return await read_text(url, Settings(**settings), files)

    return asyncio.run(reading())


def as_local_user(work: Coroutine[Any, Any, T]) -> T:
    async def working() -> T:
        CLIENT.set(LOCAL)
        return await work

    return asyncio.run(working())


def test_a_file_of_any_size_is_named_and_not_read_into_memory(tmp_path: Path) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(b"\0\0\0\x18ftypisom")
    os.truncate(large, 20 << 30)  # without taking room on the disk
    content = read(large.as_uri(), allow_dirs=(tmp_path,), max_body=1 << 20)
    assert isinstance(content, StoredContent)
    assert (content.path, content.size, content.kind) == (large.resolve(), 20 << 30, "video")


def test_equal_files_are_one_video_wherever_they_come_from(
    square_video: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(square_video.read_bytes())
    digest = content_digest(read(copy.as_uri(), allow_dirs=(tmp_path,)))
    assert digest == hashlib.sha256(square_video.read_bytes()).digest()


def test_the_servers_own_user_names_files_by_url_too(square_video: Path) -> None:
    files = FileStore(Path("nowhere"), 0, sniff_kind)
    content = as_local_user(read_text(square_video.as_uri(), Settings(), files))
    assert isinstance(content, StoredContent)


@pytest.mark.parametrize("name", ["missing.mp4", "folder.mp4", "pipe.mp4", "text.mp4", "empty.mp4"])
def test_what_is_no_video_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "text.mp4").write_text("#EXTM3U\nfile:///etc/passwd\n")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaError) as raised:
        read((tmp_path / name).as_uri(), allow_dirs=(tmp_path,))
    assert raised.value.status == 400


def test_a_link_out_of_the_folder_is_not_followed(square_video: Path, tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(square_video)
    with pytest.raises(MediaError, match="not in a folder") as raised:
        read((tmp_path / "link.mp4").as_uri(), allow_dirs=(tmp_path,))
    assert raised.value.status == 403


def test_a_file_that_changes_before_it_is_decoded_is_not_watched(
    square_video: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.mp4"
    file.write_bytes(square_video.read_bytes())
    content = read(file.as_uri(), allow_dirs=(tmp_path,))
    read_options, limits = VideoReadOptions(frames=2, max_side=64), MediaLimits()
    item = MediaItem((content,))
    assert len(asyncio.run(decode(item, read_options, limits)).frames) == 2
    file.unlink()
    file.symlink_to(square_video)  # where the server may not read
    with pytest.raises(MediaError, match="has changed") as raised:
        asyncio.run(decode(item, read_options, limits))
    assert raised.value.status == 503
