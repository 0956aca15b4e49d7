"""The child process that reads what nobody trusts: JSON schemas and chat templates of clients.

    python -m reellama.pipeline.server.sandbox.sandbox_child '{"memory": 1073741824}'

It reads a task a line from stdin, as JSON, and answers each with a line on stdout: {"cpu": seconds,
"answer": {...}}, where the answer is what came out, or {"error": "..."}, or null of a task that
took more CPU time or memory than the limits. Each task is done in a process forked for it alone, so
that nothing of one is left for the next.
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

MAX_TASK_SECONDS = 60  # on the clock, on however busy a machine
NICENESS = 5  # tasks come after answers that are being written
N_TRIAL_TOKENS = 48  # tokens by which a grammar is tried
_PUNCTUATION = b'[]{}":, '
MAX_RENDERED_CHARACTERS = 4_000_000  # that a template may write


def main() -> None:
    """Answer tasks until there are no more."""
    memory = json.loads(sys.argv[1])["memory"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        task = json.loads(line)
        seconds = task.pop("seconds")
        run, arguments = TASKS[task.pop("task")](**task)
        answer, cpu = _in_a_fork(lambda: run(*arguments), seconds, memory)  # noqa: B023
        answers.write(b'{"cpu": %.4f, "answer": %s}\n' % (cpu, answer))
        answers.flush()


def _in_a_fork(work: Callable[[], Any], seconds: float, memory: int) -> tuple[bytes, float]:
    """What `work` answers, as JSON, and the CPU time that it took; null where it was ended."""
    receiving, sending = os.pipe()
    forked = os.fork()
    if not forked:
        _do(work, sending, seconds, memory)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        answer = pipe.read()
    _, status, used = os.wait4(forked, 0)
    return b"null" if status else answer, used.ru_utime + used.ru_stime


def _do(work: Callable[[], Any], sending: int, seconds: float, memory: int) -> NoReturn:
    """Send what `work` answers, within these limits, and end the process."""
    status = 1
    try:
        _limit_memory(memory)
        os.nice(NICENESS)
        # By default both signals end the process, also inside of llama.cpp.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.alarm(MAX_TASK_SECONDS)
        try:
            answer: Any = work()
        except ReellamaError as error:
            answer = {"error": str(error)}
        except (MemoryError, RecursionError):
            answer = {"error": "it needs too much memory"}
        with os.fdopen(sending, "wb") as pipe:
            pipe.write(json.dumps(answer).encode())
        status = 0
    finally:
        os._exit(status)


def _limit_memory(memory: int) -> None:
    """`memory` bytes beyond what is in use now: models, which are trusted, are loaded before."""
    used = 0
    with suppress(OSError):  # where there is no /proc, a task has only the rest
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        used = pages * resource.getpagesize()
    with suppress(ValueError, OSError):  # macOS takes no limit on the address space
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))


# A task is prepared with what is trusted, without limits, and then run under them.
Prepared = tuple[Callable[..., Any], tuple[Any, ...]]


def prepare_grammar(arguments: dict[str, Any], model: str) -> Prepared:
    """A grammar of `answer_grammar`, which llama.cpp was seen to follow with this model's tokens.

    Its tools come as names and schemas.
    """
    from reellama.pipeline.llm.tool_calls import answer_grammar  # noqa: F401  # once for all forks

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
    _follow(sampler, model)
    llama_cpp.llama_sampler_free(sampler)
    return {"gbnf": text}


def _follow(grammar: Any, model: Model) -> None:
    """Take the token that goes furthest of those that the grammar allows, again and again.

    A grammar that has ever more ways to go on is then slow here, and not among others' answers.
    What opens a list or an object goes furthest, and else the longest. Only characters and JSON's
    punctuation are tried: thousands of words would say the same, and take their time.
    """
    import ctypes

    import numpy as np
    from llama_cpp import llama_cpp

    from reellama.pipeline.llm.token_sampling import CANDIDATE, token_data_array

    ids, reaches = _trial_tokens(model)
    candidates = np.zeros(len(ids), CANDIDATE)
    for _ in range(N_TRIAL_TOKENS):
        candidates["id"], candidates["logit"] = ids, 0
        array = token_data_array(candidates)
        llama_cpp.llama_sampler_apply(grammar, ctypes.byref(array))
        allowed = np.isfinite(candidates["logit"])
        if not allowed.any():  # but the end
            return
        token = int(ids[np.argmax(np.where(allowed, reaches, -1))])
        llama_cpp.llama_sampler_accept(grammar, token)


def prepare_template(
    source: str, bos: str, eos: str, messages: list[dict[str, Any]], variables: dict[str, Any]
) -> Prepared:
    """A conversation by a chat template, in segments; see `ChatTemplate.render`."""
    from reellama.gguf_tools.text import chat_template  # noqa: F401  # once for all forks

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
    """What a chat template writes of tools, as `TemplateTraits`."""
    from reellama.gguf_tools.text import template_traits  # noqa: F401  # once for all forks

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
    """Ids of characters and punctuation, and how far each goes, int `[n]` both."""
    import numpy as np

    from reellama.gguf_tools.text.tokenizer import Tokenizer

    tokenizer = Tokenizer(model)
    pieces = {token: tokenizer.piece(token) for token in range(tokenizer.n_vocab)}
    tried = {t: p for t, p in pieces.items() if len(p) == 1 or (p and not p.strip(_PUNCTUATION))}
    reaches = [1000 * (p.count(b"[") + p.count(b"{")) + len(p) for p in tried.values()]
    return np.array(list(tried), np.int32), np.array(reaches)


if __name__ == "__main__":
    main()
