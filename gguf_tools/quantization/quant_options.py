"""What a person may choose beside the type, as text: tensors' types, keys, layers to leave out."""

from __future__ import annotations

import math
from pathlib import Path

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.quantization.quantize_child import MAX_STRING

MAX_KEY = 127  # bytes of a key in a llama_model_kv_override
INT64 = 1 << 63

MetadataValue = int | float | bool | str


def parse_tensor_type(text: str) -> tuple[str, str]:
    """A pattern and a type from PATTERN=TYPE. Raises ReellamaError for other text."""
    pattern, equals, type_name = text.strip().rpartition("=")
    if not (pattern and equals and type_name):
        raise ReellamaError(f"{text.strip()!r:.80} is not PATTERN=TYPE")
    return pattern, type_name


def read_tensor_types(path: str | Path) -> list[tuple[str, str]]:
    """The patterns and types of a file, PATTERN=TYPE in each line, as llama-quantize reads it.

    Empty lines and those that begin with `#` do not count. Raises ReellamaError, with the line's
    number, for others.
    """
    path = Path(path).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ReellamaError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReellamaError(f"{path} is not a text file (UTF-8)") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                found.append(parse_tensor_type(line))
            except ReellamaError as error:
                raise ReellamaError(f"{path}, line {number}: {error}") from None
    if not found:
        raise ReellamaError(f"{path} names no tensor: write PATTERN=TYPE in each line")
    return found


def parse_metadata(text: str) -> tuple[str, MetadataValue]:
    """A key and its value from KEY=TYPE:VALUE, TYPE int, float, bool or str: llama.cpp's form.

    >>> parse_metadata("llama.rope.freq_base=float:1e6"), parse_metadata("general.name=str:A: B")
    (('llama.rope.freq_base', 1000000.0), ('general.name', 'A: B'))

    Raises ReellamaError for other text, and for what llama.cpp has no room for.
    """
    key, equals, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    if not (key and equals and colon and kind in ("int", "float", "bool", "str")):
        raise ReellamaError(
            f"{text!r:.80} is not KEY=TYPE:VALUE, with a TYPE of int, float, bool or str"
        )
    if len(key.encode()) > MAX_KEY or (kind == "str" and len(value.encode()) > MAX_STRING):
        raise ReellamaError(
            f"{key:.40} or its value has more than {MAX_STRING} bytes, which is what llama.cpp "
            "takes: `reellama gguf edit` sets longer ones"
        )
    try:
        if kind == "bool":
            return key, {"true": True, "false": False}[value]
        if kind == "int" and -INT64 <= int(value) < INT64:
            return key, int(value)
        if kind == "float" and math.isfinite(float(value)):
            return key, float(value)
        if kind == "str":
            return key, value
    except (KeyError, ValueError):
        pass
    raise ReellamaError(f"{key}: {value!r:.40} is no {kind}")


def parse_layers(text: str, n_layers: int) -> tuple[int, ...]:
    """Numbers of layers from a list such as "3,5-7". Raises ReellamaError for those of no layer,
    and for all of them.

    >>> parse_layers("3,5-7", 12)
    (3, 5, 6, 7)
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ReellamaError(f"{part!r:.40} is no number of a layer: write them as 3,5-7")
        # Python reads no number of thousands of digits.
        if max(int(first[:9]), int((last or first)[:9])) >= n_layers:
            raise ReellamaError(
                f"there is no layer {part.strip():.40}: they go from 0 to {n_layers - 1}"
            )
        found |= set(range(int(first), int(last or first) + 1))
    if len(found) in (0, n_layers):
        raise ReellamaError(f"{text!r:.40} leaves out {len(found)} of {n_layers} layers")
    return tuple(sorted(found))
