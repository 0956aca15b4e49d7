"""How the next token is chosen: llama.cpp's samplers, in llama.cpp's order."""

from __future__ import annotations

import ctypes
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llama_cpp import llama_cpp
from llama_cpp.llama_grammar import json_schema_to_gbnf

from gguf_tools.errors import ReellamaError
from gguf_tools.runtime import backend
from gguf_tools.text.tokenizer import Tokenizer
from pipeline.llm import grammar

RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED: llama.cpp draws one itself
BOUNDS = ("minLength", "maxLength", "minItems", "maxItems")  # of a JSON schema
MOST_BOUND = 100_000
# What llama-cpp-python raises for a JSON schema that it cannot turn into a grammar.
SCHEMA_ERRORS = (
    *(AssertionError, AttributeError, KeyError, TypeError, ValueError),
    *(RecursionError, re.error),
)


class SamplingError(ReellamaError):
    """A sampling option, a grammar or a JSON schema that cannot be used."""


@dataclass(frozen=True)
class Sampling:
    """Sampling options, named as in llama.cpp. The defaults choose the likeliest token, repeatably.

    temperature 0 is greedy: top_k, top_p, min_p, typical_p and seed then change nothing.
    The penalties see the last `repeat_last_n` tokens that were generated in this answer (-1: all),
    not the prompt. `grammar` is GBNF with a rule `root`; `json_schema` is turned into one, which
    binds names, types, enums, lengths and patterns, but not the range of a number.
    Raises SamplingError for a value out of range.
    """

    temperature: float = 0.0
    top_k: int = 40  # 0: off
    top_p: float = 0.95  # 1: off
    min_p: float = 0.05  # 0: off
    typical_p: float = 1.0  # 1: off
    repeat_penalty: float = 1.0  # 1: off
    repeat_last_n: int = 64
    frequency_penalty: float = 0.0  # 0: off
    presence_penalty: float = 0.0  # 0: off
    seed: int | None = None  # None: another one every time
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self._check("temperature", 0, math.inf)
        self._check("top_k", 0, 2**31 - 1)
        self._check("top_p", 0, 1)
        self._check("min_p", 0, 1)
        self._check("typical_p", 0, 1)
        self._check("repeat_penalty", 1e-6, math.inf)
        self._check("repeat_last_n", -1, 2**31 - 1)
        self._check("frequency_penalty", -math.inf, math.inf)
        self._check("presence_penalty", -math.inf, math.inf)
        if self.seed is not None:
            self._check("seed", 0, RANDOM_SEED)
        if self.grammar is not None and self.json_schema is not None:
            raise SamplingError("give a grammar or a JSON schema, not both")

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not math.isfinite(value) or not low <= value <= high:
            raise SamplingError(f"{name} is {value}, but must lie between {low} and {high}")

    @property
    def takes_likeliest(self) -> bool:
        """Whether nothing but the model's own logits decides: the first of the likeliest tokens."""
        free = self.grammar is None and self.json_schema is None
        return self.temperature == 0 and free and not self.penalizes

    @property
    def penalizes(self) -> bool:
        """Whether any repetition penalty is on."""
        off = (self.repeat_penalty, self.frequency_penalty, self.presence_penalty) == (1, 0, 0)
        return self.repeat_last_n != 0 and not off


def build_chain(sampling: Sampling, n_vocab: int, n_ctx: int) -> llama_cpp.llama_sampler_p:
    """llama.cpp's sampler chain for these options, without the grammar. The caller frees it."""
    params = llama_cpp.llama_sampler_chain_default_params()
    chain = llama_cpp.llama_sampler_chain_init(params)
    s = sampling
    links = []
    if s.penalizes:
        last_n = n_ctx if s.repeat_last_n < 0 else s.repeat_last_n
        penalties = (s.repeat_penalty, s.frequency_penalty, s.presence_penalty)
        links.append(llama_cpp.llama_sampler_init_penalties(n_vocab, last_n, *penalties))
    if s.temperature == 0:
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
    for link in links:
        llama_cpp.llama_sampler_chain_add(chain, link)
    return chain


