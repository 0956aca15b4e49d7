"""What the soft tokens of a video say, and which cells of which frames they look at.

    bundle = Bundle.load("mini")
    features = bundle.features(clip.frames)
    for field in inspect(bundle, features, clip.times):
        print(field.asked, field.text, field.sure)

A soft token is a mixture of the LLM's words, so it can be read. Where it looks is the attention of
its query, the mean over heads and blocks. Attention need not tell what a network decides by (Jain
and Wallace, 2019), and cells have looked at each other before; but the token of a name looks at its
own thing, of two that are drawn (tests/models/projector/test_interpretation.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gguf_tools.format.reader import token_embeddings
from gguf_tools.text.tokenizer import Tokenizer
from models.bundle import Bundle
from models.projector import slots

TOP_WORDS = 5  # words of a soft token that are kept
FREE_SLOT, IMAGENET = "free", "ImageNet"


@dataclass(frozen=True, eq=False)
class SoftToken:
    """One soft token of a video.

    number: from 0, in the order in which the LLM reads them.
    words: its likeliest words and their shares of the mixture, the likeliest first.
    looks: float32 [T, cells], its attention, which sums to 1; None if it looks at all alike.
    """

    number: int
    words: tuple[tuple[str, float], ...]
    attention: np.ndarray | None

    @property
    def is_blank(self) -> bool:
        """Whether it says nothing: a line break, with which a form is filled up."""
        return not self.words[0][0].strip()


@dataclass(frozen=True, eq=False)
class SlotReading:
    """Soft tokens that answer together, by their likeliest words.

    asked: what a form wants to know there, "free" beyond the form, "ImageNet" for what the
    classifier says, and "" for a bundle without a form, whose soft tokens are fields of their own.
    """

    label: str
    tokens: tuple[SoftToken, ...]

    @property
    def spoken(self) -> tuple[SoftToken, ...]:
        """Its tokens up to the first that says nothing."""
        silent = [token.is_blank for token in self.tokens]
        return self.tokens[: silent.index(True) if any(silent) else None]

    @property
    def text(self) -> str:
        """What it says; "" for nothing."""
        return "".join(token.words[0][0] for token in self.spoken).strip(" ,")

    @property
    def token_range(self) -> str:
        """Its soft tokens: `5-9`."""
        first, last = self.tokens[0].number, self.tokens[-1].number
        return f"{first}-{last}" if first < last else str(first)

    @property
    def confidence(self) -> float:
        """The share of the likeliest word where it is smallest."""
        return min(token.words[0][1] for token in self.spoken or self.tokens)

    @property
    def attention(self) -> np.ndarray | None:
        """Where the tokens that say something look, float32 [T, cells]."""
        maps = [
            token.attention for token in self.spoken or self.tokens if token.attention is not None
        ]
        return np.mean(maps, axis=0) if maps else None

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
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
    bundle's LLM, whose words they are, is missing.
    """
    grid, seconds, mask = bundle.batch(features, times)
    says = bundle.projector.word_probabilities(grid, seconds, mask)[0]  # [tokens, words]
    looks = bundle.projector.attention(grid, seconds, mask)[0].cpu().numpy()  # [tokens, T, cells]
    shares, order = says.topk(min(TOP_WORDS, says.shape[1]), dim=1)
    mixed = mixture_token_ids(bundle)
    with Tokenizer.from_path(bundle.llm_path()) as tokenizer:
        tokens = [
            SoftToken(
                number,
                tuple(
                    (_text(tokenizer, mixed[word]), share)
                    for word, share in zip(best, row, strict=True)
                ),
                looks[number],
            )
            for number, (best, row) in enumerate(zip(order.tolist(), shares.tolist(), strict=True))
        ]
        return [*_fields(bundle, tokens), *_imagenet_fields(bundle, features, tokenizer)]


def mixture_token_ids(bundle: Bundle) -> list[int]:
    """The LLM's tokens whose embeddings the projector mixes: the nearest to each of its rows.

    Training moves the rows a little, and a bundle does not keep which tokens they began as.
    """
    rows = F.normalize(bundle.projector.words.embeddings, dim=1)
    known = F.normalize(torch.from_numpy(token_embeddings(bundle.llm_path())), dim=1)
    return (rows @ known.T).argmax(1).tolist()


def _text(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.piece(token).decode("utf-8", "replace")


def has_slots(bundle: Bundle) -> bool:
    """Whether the soft tokens were trained to fill slots, by this bundle's stages."""
    return bundle.config.fills_slots


def _fields(bundle: Bundle, tokens: Sequence[SoftToken]) -> list[SlotReading]:
    if not has_slots(bundle):
        return [SlotReading("", (token,)) for token in tokens]
    spans = zip(slots.slot_names(), slots.slot_spans(), strict=True)
    fields = [SlotReading(asked, tuple(tokens[start:end])) for asked, (start, end) in spans]
    return [*fields, *(SlotReading(FREE_SLOT, (token,)) for token in tokens[slots.N_SLOT_TOKENS :])]


def _imagenet_fields(
    bundle: Bundle, features: np.ndarray, tokenizer: Tokenizer
) -> list[SlotReading]:
    """What the tower's classifier says: the names that follow the projector's soft tokens."""
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
