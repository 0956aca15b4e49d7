"""`reellama cache`: what was computed and is kept for the next time, and how to remove it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from typer import BadParameter

from reellama.gguf_tools.quantization.merged_llm import MAX_BYTES, MAX_FILES, MERGED_LLMS
from reellama.gguf_tools.sizes import show_size
from reellama.models.array_cache import DISK_BYTES
from reellama.models.cache_folders import (
    ENCODED_FRAMES,
    EXPORTED_GRAPHS,
    FRAME_EMBEDDINGS,
    KV_CACHE_STATES,
    TRUNK_FEATURES,
)
from reellama.pipeline.cli.console import note
from reellama.pipeline.cli.progress import show_table

# Folder -> what is in it, and how large it may become; None without a limit.
FOLDERS: dict[Path, tuple[str, int | None]] = {
    ENCODED_FRAMES: ("videos that were looked at", DISK_BYTES),
    KV_CACHE_STATES: ("what an LLM read of them", DISK_BYTES),
    FRAME_EMBEDDINGS: ("moments of videos that were searched", DISK_BYTES),
    MERGED_LLMS: ("LLMs with an adapter merged in", MAX_FILES * MAX_BYTES),
    TRUNK_FEATURES: ("features of captioned clips", None),
    EXPORTED_GRAPHS: ("networks exported for onnxruntime", None),
}


def run(action: str) -> None:
    """Do what `action` says. Raises BadParameter for another word."""
    if action not in ACTIONS:
        raise BadParameter(f"{action!r} is neither show nor clear")
    ACTIONS[action]()


def show() -> None:
    """Print a line for each folder."""
    rows = []
    for folder, (what, limit) in FOLDERS.items():
        sizes = [size for _, size in _files(folder)]
        most = show_size(limit) if limit else "no limit"
        rows.append([what, str(len(sizes)), show_size(sum(sizes)), most, str(folder)])
    show_table(["what", "files", "size", "at most", "folder"], rows, ["folder"])


def clear() -> None:
    """Remove all files.

    A command that runs meanwhile computes again what it does not find; only one that was about to
    load a merged LLM has to be repeated.
    """
    files = [file for folder in FOLDERS for file in _files(folder)]
    for path, _ in files:
        path.unlink(missing_ok=True)
    note(f"{len(files)} files removed, {show_size(sum(size for _, size in files))}")


ACTIONS = {"show": show, "clear": clear}


def _files(folder: Path) -> list[tuple[Path, int]]:
    """Files of a folder with their sizes, also those that a killed command left half-written.

    What another command removes meanwhile is left out.
    """
    files = []
    for inner, _, names in os.walk(folder):
        for path in (Path(inner, name) for name in names):
            with suppress(FileNotFoundError):
                files.append((path, path.stat().st_size))
    return files
