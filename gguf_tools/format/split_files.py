"""Read the headers of a split model (`big-00001-of-00003.gguf` and so on) as one."""

from dataclasses import replace
from pathlib import Path

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.reader import GGUFFile, Tensor, read_gguf
from reellama.gguf_tools.format.split_names import part_names


def check_named_as_split(file: GGUFFile) -> None:
    """Raise GGUFError for a renamed file of a split model: the others are found by their names."""
    count = file.metadata.get("split.count")
    if isinstance(count, int) and count > 1 and len(part_names(file.path.name)) != count:
        number = file.metadata.get("split.no")
        which = f"-{number + 1 if isinstance(number, int) else 1:05}-of-{count:05}.gguf"
        raise GGUFError(
            f"{file.path} is one of {count} files of a model: name all of them as they were, this "
            f"one NAME{which}"
        )


def read_model(path: str | Path) -> GGUFFile:
    """Read the headers of all files of a model. path: of the only or the first file.

    The metadata is that of the first file, which has all of it. `size` is the sum over all files,
    and a tensor's `offset` is within its own file. Raises GGUFError if a file is missing, damaged
    or renamed, or if two files have the same tensor.
    """
    first = read_gguf(path)
    count = first.metadata.get("split.count")
    if not isinstance(count, int) or count < 2:
        return first
    check_named_as_split(first)
    size, tensors = 0, dict[str, Tensor]()
    for name in part_names(first.path.name):
        part = first if name == first.path.name else read_gguf(first.path.with_name(name))
        if repeated := tensors.keys() & part.tensors.keys():
            raise GGUFError(f"{part.path} is damaged: another part has {min(repeated)!r} too")
        size += part.size
        tensors |= part.tensors
    return replace(first, size=size, tensors=tensors)
