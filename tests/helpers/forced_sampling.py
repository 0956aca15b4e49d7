"""Answers that rest on no model's taste: forced by a grammar or dictated, and judged by likelihood.

Processors round differently, and a model that rounds to eight bits on its way makes much of it:
between llama.cpp's kernels for AVX512, AVX2 and plain x86-64 the logits of SmolLM2 differ by 0.27
(root mean square), at most by 1.5, and the logarithm of a token's probability by 0.5. So what a
model likes best, when it ends and what a seed draws may differ wherever two tokens are close.
Its two layers in F32, the small LLM of the tests, differ less: that logarithm by 0.07.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from reellama.pipeline.llm.engine import Engine, PromptPart, Sampling

# Twice what the kernels above differ by, and more; what another prompt does to a likelihood of the
# small LLM is 2 at least.
ROUNDING = 0.2
ROUNDING_OF_SMOLLM2 = 1.0

ENDLESS = 'root ::= "tick tock " root\n'
FOREVER = Sampling(grammar=ENDLESS)  # no answer ends by itself


def saying(text: str) -> Sampling:
    """Sampling that can only say `text`, and then ends."""
    return Sampling(grammar=f'root ::= "{text}"')


class FixedTokenSampler:
    """A sampler, in place of the engine's, that takes these tokens whatever the model thinks."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._left: Iterator[int] = iter(ids)

    def sample(self, *_: object) -> int:
        return next(self._left)


def token_logprobs(engine: Engine, prompt: Sequence[PromptPart], text: str) -> np.ndarray:
    """How likely the model thinks `text` is after the prompt: the logarithm for each token."""
    [found] = engine.logprobs(prompt, [engine.tokenizer.encode(text)])
    return found
