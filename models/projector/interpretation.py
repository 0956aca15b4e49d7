"""Interpret the soft tokens of a video: their words, and their attention over cells of frames.

    bundle = Bundle.load("mini")
    features = bundle.features(clip.frames)
    for reading in bundle.interpret(features, clip.times):
        print(reading.label, reading.text, reading.confidence)

A soft token is a mixture of the LLM's word embeddings, so its words can be read. Its attention is
that of its query, the mean over heads and blocks. Attention need not explain a decision (Jain and
Wallace, 2019), and in the encoder the cells attend to each other before. Still, the token of a name
attends to its own object of two (tests/models/projector/test_interpretation.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.models.projector import slots
from reellama.models.projector.temporal_projector import Projector

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
    name: the whole of what the tokens stand for, where they are known to be a part of it.
    """

    label: str
    tokens: tuple[SoftToken, ...]
    name: str = ""

    @property
    def spoken(self) -> tuple[SoftToken, ...]:
        """Its tokens before the first blank one."""
        blank = [token.is_blank for token in self.tokens]
        return self.tokens[: blank.index(True) if any(blank) else None]

    @property
    def text(self) -> str:
        """The most likely words as text; "" for an empty slot."""
        return self.name or "".join(token.words[0][0] for token in self.spoken).strip(" ,")

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
def interpret(
    projector: Projector,
    features: Tensor,
    times: Tensor,
    mask: Tensor,
    *,
    word_ids: Sequence[int],
    llm: Path,
    slotted: bool,
    top_classes: Sequence[tuple[str, float, Sequence[int]]] = (),
) -> list[SlotReading]:
    """Read the soft tokens of one video.

    Args:
        features, times, mask: of a batch of one, as `Projector` takes them.
        word_ids: the LLM's token of each row of the word mixture.
        llm: the GGUF whose tokenizer has the words.
        slotted: whether the soft tokens fill the slots of `reellama.models.projector.slots`.
        top_classes: name, share and token ids of each ImageNet label that follows.
    """
    probabilities = projector.word_probabilities(features, times, mask)[0]  # [tokens, words]
    attention = projector.attention(features, times, mask)[0].cpu().numpy()
    shares, order = probabilities.topk(min(TOP_WORDS, probabilities.shape[1]), dim=1)
    with Tokenizer.from_path(llm) as tokenizer:
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
        return [
            *(_slot_readings(tokens) if slotted else [SlotReading("", (t,)) for t in tokens]),
            *imagenet_readings(top_classes, len(tokens), tokenizer),
        ]


def _text(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.piece(token).decode("utf-8", "replace")


def _slot_readings(tokens: Sequence[SoftToken]) -> list[SlotReading]:
    spans = zip(slots.slot_names(), slots.slot_spans(), strict=True)
    readings = [SlotReading(name, tuple(tokens[start:end])) for name, (start, end) in spans]
    free = tokens[slots.N_SLOT_TOKENS :]
    return [*readings, *(SlotReading(FREE_SLOT, (token,)) for token in free)]


def imagenet_readings(
    top_classes: Sequence[tuple[str, float, Sequence[int]]], first: int, tokenizer: Tokenizer
) -> list[SlotReading]:
    """The classifier's labels, whose tokens go on at number `first`."""
    readings = []
    for name, share, ids in top_classes:
        tokens = [
            SoftToken(first + number, ((_text(tokenizer, token), share),), None)
            for number, token in enumerate(ids)
        ]
        readings.append(SlotReading(IMAGENET, tuple(tokens), name))
        first += len(ids)
    return readings
