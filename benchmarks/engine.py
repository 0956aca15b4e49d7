"""Engine speed against llama.cpp's own, as ratios within one run: `python -m benchmarks.engine`.

Everything is measured in turns, many times, and a ratio is the median of the rounds' ratios, so
that a machine that is slow at one moment is slow for both. Seconds differ between machines; ratios
hardly.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from llama_cpp import llama_cpp

from benchmarks.helpers.timing import Clock, in_turns
from reellama import prompts
from reellama.gguf_tools.format import reader
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.threads import default_threads
from reellama.pipeline.chat.conversation import Chat, Video
from reellama.pipeline.llm.engine import Engine, PromptPart, Sampling, Text
from reellama.pipeline.video.clip import Clip

N_GENERATED = 32  # tokens a repeat
N_READ = 128  # positions a repeat
N_VIDEO = 32  # soft tokens of a video
QUESTION = "What happens in this video? Say which things can be seen in it, and how they move."


@dataclass
class Result:
    """Median seconds of the engine and of its baseline, and the median ratio of a round."""

    name: str
    seconds: float
    baseline: str
    baseline_seconds: float
    ratio: float
    limit: str
    passed: bool


def seconds_of(action: Callable[[], object]) -> float:
    begin = Clock.now()
    action()
    return Clock.now() - begin


@contextmanager
def bare_context(engine: Engine, threads: int) -> Iterator[Any]:
    """A separate llama_context for the same model, used through llama.cpp's own functions."""
    with backend.load_model(engine.path) as model:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = engine.n_ctx
        params.n_threads = params.n_threads_batch = threads
        ctx = llama_cpp.llama_init_from_model(model.ptr, params)
        yield ctx
        llama_cpp.llama_free(ctx)


def generation(engine: Engine, repeats: int, threads: int) -> Result:
    """engine.generate with its default probabilities, against decode and greedy in a bare loop."""
    prompt: list[PromptPart] = [Text("Once upon a time there was")]
    prompt_ids = engine.tokenizer.encode("Once upon a time there was")
    said: dict[str, list[int]] = {}

    def ours() -> float:
        engine.clear()
        engine.prefill(prompt)
        ids: list[int] = []
        said["ours"] = ids
        tokens = engine.generate(prompt, max_tokens=N_GENERATED)
        seconds = seconds_of(lambda: ids.extend(token.id for token in tokens))
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

        seconds = seconds_of(loop)
        llama_cpp.llama_sampler_free(sampler)
        return seconds / len(ids)

    with bare_context(engine, threads) as ctx:
        rounds = in_turns(repeats, ours, bare)
    assert said["ours"] == said["bare"], "the two said different things"
    return at_least("generate, a token", "bare loop", rounds, 0.95)


def soft_tokens(engine: Engine, repeats: int) -> Result:
    """Reading soft tokens, against reading as many text tokens."""
    ids = engine.tokenizer.encode(" A dog runs over the green grass and a bird flies by." * 20)
    ids = ids[:N_READ]
    rows = reader.token_embeddings(engine.path, ids)
    text: list[PromptPart] = [Text(engine.tokenizer.decode(ids))]
    assert engine.count(text) == engine.count([rows]) == N_READ

    def read(prompt: list[PromptPart]) -> float:
        engine.clear()
        return seconds_of(lambda: engine.prefill(prompt))

    rounds = in_turns(repeats, lambda: read([rows]), lambda: read(text))
    return at_least(f"{N_READ} soft tokens", f"{N_READ} text tokens", rounds, 0.95)


def second_question(engine: Engine, repeats: int) -> Result:
    """First token of a second question about a video, against the first question's."""
    rng = np.random.default_rng(0)
    video = reader.token_embeddings(engine.path, rng.integers(100, 40000, N_VIDEO).tolist())
    said = "A dog runs over the green grass."
    path = Path("video")
    clip = Clip([], np.zeros(0), 0.0, path)
    chat = Chat(engine, system=prompts.load("system"), videos=[Video(path, [video], clip)])
    answer = Sampling(grammar=f'root ::= "{said}"')

    def to_first_token(question: str) -> float:
        with closing(chat.ask(question)) as tokens:
            return seconds_of(lambda: next(tokens))

    times: list[tuple[float, float]] = []
    for _ in range(repeats + 1):
        engine.clear()
        chat.clear()
        one = to_first_token(QUESTION)
        n_first = engine.last.n_read
        chat.clear()
        assert "".join(token.text for token in chat.ask(QUESTION, sampling=answer)) == said
        chat.read_ahead()  # as `reellama chat` does while the person reads the answer
        times.append((one, to_first_token("What colour is it?")))
    read = engine.last.n_read
    baseline, seconds = (median(column) for column in zip(*times[1:], strict=True))
    ratio = median(second / first for first, second in times[1:])
    names = f"2nd question ({read})", f"1st question ({n_first})"  # positions read
    return Result(names[0], seconds, names[1], baseline, ratio, "<= 0.25", ratio <= 0.25)


def at_least(name: str, baseline: str, rounds: Sequence[tuple[float, ...]], limit: float) -> Result:
    """A result whose ratio is of speeds: 1 is as fast as the baseline."""
    seconds, baseline_seconds = (median(column) for column in zip(*rounds, strict=True))
    ratio = median(theirs / ours for ours, theirs in rounds)
    return Result(name, seconds, baseline, baseline_seconds, ratio, f">= {limit}", ratio >= limit)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=find.smollm2(), help="a GGUF file")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="on one thread, count processor time: for a machine that is busy with other things",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    options = parser.parse_args()
    if options.cpu_time:
        options.threads = 1
        Clock.now = staticmethod(time.thread_time)
    with Engine(options.model, n_ctx=1024, n_threads=options.threads) as engine:
        results = [
            generation(engine, options.repeats, options.threads),
            soft_tokens(engine, options.repeats),
            second_question(engine, options.repeats),
        ]
    load = os.getloadavg()[0]
    if options.json:
        found = [asdict(result) for result in results]
        about = {"load": load, "threads": options.threads, "cpu_time": options.cpu_time}
        print(json.dumps({**about, "results": found}))
    else:
        for r in results:
            print(
                f"{r.name:17} {r.seconds * 1000:8.2f} ms   {r.baseline:17} "
                f"{r.baseline_seconds * 1000:8.2f} ms   ratio {r.ratio:5.3f} "
                f"({r.limit}: {'yes' if r.passed else 'NO'})"
            )
        print(f"{options.threads} threads; load average {load:.1f}")
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
