"""Change a model's metadata, its chat template too, in a copy.

edit("model.gguf", "mine.gguf", {"general.name": "Mine"}, template=Path("chat.jinja"))
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from reellama.gguf_tools.editing.model_copy import (
    CopyProgress,
    NewFile,
    check_targets,
    parts_of,
    stored_tensors,
    write_files,
)
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.header_cursor import ARRAY, STRING
from reellama.gguf_tools.format.header_writer import raw_entries, typed_entry, value_type
from reellama.gguf_tools.locate import find

TEMPLATE = "tokenizer.chat_template"
# What the layout of a file follows from: these are not for people to change.
LAYOUT = ("general.alignment", "split.no", "split.count", "split.tensors.count")
# Names of value types, as llama.cpp's --override-kv has them and as GGUF's specification has.
TYPE_NAMES = {
    "u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": STRING,
    "u64": 10, "i64": 11, "f64": 12, "int": 4, "float": 6,
}  # fmt: skip
LAYOUTS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q"} | {
    12: "<d"
}
FLOATS = (6, 12)
BOOL, UINT32, INT32, FLOAT32, INT64 = 7, 4, 5, 6, 11


class Setting(NamedTuple):
    """A key and its new value as a person writes it; `type_` "" keeps the type, or guesses it."""

    key: str
    value: str
    type_: str = ""

    @classmethod
    def parse(cls, text: str) -> Setting:
        """From KEY=VALUE or KEY=TYPE:VALUE. Raises ReellamaError for other text.

        >>> Setting.parse("general.name=A: B"), Setting.parse("llama.rope.freq_base=f32:1e6")
        (Setting(key='general.name', value='A: B', type_=''), Setting(key='llama.rope.freq_base', \
value='1e6', type_='f32'))
        """
        key, equals, value = text.partition("=")
        if not (key.strip() and equals):
            raise ReellamaError(f"{text!r:.60} is not KEY=VALUE or KEY=TYPE:VALUE")
        kind, colon, rest = value.partition(":")
        if colon and kind in TYPE_NAMES:
            return cls(key.strip(), rest, kind)
        return cls(key.strip(), value)


def edit(
    source: str | Path,
    output: str | Path,
    settings: Iterable[Setting] = (),
    *,
    remove: Iterable[str] = (),
    template: str | None = None,
    force: bool = False,
    progress: CopyProgress | None = None,
) -> NewFile:
    """Write a copy of a model with keys set and removed; one that is split is joined.

    A key that is there keeps its type. `template` is the Jinja source of the chat template. Raises
    ReellamaError, and writes nothing, for a value that its type does not hold, a list, a key to
    remove that is not there, and as `model_copy.check_targets` does.
    """
    path = find.resolve(source)
    parts = parts_of(path)
    entries = {key: entry for key, entry in raw_entries(path).items() if key not in LAYOUT[1:]}
    for key in remove:
        if key not in entries:
            raise ReellamaError(f"{path} has no key {key!r:.60}")
        _check_key(key)
        del entries[key]
    wanted = list(settings)
    if template is not None:
        wanted.append(Setting(TEMPLATE, template, "str"))
    for setting in wanted:
        _check_key(setting.key)
        entries[setting.key] = _entry(setting, entries)
    file = NewFile(Path(output).expanduser(), entries, stored_tensors(parts))
    check_targets([file], parts, force=force)
    write_files([file], progress)
    return file


def _check_key(key: str) -> None:
    if key in LAYOUT:
        raise ReellamaError(f"{key} says how the file is laid out: it cannot be changed")


def _entry(setting: Setting, entries: Mapping[str, bytes]) -> bytes:
    key, text, name = setting
    old = value_type(key, entries[key]) if key in entries else None
    if old == ARRAY:
        raise ReellamaError(f"{key} is a list, which cannot be set here")
    type_ = TYPE_NAMES[name] if name else _guess(text) if old is None else old
    return typed_entry(key, type_, _packed(setting, type_))


def _guess(text: str) -> int:
    """The type of a new key's value."""
    if text in ("true", "false"):
        return BOOL
    try:
        number = int(text)
    except ValueError:
        try:
            return FLOAT32 if math.isfinite(float(text)) else STRING
        except ValueError:
            return STRING
    if 0 <= number < 1 << 32:
        return UINT32
    return INT32 if -(1 << 31) <= number < 0 else INT64


def _packed(setting: Setting, type_: int) -> bytes:
    """The value as bytes. Raises ReellamaError where it is none of the type."""
    key, text, _ = setting
    name = next(name for name, number in TYPE_NAMES.items() if number == type_)
    if type_ == STRING:
        data = text.encode("utf-8", "surrogateescape")
        return struct.pack("<Q", len(data)) + data
    try:
        if type_ == BOOL:
            return struct.pack("<?", {"true": True, "false": False}[text.strip().lower()])
        return struct.pack(LAYOUTS[type_], float(text) if type_ in FLOATS else int(text))
    except (KeyError, ValueError, OverflowError, struct.error):
        raise ReellamaError(f"{key} is of type {name}: {text!r:.40} is none") from None
