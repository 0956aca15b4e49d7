"""Self-critical sequence training (Rennie et al., 2017): the LLM learns from captions it samples.

Cross-entropy on human captions trains each word after human words, never after the LLM's own. So
whole captions are sampled, and those that score better (`cider_reward`) than other samples of the
same video are made likelier. The baseline of a sample is the mean score of the video's other
samples (Luo, 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reellama.models.training.frozen_llm import FrozenLLM

VIDEOS_PER_CALL = 8  # of the LLM


def advantages(scores: Sequence[float]) -> list[float]:
    """Each score minus the mean of the other scores, of which there must be one or more."""
    total, n_others = sum(scores), len(scores) - 1
    return [score - (total - score) / n_others for score in scores]


@torch.no_grad()
def sample_captions(
    llm: FrozenLLM, before: Sequence[int], soft: Tensor, after: Sequence[int], samples: int,
    max_tokens: int = 24,
) -> list[list[str]]:  # fmt: skip
    """Captions of each video, sampled at temperature 1.

    Args:
        llm: the LLM with its present adapter.
        before, after: token ids of the prompt around the soft tokens.
        soft: soft tokens of the videos `[B, tokens, n_embd]`.
        samples: number of captions for each video.
        max_tokens: of a caption.

    Returns:
        `samples` captions for each of the B videos.
    """
    texts = []
    for rows in soft.split(VIDEOS_PER_CALL):
        prompt = torch.cat(
            [llm.embed(before).expand(len(rows), -1, -1).to(llm.dtype), rows.to(llm.dtype),
             llm.embed(after).expand(len(rows), -1, -1).to(llm.dtype)], dim=1,
        )  # fmt: skip
        ids = _sample(llm, prompt, samples, max_tokens)
        captions = [llm.tokenizer.decode(_until_end(llm, row)) for row in ids.tolist()]
        texts += [captions[n : n + samples] for n in range(0, len(captions), samples)]
    return texts


def _sample(llm: FrozenLLM, prompt: Tensor, samples: int, max_tokens: int) -> Tensor:
    """Sampled token ids `[B * samples, at most max_tokens]` after prompts `[B, L, n_embd]`."""
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
    """The ids before the first end-of-sequence token."""
    end = llm.tokenizer.eos
    return list(ids[: ids.index(end)] if end in ids else ids)
