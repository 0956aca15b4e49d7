"""Interpret the soft tokens of real footage: concepts, where they are seen, and free tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.models.concepts.seen_concepts import Concepts
from reellama.models.projector.interpretation import (
    FREE_SLOT,
    TOP_WORDS,
    SlotReading,
    SoftToken,
    imagenet_readings,
)

CONCEPT = "concept"  # label of a token that names one


@torch.inference_mode()
def concept_readings(
    concepts: Concepts,
    features: Tensor,
    times: Tensor,
    mask: Tensor,
    *,
    llm: Path,
    top_classes: Sequence[tuple[str, float, Sequence[int]]] = (),
) -> list[SlotReading]:
    """Read the soft tokens of one video, as `reellama.models.projector.interpretation` does."""
    named = [
        SoftToken(number, ((seen.word, seen.probability),), seen.attention)
        for number, seen in enumerate(concepts.seen(features, mask))
    ]
    free = concepts.tokens.free
    probabilities = free.word_probabilities(features, times, mask)[0]  # [free, concepts]
    attention = free.attention(features, times, mask)[0].cpu().numpy()
    shares, order = probabilities.topk(min(TOP_WORDS, probabilities.shape[1]), dim=1)
    words = concepts.vocabulary.words
    others = [
        SoftToken(
            len(named) + number,
            tuple((words[word], share) for word, share in zip(best, row, strict=True)),
            attention[number],
        )
        for number, (best, row) in enumerate(zip(order.tolist(), shares.tolist(), strict=True))
    ]
    with Tokenizer.from_path(llm) as tokenizer:
        return [
            *(SlotReading(CONCEPT, (token,)) for token in named),
            *(SlotReading(FREE_SLOT, (token,)) for token in others),
            *imagenet_readings(top_classes, len(named) + len(others), tokenizer),
        ]
