"""The child process that processes untrusted input: JSON schemas and chat templates of clients.

    python -m reellama.pipeline.server.sandbox.sandbox_child '{"memory": 1073741824}'

It reads a task per line from stdin, as JSON, and answers each with a line on stdout: {"cpu":
seconds, "answer": {...}}, where the answer is the result, {"error": "..."}, or null for a task that
exceeded the limits of CPU time or memory. Each task runs in a process forked for it alone, so that
none can affect the next.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from reellama.gguf_tools.errors import ReellamaError

if TYPE_CHECKING:
    from reellama.gguf_tools.runtime.backend import Model

MAX_TASK_SECONDS = 60  # of wall-clock time, which a busy machine may need
NICENESS = 5  # answers that are being generated come before tasks
N_TRIAL_TOKENS = 48  # tokens that a grammar is tried with
_JSON_PUNCTUATION = b'[]{}":, '
MAX_RENDERED_CHARACTERS = 4_000_000  # that a template may write


def main() -> None:
    """Answer tasks until stdin ends."""
    memory = json.loads(sys.argv[1])["memory"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        task = json.loads(line)
        seconds = task.pop("seconds")
        run, arguments = TASKS[task.pop("task")](**task)
        answer, cpu = _call_in_fork(lambda: run(*arguments), seconds, memory)  # noqa: B023
        answers.write(b'{"cpu": %.4f, "answer": %s}\n' % (cpu, answer))
        answers.flush()


def _call_in_fork(function: Callable[[], Any], seconds: float, memory: int) -> tuple[bytes, float]:
    """The result of a function as JSON, null where a limit ended it, and the CPU time it took."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        _call_and_exit(function, write_end, seconds, memory)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        answer = pipe.read()
    _, status, usage = os.wait4(pid, 0)
    return b"null" if status else answer, usage.ru_utime + usage.ru_stime


def _call_and_exit(
    function: Callable[[], Any], write_end: int, seconds: float, memory: int
) -> NoReturn:
    """Write the result of a function, called under these limits, and exit."""
    status = 1
    try:
        _limit_memory(memory)
        os.nice(NICENESS)
        # By default both signals end the process, also inside of llama.cpp.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.alarm(MAX_TASK_SECONDS)
        try:
            answer: Any = function()
        except ReellamaError as error:
            answer = {"error": str(error)}
        except (MemoryError, RecursionError):
            answer = {"error": "it needs too much memory"}
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(json.dumps(answer).encode())
        status = 0
    finally:
        os._exit(status)


def _limit_memory(memory: int) -> None:
    """Allow `memory` bytes beyond those in use now, by the vocabulary of a model for example."""
    used = 0
    with suppress(OSError):  # without /proc, the memory in use counts too
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        used = pages * resource.getpagesize()
    with suppress(ValueError, OSError):  # macOS has no limit of the address space
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))


# A function and its arguments: a task is prepared from trusted input without limits, then run
# under them.
Prepared = tuple[Callable[..., Any], tuple[Any, ...]]


def prepare_grammar(arguments: dict[str, Any], model: str) -> Prepared:
    """Make a grammar by `answer_grammar`, and try it in llama.cpp with this model's tokens.

    Tools are given as pairs of name and schema.
    """
    # Imported here once for all forks.
    from reellama.pipeline.llm.tool_calls import answer_grammar  # noqa: F401

    _trial_tokens(vocabulary := _vocabulary(model))
    return _grammar, (arguments, vocabulary)


def _grammar(arguments: dict[str, Any], model: Model) -> dict[str, str]:
    from llama_cpp import llama_cpp

    from reellama.pipeline.llm.token_sampling import grammar_sampler
    from reellama.pipeline.llm.tool_calls.answer_grammar import answer_grammar
    from reellama.pipeline.llm.tool_calls.tool import Tool

    tools = [Tool(name, schema, {}) for name, schema in arguments.get("tools", ())]
    text = answer_grammar(**{**arguments, "tools": tools})
    sampler = grammar_sampler(text, model)
    _try_grammar(sampler, model)
    llama_cpp.llama_sampler_free(sampler)
    return {"gbnf": text}


