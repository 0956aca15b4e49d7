"""Caption training: targets of the soft tokens, losses and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from reellama.models.projector.temporal_projector import Projector
from reellama.models.training.batches import IGNORED
from reellama.models.training.captions.clip_sources import TRAIN, VALIDATION, ClipSource
from reellama.models.training.collate import vocabulary
from reellama.models.training.config import CaptionConfig
from reellama.models.training.feature_cache import Batch, FeatureCache
from reellama.models.training.frozen_llm import Example, FrozenLLM
from reellama.models.training.objectives import word_loss

SHOWN_ANSWERS = 3  # answers that a validation prints
FOLLOW_UP_SHARE = 0.35  # share of the examples that follow another question


class CaptionObjective:
    """Targets and losses for the clips of a source, in the LLM's tokens.

    words: token ids that the word mixture can mix; number 0 is padding.
    """

    def __init__(
        self, source: ClipSource, llm: FrozenLLM, system: str, config: CaptionConfig
    ) -> None:
        self.source = source
        self.llm = llm
        self.system = system
        self.tokens = config.projector.tokens
        self.fewest_frames = config.fewest_frames
        answers = (
            answer
            for number in range(source.count(TRAIN))
            for _, answer in source.texts(TRAIN, number)
        )
        self.words = vocabulary(answers, llm.tokenizer, config.projector.words)
        self._index = {token: index for index, token in enumerate(self.words)}

    def _description(self, split: str, number: int) -> list[int]:
        return self.llm.tokenizer.encode(self.source.texts(split, number)[0][1])

    def targets(self, split: str, tail: int = 0) -> Tensor:
        """Target words of the soft tokens, int64 `[clips, tokens]`.

        A row has the words of the description, then one padding word, then `IGNORED`. With `tail`,
        that many last soft tokens (at most half of all) get the last words of the description,
        which say what happens: so these keep their positions however long the names before are.
        """
        tail = min(tail, self.tokens // 2)
        both_ways = split == TRAIN and self.source.reversible
        clips = self.source.count(split) * (2 if both_ways else 1)
        rows = torch.full((clips, self.tokens), IGNORED)
        for number in range(len(rows)):
            ids = self._description(split, number)
            words = [self._index.get(token, IGNORED) for token in ids]
            head = [*words, 0][: self.tokens - tail]
            rows[number, : len(head)] = torch.tensor(head)
            if tail:
                end = words[-tail:]
                rows[number, self.tokens - len(end) :] = torch.tensor(end)
        return rows

    def example(self, split: str, number: int, rng: np.random.Generator) -> Example:
        """A random question about a clip, every second time for the description.

        `FOLLOW_UP_SHARE` of the examples have another question and its answer before.
        """
        texts = self.source.texts(split, number)
        pick = 0 if rng.random() < 0.5 else int(rng.integers(len(texts)))
        earlier = [text for text in texts if text[0] != texts[pick][0]]
        follows = bool(earlier) and rng.random() < FOLLOW_UP_SHARE
        turns = [earlier[int(rng.integers(len(earlier)))]] if follows else []
        return self.llm.example(self.system, *texts[pick], turns)

    def align_loss(
        self,
        projector: Projector,
        cache: FeatureCache,
        targets: Tensor,
        rows: Sequence[int],
        rng: np.random.Generator,
    ) -> Tensor:
        """Cross-entropy of the target words of the clips `rows`; `rng` drops frames."""
        batch = cache.batch(rows, rng, self.fewest_frames)
        hidden = projector.hidden(batch.features, batch.times, batch.mask)
        return word_loss(projector.word_mixture.logits(hidden).float(), targets[list(rows)])

    def word_accuracy(
        self, projector: Projector, cache: FeatureCache, targets: Tensor
    ) -> dict[str, float]:
        """Shares of the target words, and of whole descriptions, that are the word mixture's most
        likely ones."""
        words = right = whole = 0
        for batch, rows in cached_batches(cache):
            hidden = projector.hidden(batch.features, batch.times, batch.mask)
            expected = targets[rows]  # [B, tokens]
            counted = expected != IGNORED
            hits = (projector.word_mixture.logits(hidden).argmax(-1) == expected) & counted
            words += int(counted.sum())
            right += int(hits.sum())
            whole += int((hits == counted).all(1).sum())
        return {"words": right / words, "descriptions": whole / len(cache.usable)}

    def answer_loss(
        self, projector: Projector, cache: FeatureCache, report: Callable[[str], None]
    ) -> dict[str, float]:
        """The LLM's loss on descriptions of validation clips; reports a few greedy answers."""
        losses = []
        for batch, rows in cached_batches(cache, max_clips=64):
            soft = projector(batch.features, batch.times, batch.mask)
            texts = [self.source.texts(VALIDATION, row)[0] for row in rows]
            examples = [self.llm.example(self.system, *text) for text in texts]
            losses.append(float(self.llm.loss(soft.to(self.llm.dtype), examples)))
            if len(losses) == 1:
                for row in range(min(SHOWN_ANSWERS, len(rows))):
                    answer = self.llm.greedy(soft[row].float().cpu().numpy(), examples[row], 32)
                    report(f"  {answer!r}, wanted {texts[row][1]!r}")
        return {"validation_loss": float(np.mean(losses))}


def cached_batches(
    cache: FeatureCache, size: int = 32, max_clips: int | None = None
) -> Iterator[tuple[Batch, list[int]]]:
    """The usable clips of a cache (only the first `max_clips`) as pairs of batch and clip
    numbers."""
    rows = cache.usable[:max_clips]
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield cache.batch(part), part
