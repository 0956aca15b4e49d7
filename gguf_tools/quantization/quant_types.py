"""The types that llama.cpp quantizes a model into: names, numbers and uses."""

from dataclasses import dataclass

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.tensor_types import NEWER, tensor_type


@dataclass(frozen=True)
class QuantType:
    """A type of a whole model, which is a mixture of tensor types."""

    name: str
    ftype: int  # value in llama.cpp's enum llama_ftype
    main_type: str  # type of most tensors, unless their rows are no multiple of its block
    use: str  # for users, when to choose the type

    @property
    def bits_per_weight(self) -> float:
        """Bits of a weight in most tensors. A dry run shows the mean over a whole model."""
        block, block_bytes = GGML_QUANT_SIZES[TENSOR_TYPES[self.main_type]]
        return 8 * block_bytes / block


# Types of single tensors. ggml has more, for intermediate results.
TENSOR_TYPES: dict[str, GGMLQuantizationType] = {
    type_.name: type_
    for type_ in (*GGMLQuantizationType, *(tensor_type(number) for number, *_ in NEWER))
    if type_.name not in ("Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64")
}

# From large to small, without those that llama.cpp's enum has but its quantizer refuses.
QUANT_TYPES = (
    QuantType("F32", 0, "F32", "full precision, to quantize from"),
    QuantType("F16", 1, "F16", "half precision, to quantize from"),
    QuantType("BF16", 32, "BF16", "half precision with the range of F32"),
    QuantType("Q8_0", 7, "Q8_0", "hardly told from F16, at half of its size"),
    QuantType("Q6_K", 18, "Q6_K", "almost as good as Q8_0"),
    QuantType("Q5_K_M", 17, "Q5_K", "good, a little larger than Q5_K_S"),
    QuantType("Q5_K_S", 16, "Q5_K", "good"),
    QuantType("Q5_1", 9, "Q5_1", "for rows that are no multiple of 256; else Q5_K"),
    QuantType("Q5_0", 8, "Q5_0", "for rows that are no multiple of 256; else Q5_K"),
    QuantType("Q4_K_M", 15, "Q4_K", "the usual choice between size and quality"),
    QuantType("Q4_K_S", 14, "Q4_K", "a little smaller than Q4_K_M"),
    QuantType("Q4_1", 3, "Q4_1", "for rows that are no multiple of 256; else Q4_K"),
    QuantType("Q4_0", 2, "Q4_0", "older than Q4_K; fast on ARM"),
    QuantType("IQ4_NL", 25, "IQ4_NL", "for rows that are no multiple of 256; else Q4_K_S"),
    QuantType("IQ4_XS", 30, "IQ4_XS", "smaller than Q4_K_S, as good with an imatrix"),
    QuantType("MXFP4_MOE", 38, "MXFP4", "for mixtures of experts trained in MXFP4"),
    QuantType("Q3_K_L", 13, "Q3_K", "loses noticeably"),
    QuantType("Q3_K_M", 12, "Q3_K", "loses noticeably"),
    QuantType("IQ3_M", 27, "IQ3_S", "better than Q3_K at its size, slower on a CPU"),
    QuantType("IQ3_S", 26, "IQ3_S", "better than Q3_K at its size, slower on a CPU"),
    QuantType("Q3_K_S", 11, "Q3_K", "loses much"),
    QuantType("IQ3_XS", 22, "IQ3_S", "for little memory; take an imatrix"),
    QuantType("IQ3_XXS", 23, "IQ3_XXS", "for little memory; needs an imatrix"),
    QuantType("Q2_K", 10, "Q2_K", "loses much"),
    QuantType("Q2_K_S", 21, "Q2_K", "loses much; needs an imatrix"),
    QuantType("IQ2_M", 29, "IQ2_S", "for large models in little memory; needs an imatrix"),
    QuantType("IQ2_S", 28, "IQ2_XS", "for large models in little memory; needs an imatrix"),
    QuantType("IQ2_XS", 20, "IQ2_XS", "for large models in little memory; needs an imatrix"),
    QuantType("IQ2_XXS", 19, "IQ2_XXS", "for large models in little memory; needs an imatrix"),
    QuantType("Q2_0", 41, "Q2_0", "for models trained in two bits"),
    QuantType("TQ2_0", 37, "TQ2_0", "for models trained in the weights -1, 0, 1; fast"),
    QuantType("IQ1_M", 31, "IQ1_M", "hardly usable; needs an imatrix"),
    QuantType("TQ1_0", 36, "TQ1_0", "for models trained in the weights -1, 0, 1; small"),
    QuantType("IQ1_S", 24, "IQ1_S", "hardly usable; needs an imatrix"),
    QuantType("Q1_0", 40, "Q1_0", "for models trained in the weights -1 and 1"),
)
# Copies all tensors unchanged, which joins the parts of a split model.
COPY_TYPE = "COPY"
# Short names, as llama.cpp defines them.
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

_by_name = {type_.name: type_ for type_ in QUANT_TYPES}


def quant_type(name: str) -> QuantType | None:
    """The type of a name in either case; None for COPY.

    Raises ReellamaError, with the names that exist, for an unknown name.
    """
    key = name.strip().upper()
    if key == COPY_TYPE:
        return None
    if type_ := _by_name.get(ALIASES.get(key, key)):
        return type_
    raise ReellamaError(f"no such type: {name}; there are {', '.join([*_by_name, COPY_TYPE])}")


def type_of_tensor(name: str) -> int:
    """ggml's number of a tensor type. Raises ReellamaError, with the names that exist."""
    try:
        return int(TENSOR_TYPES[name.strip().upper()])
    except KeyError:
        raise ReellamaError(
            f"no such tensor type: {name}; there are {', '.join(TENSOR_TYPES)}"
        ) from None
