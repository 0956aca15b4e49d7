"""Our GGUF tools against llama.cpp's own: `python -m benchmarks.llama_tools --bin build/bin`.

The tools (llama-quantize, llama-perplexity, llama-bench, llama-batched-bench, llama-gguf-split) are
built from llama.cpp's sources of the version that llama-cpp-python has; its source package holds
them. They repack weights for the processor where the library here does, which it does not where AMX
cannot be trusted: another layout rounds otherwise.

Both sides run in turns. Results that must be equal are compared; of times the median ratio counts.
"""

import argparse
import filecmp
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from reellama.gguf_tools import bench, perplexity, quantize
from reellama.gguf_tools.editing.split import join, split
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.measuring.perplexity import ENGLISH_TEXT, measure_strided_perplexity
from reellama.gguf_tools.multiple_choice.choice_scores import measure_choices
from reellama.gguf_tools.runtime.backend import extra_bufts_safe
from reellama.gguf_tools.threads import default_threads

TYPES = ("Q8_0", "Q4_K_M", "Q6_K", "IQ4_NL")


def tool(*command: str | Path) -> str:
    """The output of a tool, stdout and stderr."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def packing() -> list[str]:
    """The option that lets llama-perplexity hold weights as the library here does."""
    return [] if extra_bufts_safe() else ["--no-repack"]


def quantizing(binary: Path, source: Path, work: Path, threads: int, repeats: int) -> None:
    for type_ in TYPES:
        ours, theirs = work / "ours.gguf", work / "theirs.gguf"
        ratios = []
        for _ in range(repeats):
            text = tool(binary / "llama-quantize", source, theirs, type_, str(threads))
            milliseconds = re.findall(r"total time = +([\d.]+) ms", text)[-1]
            [made] = quantize(source, type_, ours, n_threads=threads, force=True)
            ratios.append(float(milliseconds) / 1000 / made.seconds)
        same = "the same bytes" if filecmp.cmp(ours, theirs, shallow=False) else "OTHER BYTES"
        print(f"quantize {type_:8} speed {median(ratios):.3f} of llama-quantize's, {same}")


def splitting(binary: Path, source: Path, work: Path) -> None:
    """Parts by size and by number of tensors, and the whole that they are joined to."""
    program = binary / "llama-gguf-split"
    ways: dict[str, Any] = {
        "--split-max-size 90M": {"max_bytes": 90_000_000},
        "--split-max-tensors 60": {"max_tensors": 60},
    }
    for option, limit in ways.items():
        with tempfile.TemporaryDirectory(dir=work) as ours, tempfile.TemporaryDirectory() as theirs:
            tool(program, "--split", *option.split(), source, Path(theirs) / "part")
            made = [file.path.name for file in split(source, Path(ours) / "part", **limit)]
            _, other, missing = filecmp.cmpfiles(ours, theirs, os.listdir(theirs), shallow=False)
            same = not other and not missing and len(made) == len(os.listdir(theirs))
            print(
                f"split {option}: {len(made)} files, {'the same bytes' if same else 'OTHER BYTES'}"
            )
            joined, merged = Path(ours) / "joined.gguf", Path(theirs) / "merged.gguf"
            join(Path(ours) / made[0], joined)
            tool(program, "--merge", Path(theirs) / made[0], merged)
            same = filecmp.cmp(joined, source, shallow=False)
            print(f"join of these: {'the source again' if same else 'OTHER BYTES'}")
            # llama-gguf-split leaves keys on the split in the header of what it merges.
            n = sum(tensor.n_bytes for tensor in read_gguf(joined).tensors.values())
            same = joined.read_bytes()[-n:] == merged.read_bytes()[-n:]
            print(
                f"its weights against llama-gguf-split's: {'the same' if same else 'OTHER'} bytes"
            )


def perplexities(binary: Path, model: Path, threads: int) -> None:
    """Every digit that llama-perplexity prints, for chunks of several sizes and numbers."""
    for n_ctx in (64, 128, 512):
        for n_chunks in (3, 8, None):
            settings = ["-c", str(n_ctx), "-t", str(threads), *packing()]
            settings += ["--chunks", str(n_chunks)] if n_chunks else []
            begin = time.perf_counter()
            text = tool(binary / "llama-perplexity", "-m", model, "-f", ENGLISH_TEXT, *settings)
            between = time.perf_counter()
            found = perplexity(model, n_ctx=n_ctx, n_chunks=n_chunks, n_threads=threads)
            speed = (between - begin) / (time.perf_counter() - between)
            theirs = re.findall(r"PPL = ([\d.]+) \+/- [\d.]+", text)[0]
            ours = f"{found.perplexity.value:.4f}"
            same = "the same" if ours == theirs else f"OTHER: {theirs}"
            what = f"perplexity -c {n_ctx} of {n_chunks or 'all'} chunks"
            print(f"{what:35} {ours} {same}, speed {speed:.2f} of llama-perplexity's")


def choosing(binary: Path, model: Path, work: Path, threads: int) -> None:
    """The answers to made tasks, one by one, and a perplexity in windows."""
    kettle = ("puts the kettle on the stove.", "sings.", "walks home, slowly.", "eats and sleeps.")
    lines = [(f"Evening {i}: somebody comes home and", str(i % 4), *kettle) for i in range(12)]
    tasks = work / "hellaswag.txt"
    tasks.write_text("\n".join(line for task in lines for line in task) + "\n")
    pairs = (
        f"{i},Ann met Bob on day {i} because _ was late.,Ann,Bob,{i % 2 + 1}\n" for i in range(9)
    )
    sentences = work / "winogrande.csv"
    sentences.write_text("".join(pairs) + "\n")
    settings: list[str | Path] = ["-m", model, "-t", str(threads), *packing()]
    for name, file in (("hellaswag", tasks), ("winogrande", sentences)):
        text = tool(binary / "llama-perplexity", *settings, "-f", file, f"--{name}")
        theirs = float(re.findall(r"^\d+\t+ *([\d.]+)", text, re.MULTILINE)[-1])
        found = measure_choices(model, file, name, n_threads=threads)
        print(f"{name} {100 * found.share:.4f}%, llama-perplexity's {theirs:.4f}%")
    window: tuple[str | Path, ...] = (
        "-f",
        ENGLISH_TEXT,
        "-c",
        "128",
        "-b",
        "128",
        "--ppl-stride",
        "64",
        "--chunks",
        "4",
    )
    text = tool(binary / "llama-perplexity", *settings, *window)
    theirs = float(re.findall(r"\[4\]([\d.]+)", text)[0])
    strided = measure_strided_perplexity(model, n_ctx=128, stride=64, n_chunks=4, n_threads=threads)
    print(f"--ppl-stride {strided.perplexity.value:.4f}, llama-perplexity's {theirs:.4f}")


def predicting(binary: Path, model: Path, base: Path, work: Path, threads: int) -> None:
    logits = work / "base.logits"
    settings = [*f"-c 512 --chunks 4 -t {threads}".split(), *packing()]
    common = (binary / "llama-perplexity", "-f", ENGLISH_TEXT, "--kl-divergence-base", logits)
    tool(*common, "-m", base, *settings)
    text = tool(*common, "-m", model, *settings, "--kl-divergence")
    found = perplexity(model, reference=base, n_chunks=4, n_threads=threads)
    pairs = {
        "perplexity": (found.perplexity.value, r"Mean PPL\(Q\) +: +([\d.]+)"),
        "mean KL": (found.divergence.kl.value, r"Mean +KLD: +([\d.]+)"),
        "same top %": (100 * found.divergence.same_top.value, r"Same top p: +([\d.]+)"),
    }
    for name, (value, pattern) in pairs.items():
        theirs = float(re.findall(pattern, text)[0])
        print(f"{name:12} {value:.5f}, llama-perplexity's {theirs:.5f} ({value / theirs - 1:+.3%})")


def speed(binary: Path, model: Path, threads: int, repeats: int) -> None:
    def theirs(*test: str) -> float:
        settings = f"-t {threads} -r 3 --repack {int(extra_bufts_safe())} -o json".split()
        text = tool(binary / "llama-bench", "-m", model, *settings, *test)
        return json.loads(text[text.index("[") : text.rindex("]") + 1])[0]["avg_ts"]

    def ours(name: str) -> float:
        return bench([model], [name], 3, n_threads=[threads])[0].avg_ts

    for name, test in (("pp128", ("-p", "128", "-n", "0")), ("tg32", ("-p", "0", "-n", "32"))):
        ratios = []
        for number in range(repeats):
            if number % 2:
                mine, other = ours(name), theirs(*test)
            else:
                other, mine = theirs(*test), ours(name)
            ratios.append(mine / other)
        print(f"bench {name:6} {median(ratios):.3f} of what llama-bench finds")


def speed_of_several(binary: Path, model: Path, threads: int, repeats: int) -> None:
    """Eight prompts and eight answers at once, against llama-batched-bench."""
    shape = ["-npp", "64", "-ntg", "16", "-npl", "8", "-c", "640", "--output-format", "jsonl"]
    names = {"speed_pp": "pp64 x8", "speed_tg": "tg16 @ d64 x8"}
    ratios: dict[str, list[float]] = {field: [] for field in names}
    for number in range(repeats):
        sides: dict[str, dict[str, float]] = {}
        for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
            if side == "ours":
                results = bench([model], list(names.values()), 1, n_threads=[threads])
                sides[side] = dict(zip(names, (each.avg_ts for each in results), strict=True))
            else:
                program = (binary / "llama-batched-bench", "-m", model, "-t", str(threads))
                text = tool(*program, *shape, *packing())
                sides[side] = json.loads(re.findall(r"^\{.*\}$", text, re.M)[-1])
        for field, found in ratios.items():
            found.append(sides["ours"][field] / sides["theirs"][field])
    for field, name in names.items():
        print(f"bench {name:13} {median(ratios[field]):.3f} of what llama-batched-bench finds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=Path, required=True, help="folder of llama.cpp's tools")
    parser.add_argument("--model", default=find.MINI_LLM, help="any GGUF; an F16 is made of it")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        [base] = quantize(options.model, "F16", work / "base-F16.gguf")
        [small] = quantize(base.path, "Q4_0", work / "small.gguf")
        quantizing(options.bin, base.path, work, options.threads, options.repeats)
        splitting(options.bin, base.path, work)
        perplexities(options.bin, find.resolve(options.model), options.threads)
        choosing(options.bin, find.resolve(options.model), work, options.threads)
        predicting(options.bin, small.path, base.path, work, options.threads)
        speed(options.bin, small.path, options.threads, options.repeats)
        speed_of_several(options.bin, small.path, options.threads, options.repeats)
    print(f"{options.threads} threads, {time.perf_counter() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