def _try_grammar(grammar: Any, model: Model) -> None:
    """Accept up to N_TRIAL_TOKENS tokens, each time the allowed one with the highest rank.

    So a grammar whose number of parse states grows with each token exceeds the limits here, and
    does not delay the answers of others.
    """
    import ctypes

    import numpy as np
    from llama_cpp import llama_cpp

    from reellama.pipeline.llm.token_sampling import CANDIDATE, token_data_array

    ids, ranks = _trial_tokens(model)
    candidates = np.zeros(len(ids), CANDIDATE)
    for _ in range(N_TRIAL_TOKENS):
        candidates["id"], candidates["logit"] = ids, 0
        array = token_data_array(candidates)
        llama_cpp.llama_sampler_apply(grammar, ctypes.byref(array))
        allowed = np.isfinite(candidates["logit"])
        if not allowed.any():  # only the end of the answer is allowed
            return
        token = int(ids[np.argmax(np.where(allowed, ranks, -1))])
        llama_cpp.llama_sampler_accept(grammar, token)


def prepare_template(
    source: str, bos: str, eos: str, messages: list[dict[str, Any]], variables: dict[str, Any]
) -> Prepared:
    """Render a conversation by a chat template; see `ChatTemplate.render`."""
    from reellama.gguf_tools.text import chat_template  # noqa: F401

    return _render, (source, bos, eos, messages, variables)


def _render(
    source: str, bos: str, eos: str, messages: list[dict[str, Any]], variables: dict[str, Any]
) -> dict[str, Any]:
    from reellama.gguf_tools.text.chat_template import ChatTemplate

    template = ChatTemplate(source, bos, eos)
    segments = template.render(messages, **variables)
    if sum(len(segment.text) for segment in segments) > MAX_RENDERED_CHARACTERS:
        raise ReellamaError(f"the template writes more than {MAX_RENDERED_CHARACTERS} characters")
    fields = [[segment.text, segment.special, segment.content] for segment in segments]
    return {"segments": fields, "problem": template.problem}


def prepare_traits(source: str, bos: str, eos: str) -> Prepared:
    """Detect the `TemplateTraits` of a chat template."""
    from reellama.gguf_tools.text import template_traits  # noqa: F401

    return _traits, (source, bos, eos)


def _traits(source: str, bos: str, eos: str) -> dict[str, bool]:
    from reellama.gguf_tools.text.template_traits import try_template

    return asdict(try_template(source, bos, eos))


TASKS: dict[str, Callable[..., Prepared]] = {
    "grammar": prepare_grammar,
    "traits": prepare_traits,
    "template": prepare_template,
}


@lru_cache(maxsize=2)
def _vocabulary(path: str) -> Model:
    from reellama.gguf_tools.runtime.backend import load_model

    return load_model(Path(path), vocab_only=True)


@lru_cache(maxsize=2)
def _trial_tokens(model: Model) -> tuple[Any, Any]:
    """Ids and ranks of the tokens that a grammar is tried with, int `[n]` both.

    These are single bytes and JSON punctuation: words would take long and show nothing more. Tokens
    that open lists or objects, which nest, rank highest, then long ones.
    """
    import numpy as np

    from reellama.gguf_tools.text.tokenizer import Tokenizer

    tokenizer = Tokenizer(model)
    pieces = {token: tokenizer.piece(token) for token in range(tokenizer.n_vocab)}
    tried = {
        token: piece
        for token, piece in pieces.items()
        if len(piece) == 1 or (piece and not piece.strip(_JSON_PUNCTUATION))
    }
    ranks = [1000 * (p.count(b"[") + p.count(b"{")) + len(p) for p in tried.values()]
    return np.array(list(tried), np.int32), np.array(ranks)


if __name__ == "__main__":
    main()