def gbnf(sampling: Sampling) -> str | None:
    """The grammar that these options ask for, if any."""
    if sampling.json_schema is None:
        return sampling.grammar
    try:
        _check_bounds(sampling.json_schema)
        return json_schema_to_gbnf(json.dumps(sampling.json_schema))
    except SCHEMA_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SamplingError(
            f"this JSON schema cannot be turned into a grammar: {reason}"
        ) from error


def _check_bounds(schema: object) -> None:
    """Raise ValueError for bounds that the grammar, which writes every repetition out, is not for.

    Of a billion of them no memory would be left.
    """
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            left += part.values()
            bounds = [(name, part.get(name)) for name in BOUNDS]
            pattern = part.get("pattern")
            counts = re.findall(r"[{,](\d+)(?=[,}])", pattern if isinstance(pattern, str) else "")
            bounds += [("a number in its pattern", int(count[:9])) for count in counts]
            for name, bound in bounds:
                if isinstance(bound, int) and bound > MOST_BOUND:
                    raise ValueError(f"{name} is {bound}, and may be {MOST_BOUND} at most")
        elif isinstance(part, list):
            left += part


class Sampler:
    """Chooses tokens by a Sampling. Owns its llama.cpp samplers and frees them with itself."""

    def __init__(self, sampling: Sampling, model: backend.Model, n_ctx: int):
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(model.vocab)
        self._grammar: llama_cpp.llama_sampler_p | None = None
        self._chain = None
        text = gbnf(sampling)
        if text is not None:
            self._grammar = _grammar(text, model)
            self._candidates = np.zeros(self._n_vocab, CANDIDATE)
            self._ids = np.arange(self._n_vocab, dtype=np.int32)
        self._chain = build_chain(sampling, self._n_vocab, n_ctx)

    def __del__(self) -> None:
        for sampler in (self._chain, self._grammar):
            if sampler:
                llama_cpp.llama_sampler_free(sampler)

    def sample(
        self, ctx: llama_cpp.llama_context_p, logits: Callable[[], np.ndarray], index: int = -1
    ) -> int:
        """Choose and accept the next token. `logits()` [n_vocab] is called only with a grammar.

        `index` is the position in the last batch whose logits these are, by default its last one.
        Raises SamplingError when the grammar lets no token follow.
        """
        if self._grammar is None:
            return int(llama_cpp.llama_sampler_sample(self._chain, ctx, index))
        token = self._choose(logits(), by_grammar=False)
        if not self._allowed(token):  # trying every token of the vocabulary is slow
            token = self._choose(logits(), by_grammar=True)
        llama_cpp.llama_sampler_accept(self._grammar, token)
        llama_cpp.llama_sampler_accept(self._chain, token)
        return token

    def _choose(self, logits: np.ndarray, *, by_grammar: bool) -> int:
        candidates = self._candidates
        candidates["id"] = self._ids
        candidates["logit"] = logits
        array = _token_data_array(candidates)
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
        array = _token_data_array(one)
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(np.isfinite(one["logit"][0]))


# struct llama_token_data
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def _token_data_array(candidates: np.ndarray) -> llama_cpp.llama_token_data_array:
    data = candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
    return llama_cpp.llama_token_data_array(
        data=data, size=len(candidates), selected=-1, sorted=False
    )


def _grammar(text: str, model: backend.Model) -> llama_cpp.llama_sampler_p:
    def is_token(name: str) -> bool:
        return len(Tokenizer(model).encode(name, special=True)) == 1

    reason = grammar.complaint(text, is_token)
    if reason is None:
        sampler = llama_cpp.llama_sampler_init_grammar(model.vocab, text.encode(), b"root")
        if sampler:
            return sampler
        reason = "llama.cpp cannot follow it, as where a rule begins with itself (left recursion)"
    raise SamplingError(f"this grammar is not valid GBNF: {reason}")
