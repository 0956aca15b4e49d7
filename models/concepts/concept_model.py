"""The concept model of a bundle, which turns real footage into soft tokens. Its files:

concepts.safetensors    weights, fp16: concept head, embeddings of the words, resampler of the free
                        tokens, footage classifier
concepts.json           the vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.concepts.concept_config import (
    CLASSIFIER,
    TOKENS,
    VOCABULARY,
    WEIGHTS,
    ConceptConfig,
)
from reellama.models.concepts.concept_tokens import ConceptTokens
from reellama.models.concepts.footage_classifier import FootageClassifier
from reellama.models.concepts.vocabulary import ConceptVocabulary


class ConceptModel:
    """The vocabulary, the network of the soft tokens, and the footage classifier.

    classifier: None in a bundle that takes every video for real footage.
    """

    def __init__(
        self,
        vocabulary: ConceptVocabulary,
        tokens: ConceptTokens,
        classifier: FootageClassifier | None,
    ) -> None:
        self.vocabulary, self.tokens, self.classifier = vocabulary, tokens, classifier

    @classmethod
    def load(
        cls, folder: Path, config: ConceptConfig, weights: Mapping[str, Tensor]
    ) -> ConceptModel:
        """The concept model of a bundle.

        Args:
            folder: the bundle's, which has the vocabulary.
            config: sizes, from `bundle.json`.
            weights: tensors of `concepts.safetensors`.

        Raises:
            ReellamaError: vocabulary, sizes and weights do not fit each other.
        """
        vocabulary = ConceptVocabulary.load(folder / VOCABULARY)
        tokens = ConceptTokens(config)
        classifier = FootageClassifier(config.channels) if _part(weights, CLASSIFIER) else None
        try:
            if len(vocabulary) != config.concepts:
                raise ReellamaError(f"{folder / VOCABULARY}: not {config.concepts} words")
            tokens.load_state_dict(_part(weights, TOKENS))
            if classifier is not None:
                classifier.load_state_dict(_part(weights, CLASSIFIER))
        except RuntimeError as error:
            raise ReellamaError(
                f"{folder / WEIGHTS}: its weights are not those that bundle.json describes"
            ) from error
        tokens.eval().requires_grad_(False)
        return cls(vocabulary, tokens, classifier)

    def save(self, folder: Path) -> None:
        """Write both files into `folder`."""
        parts = {TOKENS: self.tokens.state_dict()}
        if self.classifier is not None:
            parts[CLASSIFIER] = self.classifier.state_dict()
        weights = {
            f"{part}.{name}": tensor.detach().half().contiguous()
            for part, tensors in parts.items()
            for name, tensor in tensors.items()
        }
        save_file(weights, folder / WEIGHTS)
        self.vocabulary.save(folder / VOCABULARY)


def _part(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights whose names begin with `name.`, by the rest of their names."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): t for key, t in weights.items() if key.startswith(prefix)}
