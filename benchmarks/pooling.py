"""What pooling the tokens of a vision GGUF saves: a minute of 720p, until the first word.

    python -m benchmarks.pooling --plot docs/pooling      # the table, and docs/pooling.svg
    python -m benchmarks.pooling --mtmd-cli build/bin/llama-mtmd-cli --frames 8

The models have random weights (`benchmarks.helpers.random_vision_gguf`), so only what they cost
counts. The clip is drawn, and one frame a second is taken of it. Each measurement is a process of
its own; the frames go through the tower once, in the first.

frames       that the pooled tokens come from; the program does not encode the others, so that the
             time of the tower is that share of the whole
tokens       cells of the KV cache that the video fills, with its times as text
tower        seconds to read the frames and to encode them
prefill      seconds that llama.cpp reads the prompt
first token  seconds from the tower's output to the first token: pooling, prompt, prefill
ratio        of that to frames in full
second       of a second question: tokens that are read, and seconds to its first token. Without
             the question's own words and the template's around them nothing may be read
memory       most that the process held: the LLM, its KV cache, the tower and its output

`--cpu-time`, for a machine that is busy with other things, takes one thread and counts processor
time: seconds are then those of one core, and no less comparable.

With `--mtmd-cli` llama.cpp's own program gets the same files, prompt, threads and context, and the
frames as pictures; nothing is pooled. Both are timed from the loaded models to the first token.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.helpers.random_vision_gguf import NAMES, make_vision_gguf
from benchmarks.helpers.timing import Clock
from reellama.gguf_tools.locate.vision_models import VisionModel
from reellama.gguf_tools.measuring import plots
from reellama.gguf_tools.text.prompt_parts import SoftTokens, Text
from reellama.gguf_tools.threads import default_threads
from reellama.models.encoded_frames import EncodedFrames
from reellama.models.synthetic.assets.pictures import load_pictures
from reellama.models.synthetic.render import frame_times, render
from reellama.models.synthetic.scene_generation import random_scene
from reellama.models.synthetic.video_writer import write_video
from reellama.models.token_pooling.options import PoolingOptions
from reellama.models.vision_bundle import VisionBundle
from reellama.pipeline.chat.conversation import Chat, Video
from reellama.pipeline.chat.timings import peak_memory
from reellama.pipeline.llm.engine import Engine, Sampling
from reellama.pipeline.video.clip import Clip, read_frames

SIZE, FPS, SCENE_SECONDS = (1280, 720), 4, 10
METHODS = ("subsample", "adaptive_mean", "merge_similar")  # the last is what `auto` takes
BUDGETS = (256, 128, 64)
FULL = PoolingOptions(None, "full")
QUESTION = "What happens in this video? Say which things can be seen in it, and how they move."
SECOND = "What colour is it?"
ANSWER = Sampling(grammar='root ::= "A dog runs over the green grass."')
FRAME_CELLS = 196 + 16  # a frame's tokens, its time and room
CPU_TIME = "REELLAMA_BENCHMARK_CPU_TIME"  # tells processes of their own what --cpu-time says
TEXT_ROOM = 256  # cells of the context for the questions and the answer
LIMIT, PEER_LIMIT = 0.1, 0.95


@dataclass(frozen=True)
class Cost:
    """One measurement; times in seconds, memory in bytes."""

    frames: int
    tokens: int
    prefill: float
    first_token: float
    second_read: int
    second_own: int
    second_first_token: float
    memory: int


class ProcessClock(Clock):
    """Seconds on the wall, or of processes' processor time."""

    @classmethod
    def count_cpu_time(cls) -> None:
        """Take one thread from now on, in new processes too, and count its processor time."""
        os.environ.update({CPU_TIME: "1", "OMP_NUM_THREADS": "1"})
        cls.now = staticmethod(time.process_time)

    @classmethod
    def of(cls, process: psutil.Process) -> float:
        """The processor time of another process."""
        if CPU_TIME not in os.environ:
            return cls.now()
        times = process.cpu_times()
        return times.user + times.system


if CPU_TIME in os.environ:
    ProcessClock.count_cpu_time()


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own, so that its memory is its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as executor:
        return executor.submit(function, *arguments).result()


