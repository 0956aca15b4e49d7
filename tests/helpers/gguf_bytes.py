"""GGUF headers put together byte by byte, also such as no program would write."""

import struct

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, FLOAT64 = 4, 5, 6, 7, 8, 9, 10, 12


def header(keys: list[bytes], tensors: list[bytes], version: int = 3) -> bytes:
    """All that stands before the data, up to the first multiple of 32."""
    counts = struct.pack("<IQQ", version, len(tensors), len(keys))
    content = b"GGUF" + counts + b"".join(keys + tensors)
    return content + bytes(-len(content) % 32)


def string(text: str | bytes) -> bytes:
    content = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(content)) + content


def key(name: str | bytes, type_: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", type_) + value


def text(name: str, value: str | bytes) -> bytes:
    return key(name, STRING, string(value))


def number(name: str, value: int) -> bytes:
    return key(name, UINT64, struct.pack("<Q", value))


def array(name: str, type_: int, count: int, content: bytes = b"") -> bytes:
    return key(name, ARRAY, struct.pack("<IQ", type_, count) + content)


def tensor(name: str, shape: tuple[int, ...], type_: int = 0, offset: int = 0) -> bytes:
    layout = f"<I{len(shape)}QIQ"
    return string(name) + struct.pack(layout, len(shape), *shape, type_, offset)
