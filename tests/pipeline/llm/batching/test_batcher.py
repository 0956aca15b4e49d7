"""Several answers at once from one model: each is what it would be alone."""

import ctypes
import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.bundle import Bundle
from reellama.pipeline.llm.batching.batcher import Batcher
from reellama.pipeline.llm.batching.generation_job import Failed, GenerationJob, JobUpdate, Stopped
from reellama.pipeline.llm.batching.step_planner import PREFILL_CHUNK
from reellama.pipeline.llm.engine import Engine, Text, Token
from reellama.pipeline.llm.generation_options import Sampling
from tests.helpers.batched_jobs import SubmittedJob, likelihoods, soft_prompt
from tests.helpers.forced_sampling import FOREVER, ROUNDING, saying

pytestmark = pytest.mark.numeric

PROMPTS = [
    "The cat sat on the",
    "1, 2, 3, 4,",
    "Once upon a time there was a king who had three daughters. The eldest",
    "def add(a, b):",
    "The capital of France is",
    "Water boils when",
]


@pytest.fixture(scope="module")
def batcher() -> Iterator[Batcher]:
    batcher = Batcher(Bundle.load("mini").llm_path(), n_parallel=3, n_ctx=256)
    yield batcher
    batcher.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(Bundle.load("mini").llm_path(), n_ctx=256) as engine:
        yield engine


def test_answers_side_by_side_are_those_of_the_engine_alone(
    batcher: Batcher, engine: Engine
) -> None:
    prompts = [*PROMPTS, soft_prompt(engine)]
    jobs = [SubmittedJob(batcher, prompt, n_probs=1) for prompt in prompts]
    answers = [each.tokens() for each in jobs]
    for answer, prompt in zip(answers, prompts, strict=True):
        logprobs = np.log([token.p for token in answer])
        assert np.abs(logprobs - likelihoods(engine, prompt, answer)).max() < ROUNDING
        assert all(token.p == token.alternatives[0][1] for token in answer)  # the likeliest
    # Of the answer to another prompt it thinks little, so this can fail.
    assert likelihoods(engine, prompts[1], answers[0]).min() < -5


def test_a_prompt_that_goes_on_reads_only_what_is_new(batcher: Batcher) -> None:
    first = SubmittedJob(batcher, PROMPTS[2], sampling=saying(" daughter was kind."))
    text = first.text()
    second = SubmittedJob(batcher, PROMPTS[2] + text + " And then")
    second.text()
    assert first.job.stats.prompt_tokens <= second.job.stats.reused_tokens
    assert second.job.stats.reused_tokens < second.job.stats.prompt_tokens


def test_a_cancelled_answer_frees_its_sequence(batcher: Batcher) -> None:
    endless: dict[str, Any] = {"sampling": FOREVER, "max_tokens": -1}
    long = [SubmittedJob(batcher, prompt, **endless) for prompt in PROMPTS[:3]]
    for submitted in long:
        assert isinstance(submitted.updates.get(timeout=30), Token)
    waiting = SubmittedJob(batcher, PROMPTS[3])
    long[0].job.cancelled = True
    assert waiting.text()
    for submitted in long[1:]:
        submitted.job.cancelled = True
    for submitted in long:
        assert submitted.tokens() is not None
        assert submitted.job.stats.stop_reason is None


def test_an_answer_ends_where_the_context_does(batcher: Batcher) -> None:
    submitted = SubmittedJob(batcher, PROMPTS[0], sampling=FOREVER, max_tokens=-1)
    tokens = submitted.tokens()
    stats = submitted.job.stats
    assert stats.stop_reason == "length"
    # The last token needs no position: nothing follows it.
    assert stats.prompt_tokens + stats.generated_tokens == 256 + 1
    assert len(tokens) == stats.generated_tokens


def test_a_prompt_without_room_is_refused(batcher: Batcher) -> None:
    with pytest.raises(ReellamaError, match="the prompt takes .* positions, but the context has"):
        SubmittedJob(batcher, "word " * 400)


def test_stop_texts_and_probabilities(batcher: Batcher) -> None:
    submitted = SubmittedJob(
        batcher, PROMPTS[1], sampling=saying(" 5, 6, 7, 8."), stop=["7"], n_probs=3
    )
    tokens = submitted.tokens()
    assert "".join(token.text for token in tokens) == " 5, 6, "
    assert submitted.job.stats.stop_reason == "stop"
    for token in tokens:
        assert 0 < token.p <= 1 and len(token.alternatives) == 3
        likely = [p for _, p in token.alternatives]
        assert likely == sorted(likely, reverse=True) and sum(likely) <= 1 + 1e-6
        assert token.p <= likely[0]


def test_a_bad_grammar_ends_only_its_own_answer(batcher: Batcher) -> None:
    good = SubmittedJob(batcher, PROMPTS[0])
    with pytest.raises(ReellamaError, match="not valid GBNF"):
        SubmittedJob(batcher, PROMPTS[0], sampling=Sampling(grammar="root ::= ("))
    assert good.text()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"stop": ["\ud800"]}, "the stop text '.ud800' holds half a character"),
        ({"sampling": Sampling(grammar='root ::= "\ud800"')}, "half a character"),
        ({"sampling": Sampling(json_schema={"$ref": "#/nowhere"})}, "this JSON schema cannot be"),
        ({"stop": [7]}, "a stop text is not text"),
    ],
    ids=["stop", "grammar", "schema", "no text"],
)
def test_what_goes_wrong_with_one_job_ends_that_job_alone(
    batcher: Batcher, options: dict[str, Any], reason: str
) -> None:
    good = SubmittedJob(batcher, PROMPTS[0])
    with pytest.raises(ReellamaError, match=reason) as caught:
        SubmittedJob(batcher, PROMPTS[1], **options).tokens()
    assert "\n" not in str(caught.value)
    assert good.text()
    assert SubmittedJob(batcher, PROMPTS[2]).text()


