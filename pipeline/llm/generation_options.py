"""How an answer is generated: which tokens are chosen, and when it ends.

The command line (`reellama.pipeline.cli.options.AnswerOptions`), the keywords of `Engine.generate`,
jobs of the `Batcher`, Ollama's options and OpenAI's fields all use these names. It loads no
llama.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.option_fields import option, out_of_bounds

RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED: llama.cpp draws one itself
INT_MAX = 2**31 - 1
NO_LIMIT = -1  # max_tokens: until the model ends its turn or the context is full


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

    temperature: float = option(0.0, "0: always the likeliest token.", low=0)
    top_k: int = option(40, "Among the N likeliest; 0: off.", low=0, high=INT_MAX)
    top_p: float = option(0.95, "Among the likeliest that make up P.", low=0, high=1)  # 1: off
    min_p: float = option(0.05, "No token below P times the likeliest's.", low=0, high=1)  # 0: off
    typical_p: float = option(1.0, "Among tokens of typical information; 1: off.", low=0, high=1)
    repeat_penalty: float = option(1.0, "Above 1: against repetition.", low=1e-6)  # 1: off
    repeat_last_n: int = option(64, "Tokens that penalties see; -1: all.", low=-1, high=INT_MAX)
    frequency_penalty: float = option(0.0, "For each time a token was there; 0: off.")
    presence_penalty: float = option(0.0, "For tokens that were there; 0: off.")
    seed: int | None = option(None, "The same N, the same answer.", low=0, high=RANDOM_SEED)
    grammar: str | None = option(None, "Only answers that this GBNF grammar allows.")
    json_schema: dict[str, Any] | None = option(None, "Only JSON that this schema allows.")

    def __post_init__(self) -> None:
        if (problem := out_of_bounds(self)) is not None:
            raise SamplingError(problem)
        if self.grammar is not None and self.json_schema is not None:
            raise SamplingError("give a grammar or a JSON schema, not both")

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


# Names of the options by the kind of their values, as protocols check them: all but the grammars.
REAL_OPTIONS = tuple(f.name for f in fields(Sampling) if f.type == "float")
INTEGER_OPTIONS = tuple(f.name for f in fields(Sampling) if f.type in ("int", "int | None"))
SAMPLING_OPTIONS = (*REAL_OPTIONS, *INTEGER_OPTIONS)


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is generated. Raises SamplingError for a value out of range.

    stop: strings before which an answer ends; they are not part of it.
    """

    sampling: Sampling = Sampling()
    max_tokens: int = option(256, "At most N tokens an answer.", low=NO_LIMIT)
    stop: str | Sequence[str] = option((), "End before TEXT; may be repeated.")
    n_probs: int = option(5, "Alternatives that come with each token.", low=0)

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        if (problem := out_of_bounds(self)) is not None:
            raise SamplingError(problem)
