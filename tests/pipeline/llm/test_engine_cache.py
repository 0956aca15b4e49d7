"""The KV cache holds the last prompt and answer: only what is new is read."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.llm.engine import Engine, PromptPart, Sampling, Text
from tests.helpers import tiny_model

VIDEO = np.random.default_rng(0).normal(0, 0.1, (32, 576)).astype(np.float32)


def question(text: str) -> list[PromptPart]:
    end = Text("<|im_end|>\n<|im_start|>assistant\n", special=True)
    return [Text("<|im_start|>user\n", special=True), Text(text), end]


def answered(text: str) -> list[PromptPart]:
    return [Text(text), Text("<|im_end|>\n", special=True)]


def answer(engine: Engine, prompt: list[PromptPart], max_tokens: int) -> str:
    return "".join(token.text for token in engine.generate(prompt, max_tokens=max_tokens))


def test_a_second_question_reads_only_its_own_tokens(engine: Engine) -> None:
    first = [VIDEO, *question("What is the capital of France?")]
    said = answer(engine, first, max_tokens=40)
    stats = engine.last
    assert stats.stop_reason == "stop"
    assert (stats.n_reused, stats.n_read) == (0, engine.count(first))

    second = [*first, *answered(said), *question("And of Italy?")]
    engine.prefill(second)
    assert engine.last.n_reused == engine.count(first) + stats.n_generated
    assert engine.last.n_read == len(
        engine.tokenizer.encode(
            "<|im_end|>\n<|im_start|>user\nAnd of Italy?<|im_end|>\n<|im_start|>assistant\n",
            special=True,
        )
    )
    assert engine.n_past == engine.count(second)


def test_an_answer_keeps_the_tokens_that_the_model_chose(engine: Engine) -> None:
    first = question("Write nonsense.")
    wild = Sampling(temperature=3.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)
    tokens = list(engine.generate(first, wild, max_tokens=12))
    said = "".join(token.text for token in tokens)
    assert [token.id for token in tokens] != engine.tokenizer.encode(said)  # or this shows nothing
    engine.prefill([*first, *answered(said)])
    assert engine.last.n_reused == engine.count(first) + 11  # all but the last were decoded


def test_an_edited_question_rewinds_to_where_it_differs(engine: Engine) -> None:
    answer(engine, [VIDEO, *question("How many apples are there?")], max_tokens=10)
    edited = [VIDEO, *question("How many pears are there?")]
    after_edit = answer(engine, edited, max_tokens=10)
    shared = engine.count([VIDEO, Text("<|im_start|>user\nHow many", special=True)])
    assert engine.last.n_reused == shared
    engine.clear()
    assert answer(engine, edited, max_tokens=10) == after_edit


def test_the_same_prompt_again_reads_nothing(engine: Engine) -> None:
    prompt = question("What is snow?")
    engine.prefill(prompt)
    said = answer(engine, prompt, max_tokens=8)
    assert engine.last.n_read == 0
    assert answer(engine, prompt, max_tokens=8) == said
    assert engine.last.n_read == 1  # the last position, whose logits the answer has overwritten


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
    with (
        Engine(path, n_ctx=256, n_batch=8, n_threads=1) as one,
        Engine(path, n_ctx=256, n_batch=8, n_threads=1) as other,
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
    reusing, fresh = engines
    for spec in specs:
        prompt = made_of(spec)
        tokens = [token.id for token in reusing.generate(prompt, max_tokens=4)]
        stats = reusing.last
        assert stats.n_reused + stats.n_read == reusing.count(prompt)
        assert reusing.n_past == reusing.count(prompt) + max(0, len(tokens) - 1) or (
            stats.stop_reason == "stop"
        )
        fresh.clear()
        assert [token.id for token in fresh.generate(prompt, max_tokens=4)] == tokens