@pytest.mark.parametrize("failure", [RuntimeError("Event loop is closed"), SystemExit()])
def test_a_callback_that_fails_ends_its_own_job_alone(
    batcher: Batcher, failure: BaseException
) -> None:
    def fail(update: JobUpdate) -> None:
        raise failure

    others = [SubmittedJob(batcher, prompt) for prompt in PROMPTS[:2]]
    job = GenerationJob(
        batcher.tokenize_prompt([Text(PROMPTS[2])]), fail
    )  # without a limit of its own
    batcher.submit(job)
    assert all(other.text() for other in others)
    assert all(
        SubmittedJob(batcher, prompt).text() for prompt in PROMPTS[:4]
    )  # its sequence is free
    assert job.cancelled


def test_a_job_that_is_cancelled_while_it_waits_is_ended(batcher: Batcher) -> None:
    long = [SubmittedJob(batcher, prompt, max_tokens=-1) for prompt in PROMPTS[:3]]
    waiting = SubmittedJob(batcher, PROMPTS[3])
    waiting.job.cancelled = True
    for submitted in long:
        submitted.job.cancelled = True
    assert waiting.tokens() == []
    for submitted in long:
        submitted.tokens()


def test_no_tokens_were_asked_for(batcher: Batcher) -> None:
    submitted = SubmittedJob(batcher, PROMPTS[0], max_tokens=0)
    assert submitted.tokens() == []
    assert submitted.job.stats.stop_reason == "length"


def test_closing_tells_those_who_wait() -> None:
    batcher = Batcher(Bundle.load("mini").llm_path(), n_parallel=1, n_ctx=256)
    jobs = [SubmittedJob(batcher, PROMPTS[0], sampling=FOREVER, max_tokens=-1) for _ in range(3)]
    assert isinstance(jobs[0].updates.get(timeout=30), Token)
    batcher.close()
    for each in jobs:
        with pytest.raises(ReellamaError, match="stopping"):
            each.tokens()


def test_a_thread_that_dies_says_so_to_all_who_wait_and_to_its_owner(tiny_llama: Path) -> None:
    died = threading.Event()
    batcher = Batcher(tiny_llama, n_parallel=1, n_ctx=2048, on_failure=died.set)
    jobs = [SubmittedJob(batcher, "a", sampling=FOREVER, max_tokens=-1) for _ in range(3)]
    assert isinstance(jobs[0].updates.get(timeout=30), Token)
    (thread,) = [t for t in threading.enumerate() if t.name == f"batcher {tiny_llama.name}"]
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
    )
    for each in jobs:
        with pytest.raises(Failed, match="SystemExit"):
            each.tokens()
    assert died.wait(30)
    assert isinstance(batcher.failure, SystemExit)
    with pytest.raises(Stopped):
        SubmittedJob(batcher, "a")
    batcher.close()


@pytest.fixture(scope="module")
def tiny_batcher(tiny_llama: Path) -> Iterator[Batcher]:
    batcher = Batcher(tiny_llama, n_parallel=2, n_ctx=2048)
    yield batcher
    batcher.close()


def test_an_answer_grows_while_a_long_prompt_is_read(tiny_batcher: Batcher) -> None:
    growing = SubmittedJob(tiny_batcher, "a", sampling=FOREVER, max_tokens=-1)
    assert isinstance(growing.updates.get(timeout=30), Token)
    long = SubmittedJob(tiny_batcher, "x" * 1500, sampling=FOREVER, max_tokens=1)
    begun = growing.job.stats.generated_tokens
    long.tokens()
    grown = growing.job.stats.generated_tokens - begun
    growing.job.cancelled = True
    assert grown >= 1500 // PREFILL_CHUNK - 1


def test_a_short_prompt_does_not_wait_for_a_long_one(tiny_batcher: Batcher) -> None:
    long = SubmittedJob(tiny_batcher, "y" * 1900, max_tokens=1)
    short = SubmittedJob(tiny_batcher, "short", max_tokens=1)
    short.tokens()
    long.tokens()
    assert short.job.stats.prompt_seconds < long.job.stats.prompt_seconds


def test_a_job_after_the_end_is_refused() -> None:
    batcher = Batcher(Bundle.load("mini").llm_path(), n_parallel=1, n_ctx=256)
    tokenized = batcher.tokenize_prompt([Text(PROMPTS[0])])
    batcher.close()
    updates: list[JobUpdate] = []
    with pytest.raises(Stopped, match="stopping"):
        batcher.submit(GenerationJob(tokenized, updates.append))
    assert updates == []
    batcher.close()  # a second time is none


def test_a_job_that_comes_with_the_end_is_refused_or_told() -> None:
    batcher = Batcher(Bundle.load("mini").llm_path(), n_parallel=1, n_ctx=256)
    tokenized = batcher.tokenize_prompt([Text(PROMPTS[0])])
    submitted: list[queue.Queue[JobUpdate]] = []

    def submit() -> None:
        with suppress(Stopped):
            while True:
                updates: queue.Queue[JobUpdate] = queue.Queue()
                batcher.submit(GenerationJob(tokenized, updates.put))
                submitted.append(updates)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    batcher.close()
    for thread in threads:
        thread.join()
    assert submitted
    for updates in submitted:
        while isinstance(end := updates.get(timeout=5), Token):
            pass
        assert end is None or isinstance(end, Stopped)
