"""ggml's tensor types by number, including types that the installed `gguf` does not know yet."""

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

# Types of llama.cpp that no release of `gguf` has yet: number, name, elements and bytes of a block.
NEWER = ((42, "Q2_0", 64, 18),)
# Types that llama.cpp no longer reads, for which an update would not help.
REMOVED = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip


def type_named(name: str) -> GGMLQuantizationType:
    """Return the type with ggml's upper-case `name`. Raises KeyError for an unknown one."""
    return (
        next((type_ for type_ in _newer.values() if type_.name == name), None)
        or GGMLQuantizationType[name]
    )


def tensor_type(number: int) -> GGMLQuantizationType:
    """Return the type with ggml's `number`. Raises ValueError for an unknown one."""
    return _newer[number] if number in _newer else GGMLQuantizationType(number)


def _make(number: int, name: str, block: int, block_bytes: int) -> GGMLQuantizationType:
    """Create a member of the enumeration, which has no public way to extend it."""
    type_ = int.__new__(GGMLQuantizationType, number)
    type_._name_, type_._value_ = name, number
    GGML_QUANT_SIZES[type_] = (block, block_bytes)
    return type_


_newer = {
    number: _make(number, name, block, block_bytes)
    for number, name, block, block_bytes in NEWER
    if number not in GGMLQuantizationType.__members__.values()
}
