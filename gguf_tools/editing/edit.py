"""Write a copy of a model with changed metadata, such as its chat template.

edit("model.gguf", "mine.gguf", {"general.name": "Mine"}, template=Path("chat.jinja"))
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from gguf.constants import GGUFValueType

from reellama.gguf_tools.editing.model_copy import (
    CopyProgress,
    NewFile,
    check_targets,
    parts_of,
    stored_tensors,
    write_files,
)
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.header_cursor import STRUCT_FORMATS
from reellama.gguf_tools.format.header_writer import raw_entries, typed_entry, value_type
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.user_paths import expand_user

TEMPLATE = "tokenizer.chat_template"
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
# Keys that describe the layout of the file and must not be changed.
PROTECTED_KEYS = ("general.alignment", *SPLIT_KEYS)
# Names of value types, those of GGUF's specification and those of llama.cpp's --override-kv.
TYPE_NAMES = {
    "u8": GGUFValueType.UINT8,
    "i8": GGUFValueType.INT8,
    "u16": GGUFValueType.UINT16,
    "i16": GGUFValueType.INT16,
    "u32": GGUFValueType.UINT32,
    "i32": GGUFValueType.INT32,
    "f32": GGUFValueType.FLOAT32,
    "bool": GGUFValueType.BOOL,
    "str": GGUFValueType.STRING,
    "u64": GGUFValueType.UINT64,
    "i64": GGUFValueType.INT64,
    "f64": GGUFValueType.FLOAT64,
    "int": GGUFValueType.UINT32,
    "float": GGUFValueType.FLOAT32,
}
FLOATS = (GGUFValueType.FLOAT32, GGUFValueType.FLOAT64)


class Setting(NamedTuple):
    """A key and its new value as text. An empty `type_` keeps the type of an existing key, and
    guesses that of a new one."""

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
        type_, colon, typed_value = value.partition(":")
        if colon and type_ in TYPE_NAMES:
            return cls(key.strip(), typed_value, type_)
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
    """Write a copy of a model with keys set and removed. A split model is joined.

    Args:
        source: a name for `reellama.gguf_tools.locate.find.resolve`, or a path.
        output: the new file.
        settings: keys to set.
        remove: keys to remove.
        template: Jinja source of the new chat template.
        force: whether to replace an existing file.
        progress: called with the bytes copied and the total.

    Raises:
        ReellamaError: a value does not fit its type, a key to set is a list, a key to remove is
            missing, or see `model_copy.check_targets`. No file is written.
    """
    path = find.resolve(source)
    parts = parts_of(path)
    entries = {key: entry for key, entry in raw_entries(path).items() if key not in SPLIT_KEYS}
    for key in remove:
        if key not in entries:
            raise ReellamaError(f"{path} has no key {key!r:.60}")
        _check_key(key)
        del entries[key]
    if template is not None:
        settings = [*settings, Setting(TEMPLATE, template, "str")]
    for setting in settings:
        _check_key(setting.key)
        entries[setting.key] = _entry(setting, entries)
    file = NewFile(expand_user(output), entries, stored_tensors(parts))
    check_targets([file], parts, force=force)
    write_files([file], progress)
    return file


def _check_key(key: str) -> None:
    if key in PROTECTED_KEYS:
        raise ReellamaError(f"{key} says how the file is laid out: it cannot be changed")


def _entry(setting: Setting, entries: Mapping[str, bytes]) -> bytes:
    key, text, name = setting
    old = value_type(key, entries[key]) if key in entries else None
    if old == GGUFValueType.ARRAY:
        raise ReellamaError(f"{key} is a list, which cannot be set here")
    type_ = TYPE_NAMES[name] if name else _guess(text) if old is None else old
    return typed_entry(key, type_, _packed(setting, type_))


def _guess(text: str) -> GGUFValueType:
    """The type of a new key's value."""
    if text in ("true", "false"):
        return GGUFValueType.BOOL
    try:
        number = int(text)
    except ValueError:
        try:
            return GGUFValueType.FLOAT32 if math.isfinite(float(text)) else GGUFValueType.STRING
        except ValueError:
            return GGUFValueType.STRING
    if 0 <= number < 1 << 32:
        return GGUFValueType.UINT32
    return GGUFValueType.INT32 if -(1 << 31) <= number < 0 else GGUFValueType.INT64


def _packed(setting: Setting, type_: GGUFValueType) -> bytes:
    """The value as bytes. Raises ReellamaError if it does not fit the type."""
    key, text, _ = setting
    name = next(name for name, number in TYPE_NAMES.items() if number == type_)
    if type_ == GGUFValueType.STRING:
        data = text.encode("utf-8", "surrogateescape")
        return struct.pack("<Q", len(data)) + data
    try:
        if type_ == GGUFValueType.BOOL:
            return struct.pack("<?", {"true": True, "false": False}[text.strip().lower()])
        number = float(text) if type_ in FLOATS else int(text)
        return struct.pack(f"<{STRUCT_FORMATS[type_]}", number)
    except (KeyError, ValueError, OverflowError, struct.error):
        raise ReellamaError(f"{key} is of type {name}: {text!r:.40} is none") from None
