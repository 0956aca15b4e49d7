"""The tests of `bench`, under the names that llama-bench gives them."""

from __future__ import annotations

import re
from typing import NamedTuple

from reellama.gguf_tools.errors import ReellamaError

TEST_KINDS = ("pp", "tg", "sp", "pg")
TEST_NAME = re.compile(
    r"(?:(pp|tg|sp)([0-9]{1,9})|pp([0-9]{1,9})\+tg([0-9]{1,9}))"
    r"(?: ?@ ?d([0-9]{1,9}))?(?: ?x ?([1-9][0-9]{0,3}))?"
)


class BenchTest(NamedTuple):
    """A timed test.

    Attributes:
        kind: "pp", "tg" or "sp", or "pg", which reads `n` tokens and generates `n_gen`.
        n: number of tokens.
        n_gen: number of generated tokens, for "pg".
        depth: positions in the KV cache before the test.
        n_parallel: sequences at once.
    """

    kind: str
    n: int
    n_gen: int = 0
    depth: int = 0
    n_parallel: int = 1

    @property
    def n_positions(self) -> int:
        """Positions of each sequence at the end."""
        return self.depth + self.n + self.n_gen

    @property
    def n_tokens(self) -> int:
        """Number of timed tokens over all sequences."""
        return self.n_parallel * (self.n + self.n_gen)

    def __str__(self) -> str:
        name = f"pp{self.n}+tg{self.n_gen}" if self.kind == "pg" else f"{self.kind}{self.n}"
        name += f" @ d{self.depth}" if self.depth else ""
        return f"{name} x{self.n_parallel}" if self.n_parallel > 1 else name

    @classmethod
    def parse(cls, name: str) -> BenchTest:
        """From its name. Raises ReellamaError for anything else.

        >>> BenchTest.parse("pp512+tg128 @ d1024")
        BenchTest(kind='pg', n=512, n_gen=128, depth=1024, n_parallel=1)
        """
        match = TEST_NAME.fullmatch(name.strip())
        if match is None:
            raise ReellamaError(
                f"no such test: {name:.40}; take pp512, tg128, sp64, pp512+tg128, tg128 @ d1024 "
                "or tg128 x8"
            )
        depth, n_parallel = int(match[5] or 0), int(match[6] or 1)
        if match[3]:
            return cls("pg", int(match[3]), int(match[4]), depth, n_parallel)
        return cls(match[1], int(match[2]), depth=depth, n_parallel=n_parallel)
