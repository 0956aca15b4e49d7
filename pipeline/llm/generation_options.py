"""Options of a generation: how tokens are sampled, and when the answer ends.

The command line (`reellama.pipeline.cli.options.AnswerOptions`), the keywords of `Engine.generate`,
jobs of the `Batcher`, Ollama's options and OpenAI's fields all use these names. This module does
not import llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.option_fields import option, out_of_bounds

RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED: llama.cpp draws a seed
INT_MAX = 2**31 - 1
MAX_STOPS = 64  # stop strings of one answer: each is searched for after every token
MAX_STOP_CHARACTERS = 16_384  # of all stop strings together
MAX_BIASED = 1024  # tokens with a bias
MAX_BIAS = 100.0  # added to a logit: -100 forbids a token, 100 nearly forces it
NO_LIMIT = -1  # max_tokens: until the model ends its turn or the context is full


class SamplingError(ReellamaError):
    """A sampling option, a grammar or a JSON schema that cannot be used.

    `option` is the name of the option, if known.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


def _check(options: object) -> None:
    if (problem := out_of_bounds(options)) is not None:
        raise SamplingError(problem, problem.partition(" ")[0])


@dataclass(frozen=True)
class Sampling:
    """Sampling options, named as in llama.cpp. The defaults choose the likeliest token, repeatably.

    Temperature 0 is greedy: top_k, top_p, min_p, typical_p and seed then have no effect.
    The penalties apply to the last `repeat_last_n` tokens of the answer (-1: all), not to the
    prompt. `grammar` is GBNF with a rule `root`; `json_schema` is converted to a grammar, which
    enforces names, types, enums, lengths and patterns, but not the range of a number. `logit_bias`
    is added to the logits of token ids.
    Raises SamplingError for a value out of range.
    """

    temperature: float = option(0.0, "0: always the likeliest token.", low=0, high=100)
    top_k: int = option(40, "Among the N likeliest; 0: off.", low=0, high=INT_MAX)
    top_p: float = option(0.95, "Among the likeliest that make up P.", low=0, high=1)  # 1: off
    min_p: float = option(0.05, "No token below P times the likeliest's.", low=0, high=1)  # 0: off
    typical_p: float = option(1.0, "Among tokens of typical information; 1: off.", low=0, high=1)
    repeat_penalty: float = option(
        1.0, "Above 1: against repetition.", low=1e-6, high=1e6
    )  # 1: off
    repeat_last_n: int = option(64, "Tokens that penalties see; -1: all.", low=-1, high=INT_MAX)
    frequency_penalty: float = option(
        0.0, "For each time a token was there; 0: off.", low=-1e6, high=1e6
    )
    presence_penalty: float = option(0.0, "For tokens that were there; 0: off.", low=-1e6, high=1e6)
    seed: int | None = option(None, "The same N, the same answer.", low=0, high=RANDOM_SEED)
    grammar: str | None = option(None, "Only answers that this GBNF grammar allows.")
    json_schema: dict[str, Any] | None = option(None, "Only JSON that this schema allows.")
    logit_bias: tuple[tuple[int, float], ...] = option((), "For or against tokens, by their ids.")
    grammar_after: str | None = option(None, "A text, after which the grammar begins.")
    grammar_from: str | None = option(None, "A text with which it begins; before, all is free.")

    def __post_init__(self) -> None:
        _check(self)
        if self.grammar is not None and self.json_schema is not None:
            raise SamplingError("give a grammar or a JSON schema, not both")
        if len(self.logit_bias) > MAX_BIASED:
            text = f"{len(self.logit_bias)} tokens have a bias: at most {MAX_BIASED} are taken"
            raise SamplingError(text, "logit_bias")
        for token, bias in self.logit_bias:
            if not -MAX_BIAS <= bias <= MAX_BIAS:
                text = f"the bias of token {token} is {bias}, but must lie between -100 and 100"
                raise SamplingError(text, "logit_bias")

    @property
    def takes_likeliest(self) -> bool:
        """Whether the token is the argmax of the model's own logits."""
        is_free = self.grammar is None and self.json_schema is None
        return self.temperature == 0 and is_free and not self.penalizes and not self.logit_bias

    @property
    def penalizes(self) -> bool:
        """Whether any repetition penalty has an effect."""
        off = (self.repeat_penalty, self.frequency_penalty, self.presence_penalty) == (1, 0, 0)
        return self.repeat_last_n != 0 and not off


# Names of the options by type, without grammars and biases: protocols check their values.
REAL_OPTIONS = tuple(f.name for f in fields(Sampling) if f.type == "float")
INTEGER_OPTIONS = tuple(f.name for f in fields(Sampling) if f.type in ("int", "int | None"))
SAMPLING_OPTIONS = (*REAL_OPTIONS, *INTEGER_OPTIONS)


@dataclass(frozen=True)
class GenerationOptions:
    """Options of a generation. Raises SamplingError for a value out of range.

    stop: strings before which an answer ends; they are not part of it. At most MAX_STOPS, of
    MAX_STOP_CHARACTERS in all.
    """

    sampling: Sampling = Sampling()
    max_tokens: int = option(256, "At most N tokens an answer.", low=NO_LIMIT)
    stop: str | Sequence[str] = option((), "End before TEXT; may be repeated.")
    n_probs: int = option(5, "Alternatives that come with each token.", low=0)

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        _check(self)
        if not all(isinstance(text, str) for text in stop):
            raise SamplingError("a stop text is not text", "stop")
        if len(stop) > MAX_STOPS:
            raise SamplingError(f"{len(stop)} stop texts: at most {MAX_STOPS} are taken", "stop")
        if (n := sum(map(len, stop))) > MAX_STOP_CHARACTERS:
            raise SamplingError(
                f"the stop texts have {n} characters: at most {MAX_STOP_CHARACTERS} are taken",
                "stop",
            )


# Bounds to which requests are clamped where those above would be an error, as in Ollama.
CLAMPED: Mapping[str, tuple[float, float]] = {
    "temperature": (0, math.inf),
    "top_k": (0, INT_MAX),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "repeat_last_n": (-1, INT_MAX),
}


def requested_sampling(given: Mapping[str, Any]) -> Sampling:
    """The sampling options of a request, the same in every protocol.

    Options of CLAMPED are clamped. A negative seed is random, and a seed of 64 bits is reduced to
    llama.cpp's 32 by modulo. Raises SamplingError for other values out of range.
    """
    options = {name: value for name, value in given.items() if value is not None}
    for name in options.keys() & CLAMPED:
        low, high = CLAMPED[name]
        # NaN and infinity are left to `Sampling`, whose error names the option.
        if isinstance(options[name], int) or math.isfinite(options[name]):
            options[name] = type(options[name])(min(max(options[name], low), high))
    if (seed := options.pop("seed", -1)) >= 0:
        options["seed"] = seed % RANDOM_SEED
    return Sampling(**options)
