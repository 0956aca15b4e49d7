"""How long until the first word: `python -m benchmarks.first_word`.

Everything is measured in turns within one run, quiet and then beside one busy process, and each
figure is the median ratio of the rounds, so that it says something on any machine. A clip that was
not seen before is the same clip with other bytes behind its last box, and what LLMs made of the
same frames is removed: no cache knows it.

    --llama-bench build/bin/llama-bench    compares generation with llama.cpp's own tool as well
    --mtmd-cli build/bin/llama-mtmd-cli    the first word about a clip with its vision program
    --rows ask memory                      these alone

llama-mtmd-cli gets the pictures that it takes of a video, four a second, as files: it would call
ffmpeg for them. Its time begins when its models are loaded, as that of the warm process does.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image

from benchmarks.helpers.timing import PROMPT, generation_speed, in_turns
from reellama.gguf_tools.quantization.merged_llm import MERGED_LLMS, make_merged
from reellama.gguf_tools.threads import default_threads
from reellama.models.bundle import Bundle
from reellama.models.cache_folders import KV_CACHE_STATES
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.llm.engine import Engine, Text
from reellama.pipeline.video.clip import read_frames
from reellama.pipeline.video.read_options import VideoReadOptions

QUESTION = "What happens in the video?"
N_GENERATED = 64  # tokens a repeat, at most
SECONDS = 3.0  # of a repeat, at most: threads that wait for each other crawl
BUSY = "while True: pass"
REELLAMA = (sys.executable, "-m", "reellama.pipeline.cli.main")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)  # pip compiles what it installs
ROWS = ("ask", "adapter", "threads", "memory")
MAX_MEMORY = 500 << 20  # bytes
MTMD_LOADED = b"experimental CLI"  # its last line on loading
MTMD_FPS, MTMD_CELLS = 4, 256  # pictures a second that it takes; positions of one, at most


@dataclass(frozen=True)
class Row:
    """A figure: the median ratio of the rounds, the medians it is made of, and its limit."""

    name: str
    ratio: float
    detail: str
    limit: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit

    def __str__(self) -> str:
        sign, mark = (">=" if self.at_least else "<="), ("yes" if self.passed else "NO")
        return f"{self.name:48} {self.ratio:6.2f}  ({sign} {self.limit}: {mark})  {self.detail}"


def compared(
    name: str, rounds: list[tuple[float, float]], limit: float, *, at_least: bool = False
) -> Row:
    """The first of each pair over the second; both are seconds, or both are tokens a second."""
    one, other = (median(column) for column in zip(*rounds, strict=True))
    unit = "tokens/s" if at_least else "s"
    ratio = median(a / b for a, b in rounds)
    return Row(name, ratio, f"{one:.2f} {unit} against {other:.2f}", limit, at_least)


@contextmanager
def busy_process() -> Iterator[None]:
    """One process beside this one that never waits."""
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        try:
            yield
        finally:
            process.kill()


class Clips:
    """The same clip again and again, each time as a file that nobody has seen."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made, self.cache = folder, 0, folder / "cache"
        ENVIRONMENT["REELLAMA_CACHE"] = str(self.cache)
        bundle = Bundle.load()
        make_merged(bundle.llm_path(), bundle.lora, self.cache / MERGED_LLMS.name)
        self.path = folder / "clip.mp4"
        subprocess.run([*REELLAMA, "demo-video", self.path], env=ENVIRONMENT, check=True)

    def fresh(self) -> Path:
        """A copy with 16 random bytes in a box that says nothing."""
        shutil.rmtree(self.cache / KV_CACHE_STATES.name, ignore_errors=True)
        self.made += 1
        path = self.folder / f"clip-{self.made}.mp4"
        path.write_bytes(self.path.read_bytes() + b"\0\0\0\x18free" + os.urandom(16))
        return path


def cold(clip: Path, *options: str) -> float:
    """Seconds from the start of `reellama ask` to its first word."""
    command = [*REELLAMA, "ask", str(clip), QUESTION, *options]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        said = process.stdout.read(1)
        seconds = time.perf_counter() - begin
        process.stdout.read()
    assert said and process.returncode == 0, "reellama ask failed"
    return seconds


