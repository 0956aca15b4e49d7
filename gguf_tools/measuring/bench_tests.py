"""The tests of `bench`, under the names that llama-bench gives them."""

from __future__ import annotations

import re
from typing import NamedTuple

from reellama.gguf_tools.errors import ReellamaError

TEST_KINDS = ("pp", "tg", "sp", "pg")
TEST_NAME = re.compile(
    r"(?:(pp|tg|sp)([0-9]{1,9})|pp([0-9]{1,9})\+tg([0-9]{1,9}))(?: ?@ ?d([0-9]{1,9}))?"
)


class BenchTest(NamedTuple):
    """A timed test: "pp", "tg" or "sp" and the number of tokens, or "pg", which reads `n` tokens
    and generates `n_gen`; with so many positions in the KV cache before it."""

    kind: str
    n: int
    n_gen: int = 0
    depth: int = 0

    @property
    def n_tokens(self) -> int:
        """How many tokens are timed."""
        return self.n + self.n_gen

    def __str__(self) -> str:
        name = f"pp{self.n}+tg{self.n_gen}" if self.kind == "pg" else f"{self.kind}{self.n}"
        return f"{name} @ d{self.depth}" if self.depth else name

    @classmethod
    def parse(cls, name: str) -> BenchTest:
        """From its name. Raises ReellamaError for anything else.

        >>> BenchTest.parse("pp512+tg128 @ d1024")
        BenchTest(kind='pg', n=512, n_gen=128, depth=1024)
        """
        match = TEST_NAME.fullmatch(name.strip())
        if match is None:
            raise ReellamaError(
                f"no such test: {name:.40}; take pp512, tg128, sp64, pp512+tg128 or tg128 @ d1024"
            )
        depth = int(match[5] or 0)
        if match[3]:
            return cls("pg", int(match[3]), int(match[4]), depth)
        return cls(match[1], int(match[2]), depth=depth)
