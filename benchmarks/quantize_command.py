"""Compare the whole of `reellama gguf quantize` with the time that llama.cpp takes in it.

    python -m benchmarks.quantize_command

SmolLM2, as the package has it, is made F16 and then Q8_0 and Q4_K_M, by the command in a process of
its own and by llama.cpp's quantizer in a child that waits already, by turns. What is above the
quantizer's time is Python: its start, imports, checks, the header and a dry run. Beside other
programs wall times grow for both; the seconds of processor time grow less.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from reellama.gguf_tools.locate.find import resolve
from reellama.gguf_tools.quantization.quant_types import quant_type
from reellama.gguf_tools.quantization.quantize import quantize
from reellama.gguf_tools.quantization.quantize_child import QuantizeJob, QuantizerProcess

ROUNDS = 5
TARGET = 0.3  # seconds
RUN = "import sys; from reellama.pipeline.cli.main import main; sys.argv[0] = 'reellama'; main()"


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> tuple[float, float]:
    """How long it takes on the wall, and how much of the processor by `clock`."""
    started, used = time.perf_counter(), clock()
    work()
    return time.perf_counter() - started, clock() - used


def ended_children() -> float:
    """Processor time of the processes that were started here and have ended."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    """Measure both by turns, and print their medians."""
    with tempfile.TemporaryDirectory() as folder, QuantizerProcess() as child:
        source = Path(folder, "source-F16.gguf")
        quantize(resolve("mini-llm"), "F16", source)
        of_child = psutil.Process(child.pid)
        print(f"{'type':8} {'command':>10} {'llama.cpp':>10} {'ratio':>6} {'above it':>10}  target")
        for name in ("Q8_0", "Q4_K_M"):
            out = str(Path(folder, "out.gguf"))
            command = [sys.executable, "-c", RUN, "gguf", "quantize", str(source), name]
            command += ["-o", out, "--force"]
            type_ = quant_type(name)
            assert type_ is not None
            job = QuantizeJob(str(source), out, type_.ftype)
            run = partial(subprocess.run, command, check=True, stdout=-3, stderr=-3)
            work = partial(child.run, job, lambda level, text: None)
            whole, inside = [], []
            for _ in range(ROUNDS):
                whole.append(seconds(run, ended_children))
                inside.append(seconds(work, lambda: sum(of_child.cpu_times()[:2])))
            for row, label in enumerate((name, "  processor")):
                a, b = (statistics.median(times[row] for times in each) for each in (whole, inside))
                target = f"{TARGET} s above" if row == 0 else ""
                print(f"{label:11} {a:5.2f} s {b:8.2f} s {a / b:6.2f} {a - b:8.2f} s  {target}")


if __name__ == "__main__":
    main()
