"""Captions that the LLM samples itself, and how well they say what people said: the reward.

The cross-entropy of people's captions teaches each word after people's words, and never what the
LLM's own beginning leads to. Self-critical sequence training (Rennie et al., 2017) samples whole
captions and makes those likelier that score better than others of the same video; the baseline of
a sample is the mean score of the video's other samples (Luo, 2020). The score is CIDEr-D (Vedantam
et al., 2015) against the captions that people gave.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from reellama.models.concepts.vocabulary import Captions, words_of
from reellama.models.training.frozen_llm import FrozenLLM

LONGEST_NGRAM = 4  # words
LENGTH_DEVIATION = 6.0  # words; CIDEr-D's sigma of how much longer or shorter a caption may be
END = "."  # counts as a last word, or captions that break off would score as well as whole ones
PREFIXES = 8  # videos a call of the LLM on a CPU

NGram = tuple[str, ...]


class CaptionReward:
    """CIDEr-D, 0 to 10, of a caption; `videos` say how rare n-grams are."""

    def __init__(self, videos: Sequence[Captions]) -> None:
        self._log_videos = math.log(max(1, len(videos)))
        self._with: Counter[NGram] = Counter()
        for captions in videos:
            self._with.update({gram for caption in captions for gram in _ngrams(_words(caption))})

    def scores(self, said: Captions, references: Captions) -> list[float]:
        """The score of each caption that was said of one video."""
        known = [(self._rows(words), len(words)) for words in map(_words, references)]
        return [self._score(_words(caption), known) for caption in said]

    def _score(
        self, words: list[str], references: Sequence[tuple[list[dict[NGram, float]], int]]
    ) -> float:
        rows, total = self._rows(words), 0.0
        for other_rows, length in references:
            penalty = math.exp(-((len(words) - length) ** 2) / (2 * LENGTH_DEVIATION**2))
            pairs = zip(rows, other_rows, strict=True)
            total += penalty * sum(_clipped_cosine(row, other) for row, other in pairs)
        return 10.0 * total / LONGEST_NGRAM / max(1, len(references))

    def _rows(self, words: list[str]) -> list[dict[NGram, float]]:
        """For each length of n-grams, how often each is there, weighed by how rare it is."""
        rows: list[dict[NGram, float]] = [{} for _ in range(LONGEST_NGRAM)]
        for gram, count in _ngrams(words).items():
            rarity = self._log_videos - math.log(max(1, self._with[gram]))
            rows[len(gram) - 1][gram] = count * rarity
        return rows


def _words(caption: str) -> list[str]:
    return [*words_of(caption), *([END] if caption.rstrip().endswith(END) else [])]


def _ngrams(words: Sequence[str]) -> Counter[NGram]:
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, LONGEST_NGRAM + 1)
        for start in range(len(words) - n + 1)
    )


def _clipped_cosine(row: dict[NGram, float], reference: dict[NGram, float]) -> float:
    """A word that is repeated more often than in the reference does not count more (CIDEr-D)."""
    lengths = [math.sqrt(sum(value * value for value in one.values())) for one in (row, reference)]
    product = sum(min(value, reference[gram]) * reference[gram]
                  for gram, value in row.items() if gram in reference)  # fmt: skip
    return product / (lengths[0] * lengths[1]) if all(lengths) else 0.0


def advantages(scores: Sequence[float]) -> list[float]:
    """How much better each sample is than the mean of the video's others; two or more."""
    total, others = sum(scores), len(scores) - 1
    return [score - (total - score) / others for score in scores]


@torch.no_grad()
def sample_captions(
    llm: FrozenLLM, before: Sequence[int], soft: Tensor, after: Sequence[int], samples: int,
    longest: int = 24,
) -> list[list[str]]:  # fmt: skip
    """So many captions of each video, sampled at temperature 1 by the LLM as it is now.

    Args:
        before, after: token ids around the soft tokens `[B, tokens, n_embd]`, such as a question.
        longest: tokens of a caption at most.
    """
    texts = []
    for rows in soft.split(PREFIXES):
        prompt = torch.cat(
            [llm.embed(before).expand(len(rows), -1, -1).to(llm.dtype), rows.to(llm.dtype),
             llm.embed(after).expand(len(rows), -1, -1).to(llm.dtype)], dim=1,
        )  # fmt: skip
        ids = _sample(llm, prompt, samples, longest)
        written = [llm.tokenizer.decode(_until_end(llm, row)) for row in ids.tolist()]
        texts += [written[n : n + samples] for n in range(0, len(written), samples)]
    return texts


def _sample(llm: FrozenLLM, prompt: Tensor, samples: int, longest: int) -> Tensor:
    """Token ids `[B * samples, longest]` after prompts `[B, L, n_embd]`."""
    head = llm.model.get_output_embeddings()
    output = llm.model.get_decoder()(inputs_embeds=prompt, use_cache=True)
    cache = output.past_key_values
    cache.batch_repeat_interleave(samples)
    states = output.last_hidden_state[:, -1].repeat_interleave(samples, dim=0)
    ids: list[Tensor] = []
    ended = torch.zeros(len(states), dtype=torch.bool, device=states.device)
    while len(ids) < longest and not ended.all():
        probabilities = head(states).float().softmax(-1)
        ids.append(torch.multinomial(probabilities, 1)[:, 0])
        ended |= ids[-1] == llm.tokenizer.eos
        output = llm.model.get_decoder()(
            inputs_embeds=llm.embed(ids[-1])[:, None].to(llm.dtype),
            past_key_values=cache,
            use_cache=True,
        )
        states = output.last_hidden_state[:, -1]
    return torch.stack(ids, dim=1)


def _until_end(llm: FrozenLLM, ids: Sequence[int]) -> list[int]:
    end = llm.tokenizer.eos
    return list(ids[: ids.index(end)] if end in ids else ids)
