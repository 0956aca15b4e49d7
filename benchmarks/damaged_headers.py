"""Damaged GGUF headers through every command that opens one: none may end in more than a line.

python -m benchmarks.damaged_headers [--seconds 600] [--seed 0] [--keep DIR]

Small models of random weights are damaged by chance: numbers, texts and arrays of the header, names
of keys, and the shapes, types and places of tensors get other values where the header stays one
that can be read, and some get flipped bytes or are cut off. Each goes through one of the commands
in a process of its own, models are loaded and run. Counted are

done      status 0
refused   status 1 or 2 and a line for people
broke     the same, where the line says that llama.cpp broke off
ended     the process died, with what signal: a fault
traceback Python's own words: a fault
lines     status 1 and other than one line, or status 0 after an abort: a fault
hung      no end within LIMIT: a fault
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NoReturn

import gguf
import numpy as np

from reellama import gguf_tools
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime import aborts
from reellama.pipeline.cli import commands
from reellama.pipeline.cli.main import run
from reellama.pipeline.llm.engine import Engine, Text
from tests.helpers import tiny_bert, tiny_model

LIMIT = 90.0  # seconds
PAUSE = 0.01
VALUES = (0, 1, 2, 3, 7, 8, 31, 64, 255, 1000, 2**16, 2**31 - 1, 2**31, 2**32 - 1, -1)
REALS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"))
# The share of headers that are damaged in any byte; the others so that the reader gets further.
BLIND = 0.25
GGUF = ("gguf",)
COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": (*GGUF, "inspect", "{model}", "--tensors"),
    "diff": (*GGUF, "inspect", "{model}", "--diff", "{whole}"),
    "fit": (*GGUF, "fit", "{model}", "--vram", "1GiB"),
    "edit": (*GGUF, "edit", "{model}", "-o", "{out}.gguf", "--set", "general.name=x"),
    "split": (*GGUF, "split", "{model}", "-o", "{out}", "--max-tensors", "5"),
    "quantize": (*GGUF, "quantize", "{model}", "Q8_0", "-o", "{out}.gguf", "--threads", "1"),
    "imatrix": (*GGUF, "imatrix", "{model}", "{text}", "-o", "{out}.gguf", "--ctx", "16"),
    "perplexity": (*GGUF, "perplexity", "{model}", "{text}", "--ctx", "16", "--chunks", "2"),
    "choices": (*GGUF, "perplexity", "{model}", "{tasks}", "--hellaswag"),
    "bench": (*GGUF, "bench", "{model}", "-p", "8", "-n", "2", "-s", "2", "-r", "1"),
    "engine": (),  # what ask, chat and serve load a model with
}


def import_everything() -> None:
    """What commands import when they run, imported once before the forks."""
    for package in (gguf_tools, commands):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(("_child", "_probe")):
                importlib.import_module(module.name)
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())):
        run(["gguf", "--help"])  # the options of all commands are made once, too


def write_whole(folder: Path) -> list[Path]:
    """A model of each architecture that the tests write."""
    models = [
        tiny_model.write(folder / f"whole-{arch}.gguf", arch)
        for arch in ("llama", "qwen2vl", "mamba")
    ]
    experts = {"llama.expert_count": 4, "llama.expert_used_count": 2}
    models.append(tiny_model.write(folder / "whole-keys.gguf", keys=experts))
    return [*models, tiny_bert.write(folder / "whole-bert.gguf")]


def damage(source: Path, target: Path, rng: np.random.Generator) -> None:
    """Write a copy of a model with its header changed."""
    shutil.copy(source, target)
    reader = gguf.GGUFReader(source)
    end = int(reader.data_offset)
    if rng.random() < BLIND:
        with target.open("r+b") as file:
            if rng.random() < 0.2:
                file.truncate(int(rng.integers(1, source.stat().st_size)))
                return
            for _ in range(int(2 ** rng.uniform(0, 4))):
                file.seek(int(rng.integers(8, end)))
                file.write(bytes([rng.integers(256)]))
        return
    del reader
    changed = gguf.GGUFReader(target, "r+")
    for _ in range(1 + int(rng.integers(3))):
        if rng.random() < 0.75:
            _damage_field(list(changed.fields.values()), rng)
        else:
            tensor = changed.tensors[rng.integers(len(changed.tensors))]
            part = tensor.field.parts[rng.integers(len(tensor.field.parts))]
            _damage_values(part, rng)
    changed.data.flush()


def _damage_field(fields: list[gguf.ReaderField], rng: np.random.Generator) -> None:
    """Give a value of a key another one, or the key another name."""
    field = fields[3 + int(rng.integers(len(fields) - 3))]  # after version and counts
    if rng.random() < 0.2:
        field.parts[1][rng.integers(len(field.parts[1]))] ^= 1
        return
    chosen = field.data[rng.integers(len(field.data))]
    if field.types[-1] == gguf.GGUFValueType.STRING and len(field.data) > 1 and rng.random() < 0.5:
        # A token like another one, where both have as many letters.
        other = field.parts[field.data[rng.integers(len(field.data))]]
        if len(other) == len(field.parts[chosen]):
            field.parts[chosen][:] = other
            return
    _damage_values(field.parts[chosen], rng)


def _damage_values(part: np.ndarray, rng: np.random.Generator) -> None:
    if not len(part):
        return
    place = int(rng.integers(len(part)))
    if part.dtype.kind == "f":
        part[place] = REALS[rng.integers(len(REALS))]
    else:
        value = VALUES[rng.integers(len(VALUES))]
        part[place] = np.int64(value).astype(part.dtype)


def open_engine(model: Path) -> int:
    """What `ask`, `chat` and `serve` do with a model, without a video."""
    try:
        with Engine(model, n_ctx=64, n_threads=1) as engine:
            for token in engine.generate([Text("A dog")], max_tokens=3):
                sys.stdout.write(token.text)
    except ReellamaError as error:
        sys.stderr.write(f"reellama: {error}\n")
        return 1
    return 0


def run_child(words: list[str], model: Path, out: Path) -> NoReturn:
    """In a fork: the command, with what it writes in files."""
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(out / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), stream)
    os.setsid()
    status = 70  # of what is not caught
    try:
        status = run(words) if words else open_engine(model)
    except BaseException:  # noqa: BLE001  # what is looked for
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def outcome_of(words: list[str], model: Path, out: Path) -> tuple[str, str]:
    """How it went, and the last words of it."""
    child = os.fork()
    if not child:
        run_child(words, model, out)
    began = time.monotonic()
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() - began > LIMIT:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hung", ""
        time.sleep(PAUSE)
    status = os.waitstatus_to_exitcode(ended[1])
    said = (out / "stderr").read_text(encoding="utf-8", errors="replace")
    own = [line for line in said.splitlines() if line.startswith(aborts.PREFIX)]
    last = said.strip().splitlines()[-1] if said.strip() else ""
    if "Traceback (most recent" in said:
        return "traceback", last
    if status < 0 or status > 2:
        return "ended", f"{status}: {last}"
    if status == 0:
        return ("lines", last) if aborts.BROKE_OFF in said else ("done", "")
    if status == 1 and len(own) != 1:
        return "lines", f"{len(own)} lines: {last}"
    return ("broke" if aborts.BROKE_OFF in said else "refused"), own[0] if own else last


def main() -> None:
    """Damage, run, count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first header")
    parser.add_argument("--keep", type=Path, help="folder for the files that show a fault")
    given = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    reasons: Counter[str] = Counter()
    began, number = time.monotonic(), given.first
    import_everything()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        whole = write_whole(place)
        text, tasks = place / "text.txt", place / "tasks.txt"
        text.write_text("A dog runs over the green grass. " * 4)
        tasks.write_text("A dog runs\n1\n" + "".join(f"over {n}.\n" for n in "abcd"))
        while time.monotonic() - began < given.seconds:
            rng = np.random.default_rng([given.seed, number])
            name = [*COMMANDS][rng.integers(len(COMMANDS))]
            source, model = whole[rng.integers(len(whole))], place / "damaged.gguf"
            damage(source, model, rng)
            out = place / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            places = {
                "model": model, "whole": source, "text": text, "tasks": tasks, "out": out / "made",
            }  # fmt: skip
            words = [word.format_map(places) for word in COMMANDS[name]]
            outcome, last = outcome_of(words, model, out)
            counts[name, outcome] += 1
            if outcome == "broke":
                reasons[last.partition("GGML_ASSERT")[2] or last] += 1
            if outcome not in ("done", "refused", "broke"):
                print(f"{number} {source.stem} {name}: {outcome} {last}", flush=True)
                if given.keep:
                    given.keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(model, given.keep / f"{number}-{name}.gguf")
            number += 1
    for name in COMMANDS:
        print(name, {o: n for (command, o), n in sorted(counts.items()) if command == name})
    for reason, n in reasons.most_common(20):
        print(f"broke off {n} times: {reason[:150]}")
    print(f"{number - given.first:,} headers in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
