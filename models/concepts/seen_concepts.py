"""What a bundle knows of concepts: vocabulary, head and soft tokens, in two files.

concepts.safetensors    weights, fp16: the head, the words' embeddings, the free tokens, the
                        footage classifier
concepts.json           the vocabulary

    seen = bundle.concepts.seen(features, times)
    seen[:3]                                # [SeenConcept("dog", 0.93, ...), ...]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.concepts import concept_search
from reellama.models.concepts.concept_config import (
    CLASSIFIER,
    TOKENS,
    VOCABULARY,
    WEIGHTS,
    ConceptConfig,
)
from reellama.models.concepts.concept_tokens import ConceptTokens
from reellama.models.concepts.footage_classifier import FootageClassifier, mean_features
from reellama.models.concepts.vocabulary import ConceptVocabulary
from reellama.models.vision.encoder import Tower


@dataclass(frozen=True, eq=False)
class SeenConcept:
    """A concept of a video.

    probability: that a caption of the video says it.
    attention: where it is seen, float32 `[T, cells]` with the sum 1.
    """

    word: str
    probability: float
    attention: np.ndarray


class Concepts:
    """Vocabulary, soft tokens, and the classifier that tells real footage from drawn clips.

    classifier: None where everything is real footage.
    """

    def __init__(
        self,
        vocabulary: ConceptVocabulary,
        tokens: ConceptTokens,
        classifier: FootageClassifier | None,
    ) -> None:
        self.vocabulary, self.tokens, self.classifier = vocabulary, tokens, classifier

    @classmethod
    def load(cls, folder: Path, config: ConceptConfig, weights: Mapping[str, Tensor]) -> Concepts:
        """Of a bundle's folder and what its weights file holds.

        Raises ReellamaError when the files do not fit each other.
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

    @torch.no_grad()
    def is_footage(self, features: Tensor, mask: Tensor) -> bool:
        """Whether a batch of one video is real footage, and not a drawn clip."""
        if self.classifier is None:
            return True
        return bool(self.classifier(mean_features(features, mask))[0] > 0)

    @torch.no_grad()
    def are_footage(self, features: Tensor) -> np.ndarray:
        """Which frames are, of features `[frames, cells, channels]`: bool `[frames]`."""
        if self.classifier is None:
            return np.ones(len(features), bool)
        return (self.classifier(features.mean(1)) > 0).cpu().numpy()

    @torch.no_grad()
    def probabilities(self, features: Tensor, mask: Tensor) -> np.ndarray:
        """How likely a caption says each concept: float32 `[concepts]`, of a batch of one video."""
        return self.tokens.head.probabilities(features, mask)[0].cpu().numpy()

    @torch.no_grad()
    def embed_images(
        self, frames: Sequence[np.ndarray], features: np.ndarray, tower: Tower
    ) -> np.ndarray:
        """Unit rows of frames to search by `embed_texts`; features `[frames, cells, channels]`.

        A frame of real footage is found by its concepts, and a drawn one by its CLIP embedding: the
        other part of its row is zero.
        """
        grid = torch.from_numpy(features)
        of_footage = self.are_footage(grid)
        drawn = np.zeros((len(frames), tower.embed_texts([""]).shape[1]), np.float32)
        if not of_footage.all():
            pictures = [frame for frame, real in zip(frames, of_footage, strict=True) if not real]
            drawn[~of_footage] = tower.embed_images(pictures)
        single = torch.ones(len(features), 1, dtype=torch.bool)  # each frame as a video
        probabilities = self.tokens.head.probabilities(grid[:, None], single).cpu().numpy()
        seen = concept_search.image_rows(probabilities, self.tokens.head.base_rates.cpu().numpy())
        return np.concatenate([drawn, seen * of_footage[:, None]], axis=1)

    def embed_texts(self, texts: Sequence[str], tower: Tower) -> np.ndarray:
        """Rows of texts: CLIP's, then of the concepts that they say; zeros where they say none."""
        named = concept_search.text_rows(self.vocabulary, texts)
        return np.concatenate([tower.embed_texts(texts), named], axis=1)

    @torch.no_grad()
    def seen(self, features: Tensor, mask: Tensor, most: int = 0) -> list[SeenConcept]:
        """The likeliest concepts of a batch of one video (default: those that become tokens)."""
        probabilities = self.probabilities(features, mask)
        best = np.argsort(-probabilities, kind="stable")[: most or self.tokens.config.named]
        logits = self.tokens.head.cell_logits(features)[0, ..., torch.from_numpy(best.copy())]
        attention = logits.flatten(0, 1).softmax(0).unflatten(0, logits.shape[:2]).cpu().numpy()
        return [
            SeenConcept(self.vocabulary.words[n], float(probabilities[n]), attention[..., place])
            for place, n in enumerate(best)
        ]


def _part(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights under a prefix, without it."""
    start = f"{name}."
    return {key.removeprefix(start): t for key, t in weights.items() if key.startswith(start)}
