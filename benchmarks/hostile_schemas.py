"""Does any JSON schema end the process that reads it, or get past the limits?

    python -m benchmarks.hostile_schemas --schemas 100000

Schemas are drawn as the tests draw them, with a seed. Each is taken, and then followed by
llama.cpp here, or refused with a reason; how often the child died is counted too.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from llama_cpp import llama_cpp

from reellama.gguf_tools.runtime.backend import load_model
from reellama.models.bundle import Bundle
from reellama.pipeline.llm.token_sampling import grammar_sampler
from reellama.pipeline.server.sandbox.sandbox import SandboxChild, SandboxError
from tests.helpers.hostile_schemas import schemas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schemas", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begin = time.monotonic()
    outcomes = run(arguments.schemas, arguments.seed)
    for outcome, n in outcomes.most_common():
        print(f"{n:8d}  {outcome}")
    print(f"{sum(outcomes.values())} schemas, {time.monotonic() - begin:.0f} s")


def run(n_schemas: int, seed_: int) -> Counter[str]:
    """How often each outcome was seen."""
    outcomes: Counter[str] = Counter()
    child = SandboxChild()
    with load_model(Bundle.load("mini").llm_path(), vocab_only=True) as model:

        @seed(seed_)
        @settings(
            max_examples=n_schemas,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(schemas())
        def try_one(schema: dict[str, Any]) -> None:
            try:
                text = child.ask("grammar", schema=schema, model=str(model.path))["gbnf"]
            except SandboxError as error:
                # Without what differs from schema to schema.
                outcomes[re.sub(r"'.*|\d+|\{.*", "…", str(error))[:90]] += 1
            else:
                llama_cpp.llama_sampler_free(grammar_sampler(text, model))
                outcomes["taken"] += 1

        try_one()
    child.close()
    return outcomes


if __name__ == "__main__":
    main()
