"""Files that a quantized model is written to: their names, and whether there is room for them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from reellama.gguf_tools.atomic_write import check_new, check_writable
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import GGUFFile
from reellama.gguf_tools.format.split_names import part_names
from reellama.gguf_tools.quantization.quant_plan import QuantPlan
from reellama.gguf_tools.quantization.quant_types import ALIASES, COPY_TYPE, QUANT_TYPES
from reellama.gguf_tools.temporary_folders import temporary_folder

SPLIT = re.compile(r"-\d{5}-of-\d{5}$")  # of the parts of a split model


def default_name(file: GGUFFile, type_name: str, adapters: Sequence[str] = ()) -> str:
    """Return the name of a file for `file` quantized: its own with the type in place of its own."""
    path = file.path
    stem = path.name.removesuffix(".gguf")
    if stem == path.name:  # Ollama's blobs are named by their hash
        stem = re.sub(r"[^\w.-]+", "-", str(file.metadata.get("general.name", "model"))).strip("-.")
    stem = SPLIT.sub("", stem)
    match = _type_at_end().search(stem)
    separator = match[1] if match else "-"
    stem = stem[: match.start()] if match else stem
    return separator.join([stem, *adapters, type_name]) + ".gguf"


def _type_at_end() -> re.Pattern[str]:
    names = {type_.name for type_ in QUANT_TYPES} | set(ALIASES) | {"FP16", "FP32", COPY_TYPE}
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(rf"([-._])({'|'.join(longest_first)})$", re.IGNORECASE)


def output_paths(
    file: GGUFFile, targets: Sequence[str], output: str | Path | None, adapters: Sequence[str]
) -> list[Path]:
    """Return the file for each of `targets`, in the current folder or as `output` says."""
    folder = Path.cwd()
    if output is not None:
        folder = Path(output).expanduser()
        is_folder = folder.is_dir() or str(output).endswith(("/", os.sep))
        if not is_folder and folder.suffix == ".gguf":
            if len(targets) > 1:
                raise ReellamaError(f"{output} is one file, and {len(targets)} types need a folder")
            check_writable(folder)
            return [folder]
    return [folder / default_name(file, target, adapters) for target in targets]


def check_places(source: Path, places: Sequence[Path], force: bool) -> None:
    """Raise ReellamaError where a file is the source or exists, or its folder cannot be made."""
    for place in places:
        if place.exists() and place.samefile(source):
            raise ReellamaError(f"{place} is the source itself; give another --output")
        check_new(place, force=force)
    folder = places[0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReellamaError(f"cannot make the folder {folder}: {error.strerror}") from error


def check_space(folder: Path, plans: Sequence[QuantPlan], merged: int) -> None:
    """Raise ReellamaError unless the files fit on the disk, with `merged` bytes beside them."""
    needed = sum(plan.n_bytes for plan in plans) + merged
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ReellamaError(
            f"{needed / 1e9:.2f} GB are needed in {folder.absolute()}, and {free / 1e9:.2f} GB are "
            "free: make room, or give another folder as --output"
        )


def parts(place: Path, n_files: int) -> list[Path]:
    """Return the files of a model that is written to `place`, in so many."""
    if n_files == 1:
        return [place]
    stem = place.name.removesuffix(".gguf")
    first = f"{stem}-00001-of-{n_files:05}.gguf"
    return [place.with_name(name) for name in part_names(first)]


@contextmanager
def replacing_parts(place: Path, n_files: int) -> Iterator[Path]:
    """Give what names of new files begin with, in a folder beside `place`; move them at the end."""
    with temporary_folder(place.parent, ".split-") as folder:
        beginning = folder / place.name.removesuffix(".gguf")
        yield beginning
        for new, target in zip(parts(beginning, n_files), parts(place, n_files), strict=True):
            new.replace(target)
