"""Sizes of memory and files, as people write and read them."""

import re

from reellama.gguf_tools.errors import ReellamaError

SIZE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*(?:([KMGT]?)(i?)(B?))\s*", re.IGNORECASE | re.ASCII)
POWERS = "KMGT"
MAX_LENGTH = 32  # characters


def parse_size(text: str) -> int:
    """Return the bytes that "12GiB", "8GB", "8000MiB" or "8000000000" mean.

    GB is 1000 to the third, GiB and G are 1024 to the third. Raises ReellamaError for other text.

    >>> parse_size("1.5 GiB"), parse_size("8GB"), parse_size("512")
    (1610612736, 8000000000, 512)
    """
    match = SIZE.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if not match or (match[3] and not match[2]):
        raise ReellamaError(f"{text!r:.40} is not a size; write it as 12GiB, 8GB or 8000MiB")
    base = 1000 if match[2] and match[4] and not match[3] else 1024
    return int(float(match[1]) * base ** (POWERS.find(match[2].upper()) + 1 if match[2] else 0))


def show_size(n_bytes: int) -> str:
    """Return a size with three digits or more and a binary unit.

    >>> show_size(12 << 30), show_size(98_362_000), show_size(100)
    ('12.0 GiB', '93.8 MiB', '100 B')
    """
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if abs(n_bytes) >= 1 << power:
            return f"{n_bytes / (1 << power):,.1f} {unit}"
    return f"{n_bytes} B"