def draw_clip(path: Path, seconds: int) -> None:
    """A 720p video of things in motion, another scene every ten seconds."""
    pictures, frames = load_pictures(("shapes",)), []
    for seed in range(-(-seconds // SCENE_SECONDS)):
        scene = random_scene(np.random.default_rng(seed), pictures, size=SIZE)
        frames += list(render(scene, frame_times(scene.duration, SCENE_SECONDS * FPS)))
    write_video(path, frames[: seconds * FPS], fps=FPS)


def encode(model: VisionModel, clip: Path, frames: int) -> tuple[EncodedFrames, float]:
    """The tower's output for frames of a clip, and the seconds that it took to read and encode
    them; loading the tower is not counted."""
    bundle = VisionBundle(model.llm, model.mmproj)
    bundle.tower.layout(*SIZE)
    began = ProcessClock.now()
    read = read_frames(clip, frames=frames, max_side=bundle.max_side)
    encoded = bundle.encode(read.frames, read.times)
    return encoded, ProcessClock.now() - began


def measure(model: VisionModel, video: EncodedFrames, options: PoolingOptions) -> Cost:
    """Two questions about a video whose frames are encoded."""
    bundle = VisionBundle(model.llm, model.mmproj)
    plan = bundle.plan(video, options)
    with Engine(model.llm, n_ctx=plan.total + TEXT_ROOM) as engine:
        began = ProcessClock.now()
        parts = bundle.prompt_parts(video, options)
        path = Path("video")
        chat = Chat(engine, videos=[Video(path, parts, Clip([], video.times, 0.0, path))])
        pooled = ProcessClock.now()
        engine.prefill(chat.prompt(QUESTION))
        prefill = ProcessClock.now() - pooled
        with closing(chat.ask(QUESTION, sampling=ANSWER)) as tokens:
            next(tokens)
            first_token = ProcessClock.now() - began
            n_answer = 1 + sum(1 for _ in tokens)
        turn = engine.count(chat.prompt(QUESTION)) + n_answer
        own = engine.count(chat.prompt(SECOND, chat.turns)) - turn
        began = ProcessClock.now()
        with closing(chat.ask(SECOND)) as tokens:
            next(tokens)
        second = ProcessClock.now() - began
        read, cells = engine.last.n_read, engine.count(parts)
    return Cost(plan.frames, cells, prefill, first_token, read, own, second, peak_memory())


def middle(costs: Sequence[Cost]) -> Cost:
    """The median of each figure."""
    columns = zip(*(vars(cost).values() for cost in costs), strict=True)
    return Cost(*(median(column) for column in columns))


def measure_all(
    model: VisionModel, video: EncodedFrames, budgets: Sequence[int], rounds: int
) -> dict[tuple[str, int], Cost]:
    """All poolings at all budgets, in rounds, with frames in full once in the middle of them."""
    found: dict[tuple[str, int], list[Cost]] = {("full", 0): []}
    for number in range(rounds):
        if number == rounds // 2:
            found["full", 0] += [in_new_process(measure, model, video, FULL)]
        for budget in budgets:
            for method in METHODS:
                options = PoolingOptions(budget, method)
                cost = in_new_process(measure, model, video, options)
                found.setdefault((method, budget), []).append(cost)
    return {row: middle(costs) for row, costs in found.items()}


def print_table(
    console: Console, rows: dict[tuple[str, int], Cost], tower: float, n_frames: int
) -> bool:
    """The table and its targets; returns whether they were met."""
    names = ("frames", "tokens", "tower", "prefill", "first token", "ratio", "second", "memory")
    table = Table("pooling", "budget", *names, box=None)
    full = rows["full", 0].first_token
    for (method, budget), cost in rows.items():
        table.add_row(
            method,
            str(budget or "-"),
            str(cost.frames),
            str(cost.tokens),
            f"{tower * cost.frames / n_frames:.1f} s",
            f"{cost.prefill:.2f} s",
            f"{cost.first_token:.2f} s",
            f"{cost.first_token / full:.4f}",
            f"{cost.second_read}, {cost.second_first_token:.2f} s",
            f"{cost.memory / 2**20:.0f} MiB",
        )
    console.print(table)
    ratio = rows["merge_similar", 256].first_token / full
    alone = all(cost.second_read <= cost.second_own for cost in rows.values())
    console.print(
        f"256 tokens: {ratio:.4f} of the time of frames in full ({verdict(ratio <= LIMIT)})"
    )
    console.print(f"a second question reads only its own words: {verdict(alone)}")
    return ratio <= LIMIT and alone


def verdict(met: bool) -> str:
    return "yes" if met else "NO"


def plot(path: Path, found: dict[str, dict[tuple[str, int], Cost]], subtitle: str) -> None:
    """Seconds to the first token over tokens, a line a model: frames in full and `auto`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=plots.SIZE, dpi=plots.DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot(facecolor="white")
    for (name, rows), colour, mark in zip(
        found.items(), (plots.FRONT, "#c0561a"), "os", strict=False
    ):
        kept = [row for row in rows if row[0] in ("full", METHODS[-1])]
        costs = sorted((rows[row].tokens, rows[row].first_token) for row in kept)
        axes.plot(*zip(*costs, strict=True), f"{mark}-", color=colour, label=name)
        for tokens, seconds in costs:
            axes.annotate(
                f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s",
                (tokens, seconds),
                (0, 7),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.1)
    axes.set_xlabel("tokens of the video; the last point of a line is its frames in full")
    axes.set_ylabel("seconds to the first token, tower not counted")
    axes.set_title(f"A minute of video in fewer tokens\n{subtitle}", fontsize=11)
    axes.grid(True, which="both", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=True, facecolor="white", fontsize=8)
    plots.write(figure, path)


def ours_to_first_token(
    model: VisionModel, pictures: Sequence[Path], n_ctx: int
) -> tuple[float, list[str | None]]:
    """Seconds from loaded models to the first token, pictures in full; and the user's message: its
    texts, and None for each picture."""
    bundle = VisionBundle(model.llm, model.mmproj)
    with Engine(model.llm, n_ctx=n_ctx) as engine, bundle.tower:
        Chat(engine).prompt("?")  # llama-mtmd-cli too fills a template in as it loads
        began = ProcessClock.now()
        frames = [np.asarray(Image.open(path).convert("RGB")) for path in pictures]
        video = bundle.encode(frames, np.arange(len(frames), dtype=np.float64))
        parts = bundle.prompt_parts(video, FULL)
        clip = Clip([], video.times, 0.0, pictures[0])
        chat = Chat(engine, videos=[Video(pictures[0], parts, clip)])
        with closing(chat.ask(QUESTION, n_probs=0)) as tokens:
            next(tokens)
        seconds = ProcessClock.now() - began
    message = [
        part.text if isinstance(part, Text) else None
        for part in parts
        if isinstance(part, Text | SoftTokens)
    ]
    return seconds, [*message, "\n" + QUESTION]


def theirs_to_first_token(
    program: Path,
    model: VisionModel,
    pictures: Sequence[Path],
    message: Sequence[str | None],
    n_ctx: int,
) -> float:
    """Seconds of llama-mtmd-cli from its last word on loading to its first word on stdout."""
    prompt = "".join("<__media__>" if text is None else text for text in message)
    command: list[str | Path] = [program, "-m", model.llm, "--mmproj", model.mmproj, "-p", prompt]
    for path in pictures:
        command += ["--image", path]
    command += [
        "-c",
        str(n_ctx),
        "-t",
        str(default_threads()),
        "-n",
        "1",
        "--temp",
        "0",
        "--no-warmup",
    ]
    with psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stderr:
            if b"experimental CLI" in line:
                break
        else:
            raise SystemExit(f"{program} did not load the models")
        began = ProcessClock.of(process)
        process.stdout.read(1)
        seconds = ProcessClock.of(process) - began
        process.communicate()
    return seconds


def compare_peer(
    console: Console, program: Path, model: VisionModel, clip: Path, frames: int, rounds: int
) -> bool:
    """Time to the first token in turns with llama-mtmd-cli; returns whether ours is no later."""
    read = read_frames(clip, frames=frames)
    pictures = [clip.with_name(f"{number:03}.png") for number in range(frames)]
    for path, pixels in zip(pictures, read.frames, strict=True):
        Image.fromarray(pixels).save(path)
    n_ctx = frames * FRAME_CELLS + TEXT_ROOM
    times = []
    for _ in range(rounds):
        ours, message = in_new_process(ours_to_first_token, model, pictures, n_ctx)
        times.append((ours, theirs_to_first_token(program, model, pictures, message, n_ctx)))
    ours, theirs = (median(column) for column in zip(*times, strict=True))
    ratio = median(theirs / ours for ours, theirs in times)
    console.print(
        f"{frames} frames in full: {ours:.2f} s to the first token, llama-mtmd-cli {theirs:.2f} s: "
        f"ratio {ratio:.3f} (>= {PEER_LIMIT}: {verdict(ratio >= PEER_LIMIT)})"
    )
    return ratio >= PEER_LIMIT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=Path, help="a folder for the models; they are kept there")
    parser.add_argument("--llm", choices=NAMES, nargs="+", default=NAMES)
    parser.add_argument("--frames", type=int, default=60, help="one a second")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="256 among them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="4 frames, one round: no target")
    parser.add_argument("--cpu-time", action="store_true", help="of one thread")
    parser.add_argument("--plot", type=Path, metavar="PREFIX", help="PREFIX.svg and PREFIX.png")
    parser.add_argument("--mtmd-cli", type=Path, metavar="PATH", help="compare with this alone")
    options = parser.parse_args()
    if options.cpu_time:
        ProcessClock.count_cpu_time()
    if options.quick:
        options.frames, options.budgets, options.rounds = 4, (256,), 1
    if options.plot:
        plots.check()
    console, met, found = Console(width=120), True, {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        clip = work / "clip.mp4"
        in_new_process(draw_clip, clip, options.frames)
        for name in options.llm:
            model = in_new_process(make_vision_gguf, name, options.models or work)
            console.print(f"\n{name}, {options.frames} s of 720p")
            if options.mtmd_cli:
                met &= compare_peer(
                    console, options.mtmd_cli, model, clip, options.frames, options.rounds
                )
                continue
            video, tower = in_new_process(encode, model, clip, options.frames)
            found[name] = measure_all(model, video, options.budgets, options.rounds)
            met &= print_table(console, found[name], tower, options.frames)
    clock = f"wall time, {default_threads()} threads"
    if options.cpu_time:
        clock = "processor time of one thread"
    console.print(f"{clock}; load average {os.getloadavg()[0]:.1f}")
    if options.plot and found:
        plot(options.plot, found, f"{options.frames} frames, 196 tokens each; {clock}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
