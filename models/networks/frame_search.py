"""Embeddings of frames and of texts whose product says how well they fit.

They are CLIP's; in a bundle that knows concepts, those over its concepts are appended. A frame of
real footage is found by its concepts, and a drawn one by CLIP: the other part is zero.
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
    """CLIP's embeddings, by onnxruntime, else by the tower in torch."""

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
    """CLIP's embeddings, then those over the concepts of a bundle's folder."""

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
        """L2-normalized embeddings of frames with the features `[frames, cells, channels]`."""
        is_footage = self._classifier.of_frames(features)
        drawn = np.zeros((len(frames), self._width), np.float32)
        if not is_footage.all():
            pictures = [frame for frame, real in zip(frames, is_footage, strict=True) if not real]
            drawn[~is_footage] = self._clip.images(pictures)
        (probabilities,) = self._networks.run("frame_concepts", features)
        base_rates = read_weights(self._folder / WEIGHTS, [BASE_RATES])[BASE_RATES]
        frame_embeddings = concept_embeddings.image_embeddings(probabilities, base_rates)
        return np.concatenate([drawn, frame_embeddings * is_footage[:, None]], axis=1)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of texts: CLIP's, then over the concepts; zeros for a text that says none."""
        named = concept_embeddings.text_embeddings(self._vocabulary, texts)
        return np.concatenate([self._clip.texts(texts), named], axis=1)

    @cached_property
    def _width(self) -> int:
        return int(self._clip.texts([""]).shape[1])
