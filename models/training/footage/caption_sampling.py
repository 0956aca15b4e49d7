"""Self-critical sequence training (Rennie et al., 2017): captions that the LLM samples itself.

The cross-entropy of people's captions teaches each word after people's words, and never what the
LLM's own beginning leads to. So whole captions are sampled, and those that score better than others
of the same video (`cider_reward`) are made likelier; the baseline of a sample is the mean score of
the video's other samples (Luo, 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reellama.models.training.frozen_llm import FrozenLLM

PREFIXES = 8  # videos a call of the LLM on a CPU


def advantages(scores: Sequence[float]) -> list[float]:
    """How much better each sample is than the mean of the video's others; two or more."""
    total, others = sum(scores), len(scores) - 1
    return [score - (total - score) / others for score in scores]


@torch.no_grad()
def sample_captions(
    llm: FrozenLLM, before: Sequence[int], soft: Tensor, after: Sequence[int], samples: int,
    max_tokens: int = 24,
) -> list[list[str]]:  # fmt: skip
    """So many captions of each video, sampled at temperature 1 by the LLM as it is now.

    Args:
        before, after: token ids around the soft tokens `[B, tokens, n_embd]`, such as a question.
        max_tokens: of a caption.
    """
    texts = []
    for rows in soft.split(PREFIXES):
        prompt = torch.cat(
            [llm.embed(before).expand(len(rows), -1, -1).to(llm.dtype), rows.to(llm.dtype),
             llm.embed(after).expand(len(rows), -1, -1).to(llm.dtype)], dim=1,
        )  # fmt: skip
        ids = _sample(llm, prompt, samples, max_tokens)
        written = [llm.tokenizer.decode(_until_end(llm, row)) for row in ids.tolist()]
        texts += [written[n : n + samples] for n in range(0, len(written), samples)]
    return texts


def _sample(llm: FrozenLLM, prompt: Tensor, samples: int, max_tokens: int) -> Tensor:
    """Token ids `[B * samples, max_tokens]` after prompts `[B, L, n_embd]`."""
    head = llm.model.get_output_embeddings()
    output = llm.model.get_decoder()(inputs_embeds=prompt, use_cache=True)
    cache = output.past_key_values
    cache.batch_repeat_interleave(samples)
    states = output.last_hidden_state[:, -1].repeat_interleave(samples, dim=0)
    ids: list[Tensor] = []
    ended = torch.zeros(len(states), dtype=torch.bool, device=states.device)
    while len(ids) < max_tokens and not ended.all():
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
