"""Engine speed against llama.cpp's own, as ratios within one run: `python benchmarks/engine.py`.

Everything is measured in turns, several times, and medians are compared, so that a machine that
is slow at one moment is slow for all of them. Seconds differ between machines; ratios hardly.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from llama_cpp import llama_cpp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gguf_tools import backend, find, reader
from pipeline.context import default_threads
from pipeline.engine import Engine, Part, Text

N_GENERATED = 32  # tokens a repeat
N_READ = 128  # positions a repeat
N_VIDEO = 32  # soft tokens of a video
SYSTEM = "You answer questions about a short video. Be brief, and say only what can be seen."


@dataclass
class Result:
    """Median seconds of ours and of what it is compared with."""

    name: str
    seconds: float
    baseline: str
    baseline_seconds: float
    ratio: float
    limit: str
    passed: bool


def clock(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def in_turns(repeats: int, *actions: Callable[[], float]) -> list[float]:
    """The median of each action's seconds; one round that does not count comes first."""
    seconds = [[action() for action in actions] for _ in range(repeats + 1)][1:]
    return [median(column) for column in zip(*seconds, strict=True)]


@contextmanager
def bare_context(engine: Engine, threads: int) -> Iterator[Any]:
    """A llama_context of its own for the same model file, with no more than llama.cpp around it."""
    with backend.load_model(engine.path) as model:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = engine.n_ctx
        params.n_threads = params.n_threads_batch = threads
        ctx = llama_cpp.llama_init_from_model(model.ptr, params)
        yield ctx
        llama_cpp.llama_free(ctx)


def generation(engine: Engine, repeats: int, threads: int) -> Result:
    """engine.generate with its default probabilities, against decode and greedy in a bare loop."""
    prompt: list[Part] = [Text("Once upon a time there was")]
    prompt_ids = engine.tokenizer.encode("Once upon a time there was")
    said: dict[str, list[int]] = {}

    def ours() -> float:
        engine.clear()
        engine.prefill(prompt)
        ids: list[int] = []
        said["ours"] = ids
        tokens = engine.generate(prompt, max_tokens=N_GENERATED)
        seconds = clock(lambda: ids.extend(token.id for token in tokens))
        return seconds / len(ids)

    def bare() -> float:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ctx), False)
        start = (llama_cpp.llama_token * len(prompt_ids))(*prompt_ids)
        llama_cpp.llama_decode(ctx, llama_cpp.llama_batch_get_one(start, len(start)))
        sampler = llama_cpp.llama_sampler_init_greedy()
        ids: list[int] = []
        said["bare"] = ids
        token = (llama_cpp.llama_token * 1)()
        batch = llama_cpp.llama_batch_get_one(token, 1)

        def loop() -> None:
            while True:
                token[0] = llama_cpp.llama_sampler_sample(sampler, ctx, -1)
                ids.append(token[0])
                if len(ids) == N_GENERATED:  # as ours, the last token is not decoded
                    return
                llama_cpp.llama_decode(ctx, batch)

        seconds = clock(loop)
        llama_cpp.llama_sampler_free(sampler)
        return seconds / len(ids)

    with bare_context(engine, threads) as ctx:
        seconds, baseline = in_turns(repeats, ours, bare)
    assert said["ours"] == said["bare"], "the two said different things"
    return at_least("generate, a token", seconds, "bare loop", baseline, 0.95)


def soft_tokens(engine: Engine, repeats: int) -> Result:
    """Reading soft tokens, against reading as many text tokens."""
    ids = engine.tokenizer.encode(" A dog runs over the green grass and a bird flies by." * 20)
    ids = ids[:N_READ]
    rows = reader.token_embeddings(engine.path, ids)
    text: list[Part] = [Text(engine.tokenizer.decode(ids))]
    assert engine.count(text) == engine.count([rows]) == N_READ

    def read(prompt: list[Part]) -> float:
        engine.clear()
        return clock(lambda: engine.prefill(prompt))

    seconds, baseline = in_turns(repeats, lambda: read([rows]), lambda: read(text))
    return at_least(f"{N_READ} soft tokens", seconds, f"{N_READ} text tokens", baseline, 0.95)


def second_question(engine: Engine, repeats: int) -> Result:
    """First token of a second question about a video, against the first question's."""
    rng = np.random.default_rng(0)
    video = reader.token_embeddings(engine.path, rng.integers(100, 40000, N_VIDEO).tolist())
    first: list[Part] = [
        Text(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n", special=True),
        video,
        Text("\nWhat happens in this video, and which things can be seen in it?"),
        Text("<|im_end|>\n<|im_start|>assistant\n", special=True),
    ]

    def to_first_token(prompt: list[Part]) -> float:
        return clock(lambda: next(engine.generate(prompt)))

    times: list[tuple[float, float]] = []
    for _ in range(repeats + 1):
        engine.clear()
        one = to_first_token(first)
        answer = "".join(token.text for token in engine.generate(first, max_tokens=24))
        second: list[Part] = [
            *(*first, Text(answer)),
            Text("<|im_end|>\n<|im_start|>user\n", special=True),
            Text("What colour is it?"),
            Text("<|im_end|>\n<|im_start|>assistant\n", special=True),
        ]
        times.append((one, to_first_token(second)))
    baseline, seconds = (median(column) for column in zip(*times[1:], strict=True))
    ratio = seconds / baseline
    passed = ratio <= 0.25
    return Result("second question", seconds, "first question", baseline, ratio, "<= 0.25", passed)


def at_least(
    name: str, seconds: float, baseline: str, baseline_seconds: float, limit: float
) -> Result:
    """A result whose ratio is of speeds: 1 is as fast as the baseline."""
    ratio = baseline_seconds / seconds
    return Result(name, seconds, baseline, baseline_seconds, ratio, f">= {limit}", ratio >= limit)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=find.smollm2(), help="a GGUF file")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    options = parser.parse_args()
    with Engine(options.model, n_ctx=1024, n_threads=options.threads) as engine:
        results = [
            generation(engine, options.repeats, options.threads),
            soft_tokens(engine, options.repeats),
            second_question(engine, options.repeats),
        ]
    load = os.getloadavg()[0]
    if options.json:
        found = [asdict(result) for result in results]
        print(json.dumps({"load": load, "threads": options.threads, "results": found}))
    else:
        for r in results:
            print(
                f"{r.name:18} {r.seconds * 1000:8.2f} ms   {r.baseline:16} "
                f"{r.baseline_seconds * 1000:8.2f} ms   ratio {r.ratio:5.3f} "
                f"({r.limit}: {'yes' if r.passed else 'NO'})"
            )
        print(f"{options.threads} threads; load average {load:.1f}")
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
