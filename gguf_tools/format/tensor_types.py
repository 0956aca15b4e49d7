"""ggml's tensor types by number, including types that the installed `gguf` does not know yet."""

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

# Types of llama.cpp that no release of `gguf` has yet: number, name, elements and bytes of a block.
NEWER = ((42, "Q2_0", 64, 18),)


def tensor_type(number: int) -> GGMLQuantizationType:
    """Return the type that a GGUF file calls `number`. Raises ValueError for an unknown one."""
    return _newer[number] if number in _newer else GGMLQuantizationType(number)


def _make(number: int, name: str, block: int, block_bytes: int) -> GGMLQuantizationType:
    """Add a member to the closed enumeration, in the way of enum.Flag."""
    type_ = int.__new__(GGMLQuantizationType, number)
    type_._name_, type_._value_ = name, number
    GGML_QUANT_SIZES[type_] = (block, block_bytes)
    return type_


_newer = {
    number: _make(number, name, block, block_bytes)
    for number, name, block, block_bytes in NEWER
    if number not in GGMLQuantizationType.__members__.values()
}
