"""The KV cache holds the last prompt and answer: only what is new is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.pipeline.llm.engine import Engine, PromptPart, Sampling, Text
from tests.helpers import tiny_model
from tests.helpers.forced_sampling import ROUNDING, FixedTokenSampler, saying, token_logprobs

pytestmark = pytest.mark.numeric

VIDEO = np.random.default_rng(0).normal(0, 0.1, (32, 576)).astype(np.float32)


def question(text: str) -> list[PromptPart]:
    end = Text("<|im_end|>\n<|im_start|>assistant\n", special=True)
    return [Text("<|im_start|>user\n", special=True), Text(text), end]


def answered(text: str) -> list[PromptPart]:
    return [Text(text), Text("<|im_end|>\n", special=True)]


def test_a_second_question_reads_only_its_own_tokens(engine: Engine) -> None:
    first = [VIDEO, *question("What is the capital of France?")]
    answer = "".join(token.text for token in engine.generate(first, saying("It is Paris.")))
    stats = engine.last
    assert (answer, stats.stop_reason) == ("It is Paris.", "stop")
    assert (stats.n_reused, stats.n_read) == (0, engine.count(first))

    second = [*first, *answered(answer), *question("And of Italy?")]
    engine.prefill(second)
    assert engine.last.n_reused == engine.count(first) + stats.n_generated
    assert engine.last.n_read == len(
        engine.tokenizer.encode(
            "<|im_end|>\n<|im_start|>user\nAnd of Italy?<|im_end|>\n<|im_start|>assistant\n",
            special=True,
        )
    )
    assert engine.n_past == engine.count(second)


def test_an_answer_keeps_the_tokens_that_the_model_chose(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = question("Write nonsense.")
    letters = [token for letter in "nonsense" for token in engine.tokenizer.encode(letter)]
    monkeypatch.setattr(
        "reellama.pipeline.llm.engine.Sampler", lambda *_: FixedTokenSampler(letters)
    )
    tokens = engine.generate(first, Sampling(temperature=1.0), max_tokens=len(letters))
    answer = "".join(token.text for token in tokens)
    assert answer == "nonsense"
    assert letters != engine.tokenizer.encode(answer)  # or this shows nothing
    engine.prefill([*first, *answered(answer)])
    # All but the last were decoded.
    assert engine.last.n_reused == engine.count(first) + len(letters) - 1


def test_an_edited_question_rewinds_to_where_it_differs(engine: Engine) -> None:
    apples, pears = (
        [VIDEO, *question(f"How many {fruit} are there?")] for fruit in ("apples", "pears")
    )
    answer = "There are seven pears."
    before_edit = token_logprobs(engine, apples, answer)
    after_edit = token_logprobs(engine, pears, answer)
    shared = engine.count([VIDEO, Text("<|im_start|>user\nHow many", special=True)])
    assert engine.last.n_reused == shared
    engine.clear()
    fresh = token_logprobs(engine, pears, answer)
    assert np.abs(after_edit - fresh).max() < ROUNDING
    assert np.abs(before_edit - fresh).max() > 10 * ROUNDING  # or this shows nothing


def test_the_same_prompt_again_reads_nothing(engine: Engine) -> None:
    prompt, answer = question("What is snow?"), "Snow is frozen water."
    engine.prefill(prompt)
    first = token_logprobs(engine, prompt, answer)
    assert engine.last.n_read == 0
    again = token_logprobs(engine, prompt, answer)
    assert engine.last.n_read == 1  # the last position, whose logits the answer has overwritten
    assert np.abs(again - first).max() < ROUNDING


def test_soft_tokens_are_compared_by_value(engine: Engine) -> None:
    engine.prefill([VIDEO, Text("What?")])
    engine.prefill([VIDEO.copy(), Text("Who?")])
    assert engine.last.n_reused == 32
    changed = VIDEO.copy()
    changed[20, 100] += 0.001
    engine.prefill([changed, Text("Who?")])
    assert engine.last.n_reused == 20


def test_emptying_the_cache_makes_all_be_read_again(engine: Engine) -> None:
    prompt = question("What is snow?")
    engine.prefill(prompt)
    engine.clear()
    assert engine.n_past == 0
    assert engine.prefill(prompt).n_reused == 0


@pytest.fixture(scope="module", params=["llama", "mamba"])
def engines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, Engine]]:
    """Two engines of a small model. Mamba's memory cannot be rewound."""
    path: Path = tmp_path_factory.mktemp("tiny") / "model.gguf"
    tiny_model.write(path, request.param)
    # All in float32, so that batches of other sizes differ by next to nothing.
    exact: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}
    with (
        Engine(path, n_ctx=256, n_batch=8, n_threads=1, **exact) as one,
        Engine(path, n_ctx=256, n_batch=8, n_threads=1, **exact) as other,
    ):
        yield one, other


# Few different parts, so that prompts often begin alike.
parts = st.sampled_from(["a", "ab", "b", "abcdefghijkl", 1, 2])
prompts = st.lists(st.lists(parts, min_size=1, max_size=5), min_size=2, max_size=4)


def made_of(spec: list[str | int]) -> list[PromptPart]:
    """Text for a string, soft tokens for a number."""
    rows = np.random.default_rng(0).normal(0, 0.1, (3, tiny_model.N_EMBD)).astype(np.float32)
    return [Text(part) if isinstance(part, str) else rows[:part] for part in spec]


@given(prompts)
def test_reuse_never_changes_what_is_generated(
    engines: tuple[Engine, Engine], specs: list[list[str | int]]
) -> None:
    """By the probabilities: of two tokens that are all but equally likely, either may be chosen."""
    reusing, fresh = engines
    letters = Sampling(grammar="root ::= [a-z] root")  # never ends
    for spec in specs:
        prompt = made_of(spec)
        tokens = list(reusing.generate(prompt, letters, max_tokens=4))
        stats = reusing.last
        assert stats.n_reused + stats.n_read == reusing.count(prompt)
        assert reusing.n_past == reusing.count(prompt) + 3
        fresh.clear()
        [expected] = fresh.logprobs(prompt, [[token.id for token in tokens]])
        logprobs = np.log([token.p for token in tokens])
        np.testing.assert_allclose(logprobs, expected, atol=1e-3)
