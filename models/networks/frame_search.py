"""Embeddings of frames and texts, whose dot product says how well a frame fits a text.

They are CLIP's. A bundle with a concept model appends its embeddings over the concepts. Real
footage is found by its concepts and drawn frames by CLIP: the other part of a frame's embedding is
zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reellama.models.concepts import concept_embeddings
from reellama.models.concepts.concept_config import TOKENS, WEIGHTS
from reellama.models.concepts.vocabulary import ConceptVocabulary
from reellama.models.networks.bundle_networks import BundleNetworks
from reellama.models.networks.numpy_footage_classifier import NumpyFootageClassifier
from reellama.models.networks.onnx_tower import over_frames
from reellama.models.networks.weights_file import read_weights
from reellama.models.vision.clip_tokenizer import ClipTokenizer

if TYPE_CHECKING:
    from reellama.models.vision.encoder import Tower

BASE_RATES = f"{TOKENS}.head.base_rates"


class ClipSearch:
    """CLIP's embeddings, computed in onnxruntime or else by the tower in torch."""

    def __init__(self, networks: BundleNetworks, tower: Callable[[], Tower]) -> None:
        self._networks, self._tower = networks, tower

    @cached_property
    def _tokenizer(self) -> ClipTokenizer:
        session = self._networks.session("texts")
        assert session is not None
        return ClipTokenizer(session.merges, int(session.input_shape[1]))

    def images(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """L2-normalized embeddings of frames, float32 `[frames, d]`."""
        session = self._networks.session("images")
        return over_frames(session, frames) if session else self._tower().embed_images(frames)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """L2-normalized embeddings of texts, float32 `[texts, d]`."""
        session = self._networks.session("texts")
        return (
            session(self._tokenizer.encode(texts)) if session else self._tower().embed_texts(texts)
        )


class ConceptSearch:
    """CLIP's embeddings, followed by those over the concepts."""

    def __init__(
        self,
        clip: ClipSearch,
        networks: BundleNetworks,
        vocabulary: ConceptVocabulary,
        classifier: NumpyFootageClassifier,
        folder: Path,
    ) -> None:
        self._clip, self._networks = clip, networks
        self._vocabulary, self._classifier, self._folder = vocabulary, classifier, folder

    def images(self, frames: Sequence[np.ndarray], features: np.ndarray) -> np.ndarray:
        """L2-normalized embeddings, float32 `[frames, d + concepts]`, of frames with the features
        `[frames, cells, channels]`."""
        is_footage = self._classifier.of_frames(features)  # [frames]
        clip = np.zeros((len(frames), self._clip_width), np.float32)
        if not is_footage.all():
            drawn = [frame for frame, real in zip(frames, is_footage, strict=True) if not real]
            clip[~is_footage] = self._clip.images(drawn)
        (probabilities,) = self._networks.run("frame_concepts", features)  # [frames, concepts]
        base_rates = read_weights(self._folder / WEIGHTS, [BASE_RATES])[BASE_RATES]
        concepts = concept_embeddings.image_embeddings(probabilities, base_rates)
        return np.concatenate([clip, concepts * is_footage[:, None]], axis=1)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of texts, float32 `[texts, d + concepts]`; the concepts' part is zero for a
        text that names no concept."""
        concepts = concept_embeddings.text_embeddings(self._vocabulary, texts)
        return np.concatenate([self._clip.texts(texts), concepts], axis=1)

    @cached_property
    def _clip_width(self) -> int:
        return int(self._clip.texts([""]).shape[1])
