"""The output files of a quantization: names, checks, and the disk space that they need."""

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
from reellama.gguf_tools.user_paths import expand_user

SPLIT = re.compile(r"-\d{5}-of-\d{5}$")  # end of the stem of a split model's part


def default_name(file: GGUFFile, type_name: str, adapters: Sequence[str] = ()) -> str:
    """The source's file name with `type_name` in place of the source's type.

    adapters: names of merged adapters, which go in front of the type.
    """
    path = file.path
    stem = path.name.removesuffix(".gguf")
    if stem == path.name:  # one of Ollama's blobs, which are named by their hash
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
    """The file for each of `targets`: in the current folder, in the folder `output`, or `output`.

    Raises ReellamaError if `output` is a file and `targets` has several types.
    """
    folder = Path.cwd()
    if output is not None:
        folder = expand_user(output)
        is_folder = folder.is_dir() or str(output).endswith(("/", os.sep))
        if not is_folder and folder.suffix == ".gguf":
            if len(targets) > 1:
                raise ReellamaError(f"{output} is one file, and {len(targets)} types need a folder")
            check_writable(folder)
            return [folder]
    return [folder / default_name(file, target, adapters) for target in targets]


def check_output_paths(source: Path, paths: Sequence[Path], force: bool) -> None:
    """Check files that will be written into one folder, and make the folder.

    Raises ReellamaError for the source itself, for a file that exists unless `force` is true, and
    for a folder that cannot be made.
    """
    for path in paths:
        if path.exists() and path.samefile(source):
            raise ReellamaError(f"{path} is the source itself; give another --output")
        check_new(path, force=force)
    folder = paths[0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReellamaError(f"cannot make the folder {folder}: {error.strerror}") from error


def check_space(folder: Path, plans: Sequence[QuantPlan], temporary_bytes: int) -> None:
    """Raise ReellamaError unless the planned files and the temporary file fit on the disk."""
    needed = sum(plan.n_bytes for plan in plans) + temporary_bytes
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ReellamaError(
            f"{needed / 1e9:.2f} GB are needed in {folder.absolute()}, and {free / 1e9:.2f} GB are "
            "free: make room, or give another folder as --output"
        )


def parts(path: Path, n_files: int) -> list[Path]:
    """The `n_files` files of a model that is written to `path`."""
    if n_files == 1:
        return [path]
    stem = path.name.removesuffix(".gguf")
    first = f"{stem}-00001-of-{n_files:05}.gguf"
    return [path.with_name(name) for name in part_names(first)]


@contextmanager
def replacing_parts(path: Path, n_files: int) -> Iterator[Path]:
    """A context with the common prefix of new files, in a temporary folder beside `path`.

    At the end the files replace `parts(path, n_files)`.
    """
    with temporary_folder(path.parent, ".split-") as folder:
        prefix = folder / path.name.removesuffix(".gguf")
        yield prefix
        for new, target in zip(parts(prefix, n_files), parts(path, n_files), strict=True):
            new.replace(target)
