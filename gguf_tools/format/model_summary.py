"""Summaries of a model's GGUF header."""

from collections.abc import Collection
from dataclasses import dataclass

from gguf.constants import LlamaFileType

from reellama.gguf_tools.format.reader import GGUFFile, Tensor


@dataclass(frozen=True)
class ModelSummary:
    """The main facts of a model, from its GGUF header."""

    name: str
    architecture: str
    quantization: str  # as in file names: "Q4_K_M"; "unknown" where the file does not say
    n_parameters: int
    n_bytes: int
    n_embd: int
    n_layer: int
    n_ctx_train: int
    has_chat_template: bool


def model_summary(file: GGUFFile) -> ModelSummary:
    """Sum up a language model's header. Raises GGUFError for a GGUF that is something else."""
    return ModelSummary(
        name=str(file.metadata.get("general.name", file.path.stem)),
        architecture=file.architecture,
        quantization=quantization(file),
        n_parameters=sum(tensor.n_elements for tensor in file.tensors.values()),
        n_bytes=file.size,
        n_embd=file.n_embd,
        n_layer=file.n_layer,
        n_ctx_train=file.n_ctx_train,
        has_chat_template=file.chat_template is not None,
    )


def quantization(file: GGUFFile) -> str:
    """Return the quantization of most weights, as file names write it: "Q4_K_M"."""
    try:
        file_type = LlamaFileType(file.metadata.get("general.file_type", -1))
    except ValueError:
        return "unknown"
    return file_type.name.removeprefix("ALL_").removeprefix("MOSTLY_")


def bits_per_weight(tensors: Collection[Tensor]) -> float:
    """Return the average number of bits of an element; 0.0 for no tensors."""
    n_elements = sum(tensor.n_elements for tensor in tensors)
    return 8 * sum(tensor.n_bytes for tensor in tensors) / n_elements if n_elements else 0.0