@contextmanager
def server(log: Path) -> Iterator[None]:
    """`reellama serve` in a process of its own, which every `ask` without --no-server finds."""
    command = [*REELLAMA, "serve", "--port", "0", "--log-level", "error"]
    with log.open("w") as out, subprocess.Popen(command, stderr=out, env=ENVIRONMENT) as process:
        try:
            while "serving on" not in log.read_text():
                if process.poll() is not None:
                    raise SystemExit(f"the server ended:\n{log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(30)


def warm(video_chat: VideoChat, clip: Path) -> float:
    """Seconds to the first word in a process that has everything loaded."""
    video_chat.engine.clear()
    video_chat.conversation.clear()
    video_chat.conversation.videos = []
    begin = time.perf_counter()
    video_chat.add(clip)
    with closing(video_chat.stream(QUESTION)) as tokens:
        next(token for token in tokens if token.text.strip())
        return time.perf_counter() - begin


def asking(clips: Clips, video_chat: VideoChat, repeats: int) -> list[Row]:
    """A cold `ask`, a second one about the same clip, a process that is warm, and `ask` where a
    server runs, in turns."""
    rounds = []
    with server(clips.folder / "server.log"):
        for _ in range(repeats + 1):
            clip = clips.fresh()
            first, second = cold(clip, "--no-server"), cold(clip, "--no-server")
            rounds.append((first, second, warm(video_chat, clips.fresh()), cold(clips.fresh())))
    del rounds[0]  # from here on the files are in the page cache, and the server has its models
    return [
        compared("cold ask, against a warm process", [(a, w) for a, _, w, _ in rounds], 2.0),
        compared("second ask about a clip, to the first", [(b, a) for a, b, _, _ in rounds], 0.5),
        compared("ask with a server, against a warm process", [(s, w) for *_, w, s in rounds], 2.0),
    ]


def one_ask(clips: Clips) -> list[Row]:
    """What `ask` imports, and the most memory that it has."""
    command = [
        sys.executable,
        "-X",
        "importtime",
        *REELLAMA[1:],
        "ask",
        str(clips.fresh()),
        QUESTION,
    ]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    imports = len(re.findall(r"\| +torch$", done.stderr, re.MULTILINE))
    peak = json.loads(done.stdout)["timings"]["peak_memory"]
    return [
        Row("ask imports torch", imports, "1 if it does", 0),
        Row("peak memory of ask, of 500 MiB", peak / MAX_MEMORY, f"{peak / 2**20:.0f} MiB", 1.0),
    ]


def speed(engine: Engine) -> float:
    """Tokens a second that an engine generates."""
    return generation_speed(engine, N_GENERATED, seconds=SECONDS)


def shipped() -> VideoChat:
    """`mini` as `reellama chat` opens it."""
    return VideoChat(n_ctx=1024, merged=MERGED_LLMS, merge=True)


def adapter(video_chat: VideoChat, repeats: int) -> Row:
    """Generation as it is shipped, against the bundle's LLM without any adapter."""
    with Engine(video_chat.bundle.llm_path(), n_ctx=1024) as base:
        rounds = in_turns(repeats, lambda: speed(video_chat.engine), lambda: speed(base))
    pairs = [(ours, theirs) for ours, theirs in rounds]
    return compared("generation with the adapter, against without", pairs, 0.97, at_least=True)


def threads(repeats: int) -> Row:
    """The default number of threads, against each number up to the cores: the best one counts."""
    path = Bundle.load().llm_path()
    numbers = range(1, default_threads() + 1)
    engines = [Engine(path, n_ctx=1024, n_threads=n) for n in (None, *numbers)]
    try:
        rounds = in_turns(repeats, *(lambda engine=e: speed(engine) for e in engines))
    finally:
        for engine in engines:
            engine.close()
    medians = [median(column) for column in zip(*rounds, strict=True)]
    best = max(range(1, len(medians)), key=lambda i: medians[i])
    pairs = [(found[best], found[0]) for found in rounds]  # of speeds: how much slower it is
    row = compared(f"best --threads ({best}), against the default", pairs, 2.0)
    return Row(row.name, row.ratio, row.detail.replace(" s ", " tokens/s "), row.limit)


def against_llama_bench(program: Path, repeats: int) -> Row:
    """128 tokens by the engine, as `ask` uses it, and by `llama-bench -n 128`, which chooses none.
    Each with the number of threads that it has by default."""
    path = Bundle.load().llm_path()

    def theirs() -> float:
        command = f"{program} -p 0 -n 128 -r 1 --repack 0 -o json".split()
        done = subprocess.run([*command, "-m", path], capture_output=True, text=True, check=True)
        text = done.stdout
        return float(json.loads(text[text.index("[") : text.rindex("]") + 1])[0]["avg_ts"])

    def ours() -> float:
        engine.clear()
        tokens = engine.generate([Text(PROMPT)], max_tokens=128, n_probs=0)
        n = sum(1 for _ in tokens)
        return n / engine.last.generate_seconds

    with Engine(path, n_ctx=1024) as engine:
        pairs = [(a, b) for a, b in in_turns(repeats, ours, theirs)]
    return compared("generation, against llama-bench tg128", pairs, 0.95, at_least=True)


def against_mtmd(program: Path, clips: Clips, video_chat: VideoChat, repeats: int) -> Row:
    """A warm process about a clip, and llama-mtmd-cli about its pictures, with the same LLM."""
    from benchmarks.helpers.random_vision_gguf import NAMES, make_vision_gguf

    model = make_vision_gguf(NAMES[0], clips.folder / "mtmd")
    pictures = [clips.folder / f"{i:03}.png" for i in range(int(6 * MTMD_FPS))]
    read = read_frames(clips.path, VideoReadOptions(frames=len(pictures)))
    for path, pixels in zip(pictures, read.frames, strict=True):
        Image.fromarray(pixels).save(path)
    prompt = "<__media__>" * len(pictures) + QUESTION
    command: list[str | Path] = [
        program,
        "-m",
        model.llm,
        "--mmproj",
        model.mmproj,
        "-p",
        prompt,
        "-n",
        "1",
    ]
    command += ["-t", str(default_threads()), "-c", str((len(pictures) + 1) * MTMD_CELLS)]
    command += ["--temp", "0", "--no-warmup", "--image", ",".join(map(str, pictures))]

    def theirs() -> float:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stderr is not None
            if not any(MTMD_LOADED in line for line in process.stderr):
                raise SystemExit(f"{program} did not load the models")
            began = time.perf_counter()
            process.stdout.read(1)
            seconds = time.perf_counter() - began
            process.communicate()
        return seconds

    pairs = [(theirs(), warm(video_chat, clips.fresh())) for _ in range(repeats)]
    row = compared(f"llama-mtmd-cli, {len(pictures)} pictures, to a warm process", pairs, 30.0)
    return Row(row.name, row.ratio, row.detail, row.limit, at_least=True)


def rows_of(
    asked: argparse.Namespace, condition: str, clips: Clips, video_chat: VideoChat
) -> list[Row]:
    """The rows that were asked for, in one condition."""
    repeats, found = asked.repeats, list[Row]()
    with busy_process() if condition == "busy" else nullcontext():
        if "ask" in asked.rows:
            found += asking(clips, video_chat, repeats)
        if "adapter" in asked.rows:
            found.append(adapter(video_chat, repeats))
        if "threads" in asked.rows:
            found.append(threads(repeats))
        if asked.llama_bench:
            found.append(against_llama_bench(asked.llama_bench, repeats))
    if condition == "quiet" and "memory" in asked.rows:
        found += one_ask(clips)
    if condition == "quiet" and asked.mtmd_cli:
        found.append(against_mtmd(asked.mtmd_cli, clips, video_chat, repeats))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--llama-bench", type=Path, help="llama.cpp's own tool, of this version")
    parser.add_argument("--mtmd-cli", type=Path, help="llama.cpp's program for pictures")
    parser.add_argument("--only", choices=("quiet", "busy"), help="one of the two conditions")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS, help="these alone")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, shipped() as video_chat:
        clips = Clips(Path(folder))
        for condition in (options.only,) if options.only else ("quiet", "busy"):
            print(f"{condition} ({default_threads()} cores, load {os.getloadavg()[0]:.1f})")
            found = rows_of(options, condition, clips, video_chat)
            print(*found, sep="\n", flush=True)
            rows += found
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
