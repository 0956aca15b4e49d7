"""One GGUF model in llama.cpp: prompts of text and soft tokens in, generated tokens out.

    with Engine("model.gguf") as engine:
        prompt = [Text("<|im_start|>user\n", special=True), soft_tokens, Text("What happens?"), ...]
        for token in engine.generate(prompt):
            print(token.text, end="")

The engine knows nothing of video. It is for one caller at a time: not thread-safe.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from reellama.gguf_tools.closeable import Closeable
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm.cached_tokens import CachedTokens
from reellama.pipeline.llm.generation_options import GenerationOptions, Sampling
from reellama.pipeline.llm.prompt import (
    GeneratedText,
    Prompt,
    PromptPart,
    SoftTokens,
    Text,
    TokenIds,
    TokenizedPrompt,
    TokenSpan,
    split_spans,
    tokenize_prompt,
)
from reellama.pipeline.llm.prompt_cache import ArrayStore, PromptCache, llm_key
from reellama.pipeline.llm.scoring.token_probabilities import log_softmax
from reellama.pipeline.llm.scoring.token_scorer import ScoredToken, Token, TokenScorer
from reellama.pipeline.llm.text_stream import TextStream
from reellama.pipeline.llm.token_sampling import Sampler

if TYPE_CHECKING:  # Jinja is imported when a prompt is first made
    from reellama.gguf_tools.text.chat_template import ChatTemplate

__all__ = [
    "ContextOverflow",
    "Engine",
    "EngineStats",
    "PrefillStats",
    "Prompt",
    "PromptPart",
    "Sampling",
    "SoftTokens",
    "Text",
    "Token",
    "TokenIds",
]

# Positions of one batch whose logits are computed, for which llama.cpp reserves memory.
MAX_OUTPUTS = 64

StopReason = Literal["stop", "stop string", "length", "context"]


class ContextOverflow(ReellamaError):
    """A prompt that does not fit into the context. `n_prompt` and `n_ctx` count positions."""

    def __init__(self, n_prompt: int, n_ctx: int):
        super().__init__(f"the prompt takes {n_prompt} positions, but the context has {n_ctx}")
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx


@dataclass(frozen=True)
class PrefillStats:
    """How a prompt was read: positions reused from the KV cache, positions decoded, seconds."""

    n_reused: int
    n_read: int
    seconds: float


@dataclass
class EngineStats:
    """Statistics of the last call. `stop_reason` is None until the answer has ended."""

    n_reused: int = 0
    n_read: int = 0
    prefill_seconds: float = 0.0
    n_generated: int = 0
    generate_seconds: float = 0.0  # without the caller's time between tokens
    stop_reason: StopReason | None = None


GREEDY_SAMPLING = Sampling()


@dataclass
class _Generation:
    """The state of an answer that is being generated."""

    sampler: Sampler
    stream: TextStream[ScoredToken]
    n_probs: int
    takes_likeliest: bool
    chosen: int | None = None  # the sampled token that is decoded next
    ids: list[int] = field(default_factory=list)  # of the tokens that the caller has got
    texts: list[str] = field(default_factory=list)


class Engine(Closeable):
    """A model, its context, and the prompt in its KV cache.

    n_ctx: positions of the context (0: as many as the model was trained for). n_batch: positions
    decoded in one call. n_threads: by default, the cores that other processes leave free.
    n_gpu_layers: "auto" for as many as fit. type_k, type_v: KV cache types (f16, q8_0, q4_0, ...);
    a quantized V turns flash attention on. lora: GGUF adapters with their scales. prompt_cache: the
    store of `save_prompt`.
    Raises ReellamaError for a model, adapter or option that cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        n_ctx: int = 4096,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_threads: int | None = None,
        n_gpu_layers: backend.GpuLayers = 0,
        type_k: str = "f16",
        type_v: str = "f16",
        flash_attn: str = "auto",
        lora: Sequence[tuple[str | Path, float]] = (),
        prompt_cache: ArrayStore | None = None,
    ):
        self.path = Path(path)
        self.last = EngineStats()
        with ExitStack() as opened:
            self._model = opened.enter_context(
                backend.load_model(self.path, n_gpu_layers=n_gpu_layers, n_ctx=n_ctx)
            )
            settings = ContextSettings(n_batch, n_ubatch, n_threads, type_k, type_v, flash_attn)
            n_outputs = min(MAX_OUTPUTS, n_batch)
            self._ctx = Context(self._model, n_ctx, settings, n_outputs=n_outputs, swa_full=True)
            opened.callback(self._ctx.close)
            if lora:
                self._ctx.set_adapters([(Path(p), scale) for p, scale in lora])
            self._opened = opened.pop_all()
        self.tokenizer = Tokenizer(self._model)
        self.n_ctx = self._ctx.n_ctx
        self.n_embd = self._ctx.n_embd
        self._cache = CachedTokens(self._ctx.ptr)
        key = llm_key(self._model, settings, lora)
        self._prompts = PromptCache(prompt_cache, self._ctx, self._cache, key)
        self._scorer = TokenScorer(self.tokenizer, self._ctx.n_vocab)
        self._has_logits = False  # llama.cpp has the logits of the last position in the KV cache
        self._call = 0  # number of the last call: an older generation cannot go on

    @cached_property
    def template(self) -> ChatTemplate:
        """The model's chat template."""
        from reellama.gguf_tools.text.chat_template import ChatTemplate

        return ChatTemplate.from_gguf(self._model.file)  # the header that was read already

    @property
    def n_past(self) -> int:
        """How many cells of the KV cache are used."""
        return len(self._cache)

    def close(self) -> None:
        """Free the context and the model."""
        self._opened.close()

    def single_threaded(self) -> AbstractContextManager[None]:
        """See `Context.single_threaded`."""
        return self._ctx.single_threaded()

    def clear(self) -> None:
        """Empty the KV cache."""
        self._begin()
        self._has_logits = False
        self._cache.clear()

    def count(self, prompt: Sequence[PromptPart]) -> int:
        """How many positions the prompt takes."""
        return len(self._tokenize_prompt(prompt).keys)

    def prefill(self, prompt: Sequence[PromptPart]) -> PrefillStats:
        """Read a prompt into the KV cache, except for the longest common prefix with what it holds.

        Soft tokens are compared by value.

        Raises ContextOverflow before anything is decoded, and ReellamaError for bad soft tokens.
        """
        self._begin()
        return self._prefill(self._tokenize_prompt(prompt))

    def generate(
        self,
        prompt: Sequence[PromptPart],
        sampling: Sampling = GREEDY_SAMPLING,
        *,
        max_tokens: int = GenerationOptions.max_tokens,
        stop: str | Sequence[str] = GenerationOptions.stop,
        n_probs: int = GenerationOptions.n_probs,
    ) -> Iterator[Token]:
        """Read the prompt, then yield tokens until the answer ends; `last` has the reason.

        It ends with the model's turn, before a `stop` string (which is not part of the text), after
        `max_tokens` (-1: no limit), or when the context is full. Each token has `n_probs`
        alternatives; 0 is a little faster.

        Closing the iterator, Ctrl-C and errors leave the engine usable. Generated tokens stay in
        the KV cache, and a later prompt with the answer as a Text of its own at the same place
        reuses them. After another call on this engine, the iterator raises. Raises like `prefill`,
        and SamplingError for a grammar that cannot be used.
        """
        options = GenerationOptions(sampling, max_tokens, stop, n_probs)
        self._begin()
        tokenized = self._tokenize_prompt(prompt)
        sampler = Sampler(sampling, self._model, self.n_ctx)
        stream: TextStream[ScoredToken] = TextStream(options.stop)
        state = _Generation(sampler, stream, n_probs, sampling.takes_likeliest)
        return self._generate(tokenized, state, max_tokens, self._call)

    def save_prompt(self) -> None:
        """Save the last prompt, up to its last soft token, for engines of other processes.

        What follows that token is removed from the KV cache.
        """
        self._begin()
        self._has_logits = False
        self._prompts.save()

    def logits_all(self, prompt: Sequence[PromptPart]) -> np.ndarray:
        """Read the whole prompt anew; the logits at every position, float32 [positions, n_vocab].

        Raises like `prefill`.
        """
        self._begin()
        tokenized = self._tokenize_prompt(prompt)
        if len(tokenized.keys) > self.n_ctx:
            raise ContextOverflow(len(tokenized.keys), self.n_ctx)
        self._has_logits = False
        self._cache.clear()
        logits = np.empty((len(tokenized.keys), self._ctx.n_vocab), np.float32)
        for first, span in split_spans(tokenized.spans, 0, self._ctx.n_outputs):
            self._decode(span, first_output=0)
            logits[first : first + len(span)] = self._ctx.logits(len(span))
        self._has_logits = True
        return logits

    def logprobs(
        self, prompt: Sequence[PromptPart], continuations: Sequence[Sequence[int]]
    ) -> list[np.ndarray]:
        """Log-probabilities of each continuation's token ids after the same prompt, float64 [ids].

        The prompt is read once. Raises like `prefill`, and ReellamaError for an empty continuation.
        """
        self._begin()
        tokenized = self._tokenize_prompt(prompt)
        if not all(map(len, continuations)):
            raise ReellamaError("a continuation has no tokens")
        self._prefill(tokenized)
        n = self.n_past
        first = log_softmax(self._ctx.logits_at(-1)[None])
        logprobs = []
        for ids in continuations:
            if n + len(ids) - 1 > self.n_ctx:
                raise ContextOverflow(n + len(ids) - 1, self.n_ctx)
            if self._cache.truncate(n) < n:  # the model's memory cannot be cut
                self._prefill(tokenized)
            rows = [first]
            self._has_logits = False
            rest = TokenSpan(ids[:-1], self._cache.end)
            for _, span in split_spans([rest], n, self._ctx.n_outputs):
                self._decode(span, first_output=0)
                rows.append(log_softmax(self._ctx.logits(len(span))))
            table = np.concatenate(rows)  # [ids, n_vocab]
            logprobs.append(table[np.arange(len(ids)), list(ids)])
        return logprobs

    def _begin(self) -> None:
        self._call += 1
        self.last = EngineStats()

    def _tokenize_prompt(self, prompt: Sequence[PromptPart]) -> TokenizedPrompt:
        cache = self._cache
        tokenized = tokenize_prompt(
            prompt, self.tokenizer, self.n_embd, cached=cache.keys, answers=cache.answers
        )
        if not tokenized.keys:
            raise ReellamaError("the prompt is empty")
        return tokenized

    def _prefill(self, prompt: TokenizedPrompt) -> PrefillStats:
        started_at = time.perf_counter()
        n = len(prompt.keys)
        if n > self.n_ctx:
            raise ContextOverflow(n, self.n_ctx)
        self._prompts.restore(prompt)
        cache = self._cache
        reusable = cache.common_prefix(prompt.keys)
        if not (reusable == n == len(cache) and self._has_logits):
            # The last position is read again for its logits, which the first token is sampled from.
            reusable = min(reusable, n - 1)
        had_logits, self._has_logits = self._has_logits, False
        reused = cache.truncate(prompt.reusable(reusable))
        for first, span in split_spans(prompt.spans_after(reused), reused, self._ctx.n_batch):
            is_last = first + len(span) == n
            self._decode(span, first_output=len(span) - is_last)
        self._has_logits = had_logits or reused < n
        self.last.n_reused, self.last.n_read = reused, n - reused
        self.last.prefill_seconds = time.perf_counter() - started_at
        return PrefillStats(reused, n - reused, self.last.prefill_seconds)

    def _decode(self, span: TokenSpan, first_output: int) -> None:
        """Decode a span, and add it to the cached tokens."""
        self._ctx.decode(
            span.inputs,
            span.start,
            first_output=first_output,
            offsets=span.offsets,
            causal=span.causal,
        )
        self._cache.extend(span)

    def _generate(
        self, prompt: TokenizedPrompt, state: _Generation, max_tokens: int, call: int
    ) -> Iterator[Token]:
        self._check_current(call)
        self._prefill(prompt)
        stats, start = self.last, self.n_past
        try:
            while stats.stop_reason is None:
                started_at = time.perf_counter()
                released = self._step(state, stats, max_tokens)
                stats.generate_seconds += time.perf_counter() - started_at
                for token, text in released:
                    state.ids.append(token.id)
                    state.texts.append(text)
                    yield token.with_text(text)
                    self._check_current(call)
        finally:
            if call == self._call:
                self._remember_answer(start, state)

    def _check_current(self, call: int) -> None:
        if call != self._call:
            raise ReellamaError("this answer cannot go on: the engine was used for something else")

    def _step(
        self, state: _Generation, stats: EngineStats, max_tokens: int
    ) -> list[tuple[ScoredToken, str]]:
        """Decode the last token and sample one; returns the tokens whose text is certain now."""
        if 0 <= max_tokens <= stats.n_generated:
            stats.stop_reason = "length"
        elif state.chosen is not None and self.n_past >= self.n_ctx:
            stats.stop_reason = "context"
        if stats.stop_reason:
            return state.stream.flush()
        if state.chosen is not None:
            self._has_logits = False
            self._ctx.decode_token(state.chosen, self._cache.end)
            self._cache.extend(TokenSpan([state.chosen], self._cache.end))
            self._has_logits = True
        best = self._scorer.best(self._ctx.logits_at(-1), state.n_probs) if state.n_probs else []
        if best and state.takes_likeliest:
            token = best[0][0]  # saves the sampler's own search of the vocabulary
        else:
            token = state.sampler.sample(self._ctx.ptr, lambda: self._ctx.logits_at(-1))
        if self.tokenizer.is_eog(token):
            stats.stop_reason = "stop"
            return state.stream.flush()
        state.chosen = token
        stats.n_generated += 1
        released = state.stream.push(self._scorer.score(token, best), self._scorer.piece(token))
        if state.stream.stopped:
            stats.stop_reason = "stop string"
        return released

    def _remember_answer(self, start: int, state: _Generation) -> None:
        """Keep the answer for `tokenize_prompt`, unless a stop string split its last token."""
        text = "".join(state.texts)
        if state.ids and text.encode() == b"".join(map(self._scorer.piece, state.ids)):
            self._cache.answers[start] = GeneratedText(state.ids, text)
