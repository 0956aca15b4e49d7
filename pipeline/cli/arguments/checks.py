"""Checks of what is typed, made before a file is opened: a wrong word ends in exit status 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from typer import BadParameter

from reellama.gguf_tools.errors import ReellamaError


@contextmanager
def bad_arguments(errors: type[ReellamaError] = ReellamaError) -> Iterator[None]:
    """Let `errors` in this block be those of wrong arguments."""
    try:
        yield
    except errors as error:
        raise BadParameter(str(error)) from error


def checked_by(read: Callable[[str], object]) -> Callable[[Any], Any]:
    """A callback for an option, or an argument, whose texts `read` can read. It keeps the texts.

    read: raises ReellamaError or ValueError for a text that is wrong.
    """

    def check(value: Any) -> Any:
        for text in value if isinstance(value, list | tuple) else [value]:
            if text is not None:
                try:
                    read(text)
                except (ReellamaError, ValueError) as error:
                    raise BadParameter(str(error)) from error
        return value

    return check


def each_of(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A callback for an option that takes a list with commas, each part of which `check` checks."""
    return checked_by(lambda text: check([part.strip() for part in text.split(",") if part]))


def one_of(*names: str) -> Callable[[Any], Any]:
    """A callback for an option, or an argument, that takes one of `names`."""

    def read(text: str) -> None:
        if text not in names:
            raise ReellamaError(f"{text!r:.40} is not one of {', '.join(names)}")

    return checked_by(read)


# What is imported here is imported where such an option is typed.


@checked_by
def check_gpu_layers(text: str) -> None:
    """How many layers a GPU takes."""
    if text not in ("auto", "all") and not text.isdecimal():
        raise ReellamaError(f"{text!r:.40} is neither a number nor auto nor all")


@checked_by
def check_size(text: str) -> None:
    """Of memory or of a file, such as 12GiB."""
    from reellama.gguf_tools.sizes import parse_size

    parse_size(text)


@checked_by
def check_memory(text: str) -> None:
    """Memory for a model: a size without its unit would be too small for any."""
    from reellama.gguf_tools.sizes import parse_size

    if (n_bytes := parse_size(text)) < MIN_MEMORY:
        raise ReellamaError(f"{text} is {n_bytes:,} bytes; write it as 12GiB, 8GB or 8000MiB")


MIN_MEMORY = 1 << 20  # bytes


@checked_by
def check_quant_type(text: str) -> None:
    """What `gguf quantize` makes of a model, such as Q4_K_M."""
    from reellama.gguf_tools.quantization.quant_types import quant_type

    quant_type(text)


@checked_by
def check_tensor_type(text: str) -> None:
    """The type of a tensor, such as Q6_K."""
    from reellama.gguf_tools.quantization.quant_types import type_of_tensor

    type_of_tensor(text)


@checked_by
def check_kv_type(text: str) -> None:
    """The type of the keys or the values of a KV cache, such as q8_0."""
    from reellama.gguf_tools.memory.estimates import KV_TYPE_NAMES

    if text not in KV_TYPE_NAMES:
        raise ReellamaError(f"{text!r:.40} is not one of {', '.join(KV_TYPE_NAMES)}")


@checked_by
def check_mmproj_type(text: str) -> None:
    """What `gguf convert` makes of a vision encoder."""
    from reellama.gguf_tools.format.mmproj_types import MMPROJ_TYPES

    if text.upper() not in MMPROJ_TYPES:
        raise ReellamaError(f"cannot convert to {text:.40}: give {', '.join(MMPROJ_TYPES)}")


@checked_by
def check_conversion_type(text: str) -> None:
    """What `gguf convert` makes of an LLM: the types are those of an mmproj."""
    try:
        check_mmproj_type(text)
    except BadParameter as error:
        raise BadParameter(f"{error}, and quantize the result") from error


@checked_by
def check_hub_name(text: str) -> None:
    """OWNER/REPO, and which file of it."""
    from reellama.gguf_tools.locate.naming import split_hub_name

    split_hub_name(text)
