"""Samples the next token by llama.cpp's samplers, in llama.cpp's order."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

import numpy as np
from llama_cpp import llama_cpp

from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm import grammar
from reellama.pipeline.llm.generation_options import RANDOM_SEED, Sampling, SamplingError

# Division by a lower temperature would make logits infinite: it is greedy.
MIN_TEMPERATURE = 1e-9
# CPU seconds that the grammar may take for a token, since all other answers wait for it. Only two
# slow tokens in succession fail: one may be due to a garbage collection or a paused machine.
MAX_GRAMMAR_SECONDS = 0.5


def build_chain(sampling: Sampling, n_vocab: int, n_ctx: int) -> llama_cpp.llama_sampler_p:
    """llama.cpp's sampler chain for these options, without the grammar. The caller must free it.

    Raises SamplingError for a bias on a token that does not exist.
    """
    s = sampling
    links = [_logit_bias(s, n_vocab)] if s.logit_bias else []
    if s.penalizes:
        # llama.cpp allocates a buffer of this length, so it is limited to the context.
        last_n = n_ctx if s.repeat_last_n < 0 else min(s.repeat_last_n, n_ctx)
        penalties = (s.repeat_penalty, s.frequency_penalty, s.presence_penalty)
        links.append(llama_cpp.llama_sampler_init_penalties(n_vocab, last_n, *penalties))
    if s.temperature < MIN_TEMPERATURE:
        links.append(llama_cpp.llama_sampler_init_greedy())
    else:
        links += [
            llama_cpp.llama_sampler_init_top_k(s.top_k),
            llama_cpp.llama_sampler_init_typical(s.typical_p, 1),
            llama_cpp.llama_sampler_init_top_p(s.top_p, 1),
            llama_cpp.llama_sampler_init_min_p(s.min_p, 1),
            llama_cpp.llama_sampler_init_temp(s.temperature),
            llama_cpp.llama_sampler_init_dist(RANDOM_SEED if s.seed is None else s.seed),
        ]
    params = llama_cpp.llama_sampler_chain_default_params()
    chain = llama_cpp.llama_sampler_chain_init(params)
    for link in links:
        llama_cpp.llama_sampler_chain_add(chain, link)
    return chain


def _logit_bias(sampling: Sampling, n_vocab: int) -> llama_cpp.llama_sampler_p:
    """The sampler that adds biases to logits. Raises SamplingError for unknown token ids."""
    for token, _ in sampling.logit_bias:
        if not 0 <= token < n_vocab:
            raise SamplingError(
                f"there is no token {token}: ids go from 0 to {n_vocab - 1}", "logit_bias"
            )
    biases = [llama_cpp.llama_logit_bias(token, bias) for token, bias in sampling.logit_bias]
    array = (llama_cpp.llama_logit_bias * len(biases))(*biases)
    return llama_cpp.llama_sampler_init_logit_bias(n_vocab, len(biases), array)  # copies them


def gbnf(sampling: Sampling) -> str | None:
    """The grammar of these options, if any."""
    if sampling.json_schema is None:
        return sampling.grammar
    from reellama.pipeline.llm.schema_grammar import schema_to_gbnf

    return schema_to_gbnf(sampling.json_schema)


class Sampler:
    """Samples tokens by a Sampling. Owns its llama.cpp samplers, and frees them when deleted."""

    def __init__(self, sampling: Sampling, model: backend.Model, n_ctx: int):
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(model.vocab)
        self._grammar: llama_cpp.llama_sampler_p | None = None
        self._chain = None
        text = gbnf(sampling)
        if text is not None:
            self._grammar = grammar_sampler(text, model)
            texts = sampling.grammar_after, sampling.grammar_from
            self._trigger = _Trigger(*texts, Tokenizer(model))
            self._candidates = np.zeros(self._n_vocab, CANDIDATE)
            self._ids = np.arange(self._n_vocab, dtype=np.int32)
            self._was_slow = False  # whether the grammar was slow for the last token
        self._chain = build_chain(sampling, self._n_vocab, n_ctx)

    def __del__(self) -> None:
        for sampler in (self._chain, self._grammar):
            if sampler:
                llama_cpp.llama_sampler_free(sampler)

    def sample(
        self, ctx: llama_cpp.llama_context_p, logits: Callable[[], np.ndarray], index: int = -1
    ) -> int:
        """Sample and accept the next token. `logits()` [n_vocab] is called only with a grammar.

        index: the position of the logits in the last batch, by default the last one. Raises
        SamplingError if the grammar allows no token, or takes too long.
        """
        if self._grammar is None:
            return int(llama_cpp.llama_sampler_sample(self._chain, ctx, index))
        if self._trigger.is_waiting:
            token = int(llama_cpp.llama_sampler_sample(self._chain, ctx, index))
            for following in self._trigger.push(token):
                if not self._allowed(following):
                    if self._trigger.restart():
                        llama_cpp.llama_sampler_reset(self._grammar)
                    break
                llama_cpp.llama_sampler_accept(self._grammar, following)
            return token
        started_at = time.thread_time()
        token = self._choose(logits(), by_grammar=False)
        if not self._allowed(token):  # only now is the whole vocabulary checked, which is slow
            token = self._choose(logits(), by_grammar=True)
        llama_cpp.llama_sampler_accept(self._grammar, token)
        llama_cpp.llama_sampler_accept(self._chain, token)
        # The number of parse states of ambiguous grammars grows with each token.
        is_slow = time.thread_time() - started_at > MAX_GRAMMAR_SECONDS
        if is_slow and self._was_slow:
            raise SamplingError("this grammar has too many ways to go on: make it less ambiguous")
        self._was_slow = is_slow
        return token

    def _choose(self, logits: np.ndarray, *, by_grammar: bool) -> int:
        candidates = self._candidates
        candidates["id"] = self._ids
        candidates["logit"] = logits
        array = token_data_array(candidates)
        if by_grammar:
            llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
            # An exception inside llama.cpp's accept() would end the process.
            if not np.isfinite(candidates["logit"]).any():
                raise SamplingError("the grammar lets no token follow what was generated")
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _allowed(self, token: int) -> bool:
        one = np.zeros(1, CANDIDATE)
        one["id"], one["logit"] = token, 1.0
        array = token_data_array(one)
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(np.isfinite(one["logit"][0]))


class _Trigger:
    """Finds the place at which a grammar starts: after one text, then with another one.

    after: the text after which the second one is searched for; start: the text with which the
    grammar starts. None: no such text.
    """

    def __init__(self, after: str | None, start: str | None, tokenizer: Tokenizer) -> None:
        # The texts that are still searched for; those that were found are empty.
        self._after, self._start = (after or "").encode(), (start or "").encode()
        self._found_start = b""
        self._tokenizer = tokenizer
        self._tail = b""  # the end of the generated text, which may begin one of these texts

    @property
    def is_waiting(self) -> bool:
        """Whether the grammar has not started."""
        return bool(self._after or self._start)

    def push(self, token: int) -> list[int]:
        """Add a token. Returns the tokens that the grammar has to accept, if it starts now."""
        self._tail += self._tokenizer.piece(token, special=True)
        start = b""
        while text := self._after or self._start:
            before, match, rest = self._tail.partition(text)
            if not match:
                self._tail = before[1 - len(text) :] if len(text) > 1 else b""
                return []
            self._tail = rest
            if self._after:
                self._after = b""
            else:
                self._found_start, self._start, start = text, b"", text
        rest = start + self._tail
        return self._tokenizer.encode(rest.decode(errors="replace")) if rest else []

    def restart(self) -> bool:
        """Search for the start again, as the text after the last one does not fit the grammar.

        Returns False if there is no text with which the grammar starts: then it stays started.
        """
        self._start, self._tail = self._found_start, b""
        return bool(self._start)


# struct llama_token_data
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def token_data_array(candidates: np.ndarray) -> llama_cpp.llama_token_data_array:
    """llama.cpp's view of candidates, of dtype CANDIDATE `[n]`, which must outlive it."""
    data = candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
    return llama_cpp.llama_token_data_array(
        data=data, size=len(candidates), selected=-1, sorted=False
    )


def grammar_sampler(text: str, model: backend.Model) -> llama_cpp.llama_sampler_p:
    """llama.cpp's sampler of a GBNF grammar, which the caller must free. Raises SamplingError."""

    def is_token(name: str) -> bool:
        return len(Tokenizer(model).encode(name, special=True)) == 1

    reason = grammar.grammar_error(text, is_token)
    if reason is None:
        sampler = llama_cpp.llama_sampler_init_grammar(model.vocab, text.encode(), b"root")
        if sampler:
            return sampler
        reason = "llama.cpp cannot follow it, as where a rule begins with itself (left recursion)"
    raise SamplingError(f"this grammar is not valid GBNF: {reason}")
