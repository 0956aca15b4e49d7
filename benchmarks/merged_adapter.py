"""What merging a bundle's LoRA adapter into its LLM costs: `python -m benchmarks.merged_adapter`.

The LLM with the adapter beside it is the reference. For drawn clips, and for `--videos` of your
own, it answers a question and describes what it sees; each merged file then reads the same prompts
and answers: the KL divergence of its next tokens, how often its likeliest token is the same, and
how many of its own answers are. Speed is that of one thread's processor time, against the LLM
without any adapter, so that a busy machine tells the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.helpers.timing import PROMPT, generation_speed, in_turns
from reellama.gguf_tools.measuring.divergence import TokenDifferences, token_differences
from reellama.gguf_tools.quantization.merged_llm import make_merged
from reellama.gguf_tools.quantization.quantize import quantize
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.evaluation.tasks.benchmark_tasks import TASKS
from reellama.pipeline.evaluation.tasks.synthetic_benchmark import benchmark_items
from reellama.pipeline.llm.engine import Engine, Prompt, Text, TokenIds

MAX_TOKENS = 32  # of an answer
N_GENERATED = 32  # tokens whose speed is measured


@dataclass
class Asked:
    """A prompt, what the reference answered, and its logits there."""

    prompt: Prompt
    ids: list[int]
    logits: np.ndarray  # float32 [ids, n_vocab]


@dataclass
class Candidate:
    """A way to run the LLM, and what was measured of it."""

    name: str
    engine: Engine
    n_bytes: int
    seconds: float = 0.0  # to make it
    differences: list[TokenDifferences] = field(default_factory=list)
    same_answers: int = 0
    speeds: list[float] = field(default_factory=list)  # of generation
    reading: list[float] = field(default_factory=list)  # speeds of reading a prompt


def prompts(video_chat: VideoChat, videos: Sequence[tuple[Path, str]]) -> list[Prompt]:
    """A question about each video, and the request for a description."""
    found = []
    for path, question in videos:
        video_chat.conversation.clear()
        video_chat.conversation.videos = []
        video_chat.add(path)
        found += [
            video_chat.conversation.prompt(asked)
            for asked in (question, video_chat.bundle.describe)
        ]
    return found


def answer(engine: Engine, prompt: Prompt) -> list[int]:
    return [token.id for token in engine.generate(prompt, max_tokens=MAX_TOKENS, n_probs=0)]


def logits_of(engine: Engine, prompt: Prompt, ids: list[int]) -> np.ndarray:
    """The logits before each token of an answer, float32 `[ids, n_vocab]`."""
    rows = []
    for n in range(len(ids)):
        engine.prefill([*prompt, TokenIds(tuple(ids[:n]))] if n else prompt)  # one more position
        rows.append(engine._ctx.logits_at(-1).copy())
    return np.stack(rows)


def measure(candidate: Candidate, asked: Sequence[Asked]) -> None:
    for each in asked:
        logits = logits_of(candidate.engine, each.prompt, each.ids)
        found = token_differences(logits, each.logits, np.array(each.ids))
        candidate.differences.append(found)
        candidate.engine.clear()
        candidate.same_answers += answer(candidate.engine, each.prompt) == each.ids


def reading(engine: Engine) -> float:
    """Positions of a prompt a second of this thread's processor time."""
    engine.clear()
    begin = time.thread_time()
    engine.prefill([Text(PROMPT * 8)])
    return engine.last.n_read / (time.thread_time() - begin)


def speeds(engine: Engine) -> tuple[float, float]:
    """Speeds of reading and of generating, by this thread's processor time."""
    return reading(engine), generation_speed(engine, N_GENERATED, now=time.thread_time)


def measure_speeds(candidates: Sequence[Candidate], repeats: int) -> None:
    """Measure the speeds of reading and generating of all candidates, in turns."""
    actions = [partial(speeds, candidate.engine) for candidate in candidates]
    for found in in_turns(repeats, *actions):
        for candidate, (read, generated) in zip(candidates, found, strict=True):
            candidate.reading.append(read)
            candidate.speeds.append(generated)


def open_candidates(video_chat: VideoChat, types: Sequence[str], folder: Path) -> list[Candidate]:
    """The LLM without an adapter, with it beside, merged as it is kept, and merged by types."""
    path, lora = video_chat.bundle.llm_path(), video_chat.bundle.lora
    n_lora = sum(file.stat().st_size for file, _ in lora)
    beside = Candidate("adapter beside", video_chat.engine, path.stat().st_size + n_lora)
    base = Candidate("no adapter", Engine(path, n_ctx=1024, n_threads=1), path.stat().st_size)
    begin = time.perf_counter()
    kept = make_merged(path, lora, folder / "kept")
    seconds = time.perf_counter() - begin
    assert kept is not None, "it would be too large to be kept"
    own = Candidate(
        "merged, as it is kept",
        Engine(kept, n_ctx=1024, n_threads=1),
        kept.stat().st_size,
        seconds,
    )
    candidates = [base, beside, own]
    for type_ in types:
        [made] = quantize(
            path,
            type_,
            folder / f"{type_}.gguf",
            loras=lora,
            embedding_type="Q8_0",
            n_threads=1,
        )
        engine = Engine(made.path, n_ctx=1024, n_threads=1)
        size = made.path.stat().st_size
        candidates.append(Candidate(f"merged {type_}", engine, size, made.seconds))
    return candidates


def table(candidates: Sequence[Candidate], base: Candidate, n_answers: int) -> None:
    print(
        "| LLM | MiB | made in | KL mean | KL 99% | same top | same answers | reading | writing |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for each in candidates:
        kl = np.concatenate([d.kl for d in each.differences])
        same = np.concatenate([d.same_top for d in each.differences])
        writes = median(a / b for a, b in zip(each.speeds, base.speeds, strict=True))
        reads = median(a / b for a, b in zip(each.reading, base.reading, strict=True))
        print(
            f"| {each.name} | {each.n_bytes / 2**20:.1f} | {each.seconds:.1f} s | {kl.mean():.4f} "
            f"| {np.quantile(kl, 0.99):.3f} | {same.mean():.1%} | {each.same_answers} of "
            f"{n_answers} | {reads:.2f} | {writes:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="mini")
    parser.add_argument("--types", default="Q4_1,Q5_1,Q8_0,F16", help="of the merged matrices")
    parser.add_argument("--clips", type=int, default=1, help="drawn clips of each of 14 tasks")
    parser.add_argument("--videos", type=Path, nargs="*", default=[], help="of your own")
    parser.add_argument("--repeats", type=int, default=5, help="of the speed")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        VideoChat(bundle=options.bundle, n_ctx=1024, n_threads=1) as video_chat,
    ):
        folder = Path(name)
        drawn = benchmark_items("new-clips", options.clips, 1, folder, tasks=tuple(TASKS))
        videos = [(item.video, item.question) for item in drawn]
        videos += [(path, "What is in the video?") for path in options.videos]
        asked = []
        for prompt in prompts(video_chat, videos):
            if ids := answer(video_chat.engine, prompt):
                video_chat.engine.clear()
                asked.append(Asked(prompt, ids, logits_of(video_chat.engine, prompt, ids)))
        candidates = open_candidates(video_chat, options.types.split(","), folder)
        for candidate in candidates:
            measure(candidate, asked)
        measure_speeds(candidates, options.repeats)
        table(candidates, candidates[0], len(asked))
        for candidate in candidates:
            candidate.engine.close()


if __name__ == "__main__":
    main()
