"""Parse quantization options: types of single tensors, metadata, and layers to leave out."""

from __future__ import annotations

import math
from pathlib import Path

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.quantization.quantize_child import MAX_STRING
from reellama.gguf_tools.user_paths import expand_user

MAX_KEY = 127  # bytes of a key in a llama_model_kv_override
INT64 = 1 << 63

MetadataValue = int | float | bool | str


def parse_tensor_type(text: str) -> tuple[str, str]:
    """Parse PATTERN=TYPE into the pattern and the type. Raises ReellamaError for other text."""
    pattern, equals, type_name = text.strip().rpartition("=")
    if not (pattern and equals and type_name):
        raise ReellamaError(f"{text.strip()!r:.80} is not PATTERN=TYPE")
    return pattern, type_name


def read_tensor_types(path: str | Path) -> list[tuple[str, str]]:
    """Read a file of PATTERN=TYPE lines, as llama-quantize does, into pairs of pattern and type.

    Empty lines and lines that begin with `#` are skipped. Raises ReellamaError for a file that
    cannot be read or has no such line, and for other lines, with their number.
    """
    path = expand_user(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ReellamaError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReellamaError(f"{path} is not a text file (UTF-8)") from error
    tensor_types = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                tensor_types.append(parse_tensor_type(line))
            except ReellamaError as error:
                raise ReellamaError(f"{path}, line {number}: {error}") from None
    if not tensor_types:
        raise ReellamaError(f"{path} names no tensor: write PATTERN=TYPE in each line")
    return tensor_types


def parse_metadata(text: str) -> tuple[str, MetadataValue]:
    """Parse llama.cpp's KEY=TYPE:VALUE into key and value; TYPE is int, float, bool or str.

    >>> parse_metadata("llama.rope.freq_base=float:1e6"), parse_metadata("general.name=str:A: B")
    (('llama.rope.freq_base', 1000000.0), ('general.name', 'A: B'))

    Raises ReellamaError for other text, and for keys and strings too long for llama.cpp.
    """
    key, equals, typed_value = text.partition("=")
    type_, colon, value = typed_value.partition(":")
    if not (key and equals and colon and type_ in ("int", "float", "bool", "str")):
        raise ReellamaError(
            f"{text!r:.80} is not KEY=TYPE:VALUE, with a TYPE of int, float, bool or str"
        )
    if len(key.encode()) > MAX_KEY or (type_ == "str" and len(value.encode()) > MAX_STRING):
        raise ReellamaError(
            f"{key:.40} or its value has more than {MAX_STRING} bytes, which is what llama.cpp "
            "takes: `reellama gguf edit` sets longer ones"
        )
    try:
        if type_ == "bool":
            return key, {"true": True, "false": False}[value]
        if type_ == "int" and -INT64 <= int(value) < INT64:
            return key, int(value)
        if type_ == "float" and math.isfinite(float(value)):
            return key, float(value)
        if type_ == "str":
            return key, value
    except (KeyError, ValueError):
        pass
    raise ReellamaError(f"{key}: {value!r:.40} is no {type_}")


def parse_layers(text: str, n_layers: int) -> tuple[int, ...]:
    """Parse a list such as "3,5-7" into sorted indices of layers.

    Raises ReellamaError for indices of no layer, and for a list of all layers.

    >>> parse_layers("3,5-7", 12)
    (3, 5, 6, 7)
    """
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ReellamaError(f"{part!r:.40} is no number of a layer: write them as 3,5-7")
        # Nine digits are enough to compare, and int() raises ValueError for thousands of digits.
        if max(int(first[:9]), int((last or first)[:9])) >= n_layers:
            raise ReellamaError(
                f"there is no layer {part.strip():.40}: they go from 0 to {n_layers - 1}"
            )
        layers |= set(range(int(first), int(last or first) + 1))
    if len(layers) in (0, n_layers):
        raise ReellamaError(f"{text!r:.40} leaves out {len(layers)} of {n_layers} layers")
    return tuple(sorted(layers))
