"""Download a model from the hub into the hub client's cache, which other tools share.

A file is written as `blobs/HASH.incomplete`, and renamed to HASH once its hash is right and its
header can be read. A pull that was stopped resumes there. The hub's client then registers the blob
under the file's name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reellama.gguf_tools.download import hub
from reellama.gguf_tools.download.hub import HubFile
from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.reader import MAGIC, read_gguf
from reellama.gguf_tools.format.split_names import part_names
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.locate.mmproj_choice import (
    choose_mmprojs,
    first_that_fits,
    memory_size,
)
from reellama.gguf_tools.locate.naming import HUB_PREFIX, HubName, choose_file, split_hub_name
from reellama.gguf_tools.locate.stores import hub_cache
from reellama.gguf_tools.sizes import show_size

CHUNK = 1 << 20  # bytes
SHA1_DIGITS = 40

FileProgress = Callable[[str, int, int], None]  # (activity, bytes done, total bytes)


def pull(
    name: str,
    progress: FileProgress = lambda activity, done, total: None,
    report: hub.MessageCallback = lambda message: None,
    mmproj: str = "",
) -> Path:
    """Download the files of a model that are not in the cache yet, and return the first one's path.

    With HF_HUB_OFFLINE, or without a network, only files on this machine are used.

    Args:
        name: "owner/repo[@revision][:quantization-or-file]".
        progress: called while files are downloaded and checked.
        report: receives messages.
        mmproj: type of the mmproj to download, too: "f16", "bf16", "q8_0" or "f32"; "none" for no
            mmproj; "" for the largest that fits into memory with the model.

    Raises:
        GGUFError: the repository, quantization or file does not exist, a token is missing, the disk
            is too small, the network fails, or a file is damaged.
    """
    model = split_hub_name(name)
    try:
        files = _files_of(model, mmproj, report)
    except hub.Unreachable as error:
        path = _path_on_this_machine(model, error)
        report(f"{error}; what is on this machine is used")
        return path
    missing = [file for file in files if not _is_whole(file)]
    _check_disk(missing)
    for file in missing:
        _fetch(file, progress, report)
    return [hub.add_to_cache(file, hub_cache(), report) for file in files][0]  # noqa: RUF015  # all of them


def _files_of(name: HubName, mmproj: str, report: hub.MessageCallback) -> list[HubFile]:
    """The files to download, the model's first one first, its mmproj last."""
    repo, quant_or_file, revision = name
    names, where = hub.list_files(repo, report, revision), f"{HUB_PREFIX}{repo}"
    chosen = choose_file(names, quant_or_file, where)
    parts = part_names(chosen)
    if lost := set(parts) - set(names):
        raise GGUFError(f"{where} lacks a part of {chosen}: {min(lost)}; choose another file")
    mmprojs = choose_mmprojs(names, chosen, mmproj, where)
    if len(parts) > 1:
        report(f"{chosen} is one model in {len(parts)} files")
    files = [hub.file_info(repo, part, report, revision) for part in parts]
    room = memory_size() - sum(file.size for file in files)
    candidates = [hub.file_info(repo, mmproj_name, report, revision) for mmproj_name in mmprojs]
    chosen_mmproj = first_that_fits(candidates, lambda file: file.size, room)
    if chosen_mmproj is None:
        return files
    report(f"{chosen_mmproj.name}, its encoder of pictures, comes with it")
    return [*files, chosen_mmproj]


def _path_on_this_machine(name: HubName, error: hub.Unreachable) -> Path:
    try:
        return find.resolve(f"{HUB_PREFIX}{name}")
    except GGUFError:
        raise error from None


def _blob(file: HubFile) -> Path:
    return _folder(file) / "blobs" / file.etag


def _partial(file: HubFile) -> Path:
    return _folder(file) / "blobs" / f"{file.etag}.incomplete"


def _folder(file: HubFile) -> Path:
    return hub_cache() / f"models--{file.repo.replace('/', '--')}"


def _is_whole(file: HubFile) -> bool:
    """Whether the file is in the cache and undamaged."""
    blob = _blob(file)
    try:
        return blob.stat().st_size == file.size and bool(read_gguf(blob))
    except (OSError, GGUFError):
        return False


def _check_disk(files: list[HubFile]) -> None:
    """Raises GGUFError when the disk is too small for the missing bytes of the files."""
    downloaded = sum(_partial(file).stat().st_size for file in files if _partial(file).exists())
    needed = sum(file.size for file in files) - downloaded
    cache = hub_cache().absolute()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise GGUFError(
            f"{files[0].repo} needs {show_size(needed)} more, and {cache} has {show_size(free)} "
            "free; make room, or set HF_HOME to a folder on a larger disk"
        )


def _fetch(file: HubFile, progress: FileProgress, report: hub.MessageCallback) -> None:
    """Download a file, verify it, and rename it."""
    part = _partial(file)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with _lock(file, report):
            if _is_whole(file):  # another process was quicker
                return
            activity = f"downloading {file.name}"
            hub.download(file, part, lambda done: progress(activity, done, file.size), report)
            _verify(file, part, progress)
            with part.open("rb+") as written:
                os.fsync(written.fileno())
            part.replace(_blob(file))
    except OSError as error:
        raise GGUFError(
            f"cannot save {file} in {hub_cache()}: {error.strerror or error}; the same command "
            "goes on where it stopped"
        ) from error


def _verify(file: HubFile, part: Path, progress: FileProgress) -> None:
    """Raise GGUFError, and remove the file, if its hash is wrong or it is not a GGUF."""
    actual = digest(file, part, progress)
    if actual != file.etag:
        part.unlink()
        raise GGUFError(
            f"{file} was damaged on the way: its hash is {actual}, not {file.etag}; it was "
            "removed, download it again"
        )
    try:
        read_gguf(part)
    except GGUFError as error:
        with part.open("rb") as data:
            is_gguf = data.read(len(MAGIC)) == MAGIC
        if not is_gguf:  # a GGUF of an unknown version stays: an update may read it
            part.unlink()
        reason = str(error).replace(str(part), str(file))
        raise GGUFError(f"what the hub has cannot be used: {reason}") from None


def digest(file: HubFile, path: Path, progress: FileProgress) -> str:
    """The hash of a file of the kind that its etag is."""
    if len(file.etag) == SHA1_DIGITS:  # git's blob hash, for files outside of Git LFS
        digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    else:
        digest = hashlib.sha256()
    with path.open("rb") as data:
        while chunk := data.read(CHUNK):
            digest.update(chunk)
            progress(f"checking {file.name}", data.tell(), file.size)
    return digest.hexdigest()


@contextmanager
def _lock(file: HubFile, report: hub.MessageCallback) -> Iterator[None]:
    """Keep others from downloading the same file, with the lock that the hub's client uses."""
    from filelock import FileLock, Timeout

    folder = hub_cache() / ".locks" / _folder(file).name
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{file.etag}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"another process downloads {file}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
