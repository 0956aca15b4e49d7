"""The entry point, and the one place where errors become a line on stderr and an exit status.

0: done. 1: something was wrong with a file, the machine or the model. 2: wrong arguments.
130: Ctrl-C.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import functools
import gc
import io
import os
import signal
import sys
import threading
from typing import Any

from reellama.gguf_tools.lazy_packages import import_lazily
from reellama.pipeline.cli.error_line import print_error_line

INTERRUPTED = 128 + signal.SIGINT
RETRY_SECONDS = 0.05  # seconds until a Ctrl-C that was lost is raised again


def main() -> None:
    """Run the command line and exit with its status."""
    # Python looks for garbage after every 700 objects or so: a program that imports makes a hundred
    # thousand, and hardly any garbage.
    gc.set_threshold(100_000, *gc.get_threshold()[1:])
    # While an LLM is loaded, another thread comes back to Python for each of a thousand lines of
    # llama.cpp's log, and waits for so long each time, in seconds, where this one computes.
    sys.setswitchinterval(0.0003)
    # A thread of numpy's BLAS spins for a tenth of a second when it has nothing to do, which takes
    # a core from what starts beside it. The number is a power of two, in cycles.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")
    import_lazily(["gguf", "llama_cpp"])
    sys.unraisablehook = _unraisable
    _open_closed_streams()
    status = run(sys.argv[1:])
    # From here a second Ctrl-C ends the process at once instead of with a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if status == INTERRUPTED:
        # At once: libraries that were interrupted while they loaded make a mess of an orderly end.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    gc.freeze()  # or Python looks for garbage among all of them, several times, before it ends
    sys.exit(status)


def _open_closed_streams() -> None:
    """Put nothing in place of a stdin or stderr that was closed (`<&-`, `2>&-`)."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  # to the end of the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """Raise a Ctrl-C again where Python dropped it: in a `__del__`, or while llama.cpp logs.

    Else a command would go on as if nobody had pressed it.
    """
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(RETRY_SECONDS, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit status."""
    try:
        # Imported here so that Ctrl-C and errors meet the same ends while Python still imports.
        from reellama.gguf_tools.errors import ReellamaError

        if sys.stdout is None:  # `>&-`
            return print_error_line("stdout is closed, so there is no place for an answer")
        try:
            status = _status(arguments)
            sys.stdout.flush()
        except ReellamaError as error:
            return print_error_line(str(error))
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:  # `reellama ask ... | head -1`: nobody is left to tell
        _silence_stdout()
        return 1
    except OSError as error:
        _silence_stdout()
        # An error of a file that we write names it; without a name it was stdout.
        lost = "what stdout leads to: " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        where = f"{error.filename}: " if error.filename else lost
        return print_error_line(f"{where}{error.strerror or error}")
    except ModuleNotFoundError as error:
        from reellama.models.train_extra import what_to_install

        line = what_to_install(error)
        if not line:
            raise
        return print_error_line(line)
    except MemoryError:
        return print_error_line("out of memory: try a smaller model, --n-ctx or --frames")
    if status == INTERRUPTED:
        if console := sys.modules.get("reellama.pipeline.cli.console"):
            console.end_bar()
        return print_error_line("stopped", INTERRUPTED)
    return status


def _status(arguments: list[str]) -> int:
    """Call the typer application, which ends in SystemExit whatever happens."""
    from reellama.pipeline.cli.arguments.grouped_command import adapt_types
    from reellama.pipeline.cli.arguments.saved_defaults import config_path, saved_defaults
    from reellama.pipeline.cli.arguments.verbosity import Verbosity, set_verbosity

    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # as at start
            stream.reconfigure(errors="replace")
    set_verbosity(Verbosity())
    # A file of defaults may name any command: all of them are needed to read it.
    program = _program("") if config_path().exists() else _program(*arguments[:2])
    adapt_types(program)
    try:
        program(arguments, prog_name="reellama", default_map=saved_defaults(program))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _program(first: str = "", second: str = "") -> Any:
    """What these two words call, without most other commands: to make them all takes as long as to
    load a small LLM."""
    if first in ("ask", "describe"):
        return _answers()
    return _gguf(second) if first == "gguf" else _all_commands()


# The commands are made once, for a process that runs several of them.


@functools.cache
def _answers() -> Any:
    from typer.main import get_command

    from reellama.pipeline.cli.answer_commands import answers

    return get_command(answers)


@functools.cache
def _gguf(name: str) -> Any:
    from typer.main import get_command

    from reellama.pipeline.cli.commands.gguf import program_of

    return get_command(program_of(name))


@functools.cache
def _all_commands() -> Any:
    from typer.main import get_command

    from reellama.pipeline.cli.app import app

    return get_command(app)


def _silence_stdout() -> None:
    """Keep Python from failing a second time when it flushes what could not be written."""
    with contextlib.suppress(OSError):  # a stdout that is no file needs no such care
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
