"""Ctrl-C, errors and closing leave an engine that goes on as if nothing had happened."""

import os
import signal
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from reellama.pipeline.llm.engine import Engine, PromptPart, Sampling, Text, Token
from tests.helpers.forced_sampling import FOREVER, ROUNDING, FixedTokenSampler, token_logprobs

pytestmark = [pytest.mark.measures, pytest.mark.numeric]

PROMPT: list[PromptPart] = [
    Text("<|im_start|>user\nTell a story.<|im_end|>\n<|im_start|>assistant\n", special=True)
]


def goes_on(engine: Engine, prompt: list[PromptPart]) -> bool:
    """Whether it thinks of a prompt what it thinks when it has read nothing before."""
    text = "Once there was a fox."
    logprobs = token_logprobs(engine, prompt, text)
    engine.clear()
    return bool(np.abs(logprobs - token_logprobs(engine, prompt, text)).max() < ROUNDING)


def test_ctrl_c_between_tokens_ends_the_answer_and_keeps_its_part(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tokens that the text is read as anew: of others the model thinks otherwise.
    story = FixedTokenSampler(
        engine.tokenizer.encode("Once upon a time there was a king who had three")
    )
    monkeypatch.setattr("reellama.pipeline.llm.engine.Sampler", lambda *_: story)
    tokens: list[Token] = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the loop is what is interrupted
        for token in engine.generate(PROMPT, Sampling(temperature=1.0)):
            tokens.append(token)
            if len(tokens) == 6:
                signal.raise_signal(signal.SIGINT)
    assert engine.last.stop_reason is None
    on = [*PROMPT, Text("".join(t.text for t in tokens)), Text("<|im_end|>\n", special=True)]
    assert engine.prefill(on).n_reused == engine.count(PROMPT) + 5
    assert goes_on(engine, on)


def test_a_closed_iterator_leaves_the_engine_usable(engine: Engine) -> None:
    tokens = cast(Generator[Token, None, None], engine.generate(PROMPT, FOREVER))
    for _ in range(4):
        next(tokens)
    tokens.close()
    assert engine.prefill(PROMPT).n_read == 1
    assert goes_on(engine, PROMPT)


def test_an_error_of_the_caller_leaves_the_engine_usable(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the loop is what fails
        for _ in engine.generate(PROMPT, FOREVER):
            1 / 0  # noqa: B018 - any error will do
    other: list[PromptPart] = [Text("Once upon a time")]
    assert goes_on(engine, other)


def test_ctrl_c_ends_the_reading_of_a_long_prompt_at_once(smollm2: Path) -> None:
    long: list[PromptPart] = [Text("word " * 3000)]
    with Engine(smollm2, n_ctx=4096, n_batch=4096, n_ubatch=4096, n_threads=1) as engine:
        engine.prefill([Text("word " * 10)])
        begin = time.monotonic()
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            engine.prefill(long)
        # All of it is one batch, so it was left in the middle of llama.cpp's work.
        assert engine.n_past < 20
        assert time.monotonic() - begin < 5  # seconds; reading it takes far longer
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        short: list[PromptPart] = [Text("word word then")]
        assert goes_on(engine, short)


def test_a_programs_own_ctrl_c_handler_is_called(smollm2: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(signum: int, frame: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGINT, stop)
    try:
        with Engine(smollm2, n_ctx=4096, n_batch=4096, n_ubatch=4096, n_threads=1) as engine:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(Stopped):
                engine.prefill([Text("word " * 3000)])
            assert engine.n_past == 0
            assert signal.getsignal(signal.SIGINT) is stop
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_beside_the_main_one_can_use_an_engine(tiny_llama: Path) -> None:
    with Engine(tiny_llama, n_ctx=256, n_threads=1) as engine:
        prompt: list[PromptPart] = [Text("a" * 100)]
        here = list(engine.generate(prompt, max_tokens=5))
        engine.clear()
        there: list[Token] = []
        say = engine.generate(prompt, max_tokens=5)
        thread = threading.Thread(target=lambda: there.extend(say))
        thread.start()
        thread.join()
        assert there == here
