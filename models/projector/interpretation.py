"""Interpret the soft tokens of a video: their words, and their attention over cells of frames.

    bundle = Bundle.load("mini")
    features = bundle.features(clip.frames)
    for reading in interpret(bundle, features, clip.times):
        print(reading.label, reading.text, reading.confidence)

A soft token is a mixture of the LLM's word embeddings, so its words can be read. Its attention is
that of its query, the mean over heads and blocks. Attention need not explain a decision (Jain and
Wallace, 2019), and the cells have attended to each other before. Still, the token of a name attends
to its own object of two (tests/models/projector/test_interpretation.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from reellama.gguf_tools.format.reader import token_embeddings
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.models.bundle import Bundle
from reellama.models.projector import slots

TOP_WORDS = 5  # most likely words of a soft token that are kept
FREE_SLOT, IMAGENET = "free", "ImageNet"


@dataclass(frozen=True, eq=False)
class SoftToken:
    """One soft token of a video.

    number: from 0, in the order in which the LLM reads them.
    words: its most likely words and their shares of the mixture, in descending order.
    attention: float32 [T, cells] with the sum 1; None for tokens of ImageNet labels.
    """

    number: int
    words: tuple[tuple[str, float], ...]
    attention: np.ndarray | None

    @property
    def is_blank(self) -> bool:
        """Whether it is padding: a line break, which fills up a slot."""
        return not self.words[0][0].strip()


@dataclass(frozen=True, eq=False)
class SlotReading:
    """The soft tokens of one slot, read by their most likely words.

    label: the slot's name, "free" for tokens after the slots, "ImageNet" for a label of the
    classifier, and "" in a bundle without slots, where every soft token is read by itself.
    """

    label: str
    tokens: tuple[SoftToken, ...]

    @property
    def spoken(self) -> tuple[SoftToken, ...]:
        """Its tokens before the first blank one."""
        blank = [token.is_blank for token in self.tokens]
        return self.tokens[: blank.index(True) if any(blank) else None]

    @property
    def text(self) -> str:
        """The most likely words as text; "" for an empty slot."""
        return "".join(token.words[0][0] for token in self.spoken).strip(" ,")

    @property
    def token_range(self) -> str:
        """The numbers of its soft tokens: `5-9`."""
        first, last = self.tokens[0].number, self.tokens[-1].number
        return f"{first}-{last}" if first < last else str(first)

    @property
    def confidence(self) -> float:
        """The smallest share of a most likely word among its tokens."""
        return min(token.words[0][1] for token in self.spoken or self.tokens)

    @property
    def attention(self) -> np.ndarray | None:
        """The mean attention of the tokens that are not blank, float32 [T, cells]."""
        maps = [
            token.attention for token in self.spoken or self.tokens if token.attention is not None
        ]
        return np.mean(maps, axis=0) if maps else None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `inspect --json`."""
        return {
            "asked": self.label,
            "text": self.text,
            "sure": round(self.confidence, 4),
            "tokens": [
                {
                    "number": token.number,
                    "words": [[word, round(share, 4)] for word, share in token.words],
                    "looks": None if token.attention is None else token.attention.round(5).tolist(),
                }
                for token in self.tokens
            ],
        }


@torch.inference_mode()
def interpret(bundle: Bundle, features: np.ndarray, times: np.ndarray) -> list[SlotReading]:
    """Read the soft tokens of a video.

    features: float32 [T, cells, channels]; times: [T] seconds. Raises ReellamaError when the
    bundle's LLM is missing.
    """
    grid, seconds, mask = bundle.batch(features, times)
    probabilities = bundle.projector.word_probabilities(grid, seconds, mask)[0]  # [tokens, words]
    attention = bundle.projector.attention(grid, seconds, mask)[0].cpu().numpy()
    shares, order = probabilities.topk(min(TOP_WORDS, probabilities.shape[1]), dim=1)
    word_ids = mixture_token_ids(bundle)
    with Tokenizer.from_path(bundle.llm_path()) as tokenizer:
        tokens = [
            SoftToken(
                number,
                tuple(
                    (_text(tokenizer, word_ids[word]), share)
                    for word, share in zip(best, row, strict=True)
                ),
                attention[number],
            )
            for number, (best, row) in enumerate(zip(order.tolist(), shares.tolist(), strict=True))
        ]
        return [*_fields(bundle, tokens), *_imagenet_fields(bundle, features, tokenizer)]


def mixture_token_ids(bundle: Bundle) -> list[int]:
    """The LLM's tokens whose embeddings the projector mixes, one per row: the nearest by cosine.

    Training moves the rows a little, and a bundle does not store their token ids.
    """
    rows = F.normalize(bundle.projector.word_mixture.embeddings, dim=1)
    embeddings = F.normalize(torch.from_numpy(token_embeddings(bundle.llm_path())), dim=1)
    return (rows @ embeddings.T).argmax(1).tolist()


def _text(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.piece(token).decode("utf-8", "replace")


def has_slots(bundle: Bundle) -> bool:
    """Whether the soft tokens were trained to fill slots, by this bundle's stages."""
    return bundle.config.fills_slots


def _fields(bundle: Bundle, tokens: Sequence[SoftToken]) -> list[SlotReading]:
    if not has_slots(bundle):
        return [SlotReading("", (token,)) for token in tokens]
    spans = zip(slots.slot_names(), slots.slot_spans(), strict=True)
    fields = [SlotReading(name, tuple(tokens[start:end])) for name, (start, end) in spans]
    return [*fields, *(SlotReading(FREE_SLOT, (token,)) for token in tokens[slots.N_SLOT_TOKENS :])]


def _imagenet_fields(
    bundle: Bundle, features: np.ndarray, tokenizer: Tokenizer
) -> list[SlotReading]:
    """The classifier's labels, whose tokens follow the projector's soft tokens."""
    if bundle.labels is None:
        return []
    first = bundle.config.projector.tokens
    fields = []
    for share, ids in bundle.labels.top_classes(features):
        tokens = [
            SoftToken(first + number, ((_text(tokenizer, token), share),), None)
            for number, token in enumerate(ids)
        ]
        fields.append(SlotReading(IMAGENET, tuple(tokens)))
        first += len(ids)
    return fields
