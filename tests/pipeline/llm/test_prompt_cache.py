"""The KV cache of a video is saved: a second question reads its own words alone."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reellama.models.array_cache import ArrayCache
from reellama.pipeline.llm.engine import Engine, PromptPart, Text
from tests.helpers import tiny_model

ROWS = np.random.default_rng(0).normal(0, 0.1, (20, tiny_model.N_EMBD)).astype(np.float32)
START = Text("about a video")


def about(rows: np.ndarray, question: str) -> list[PromptPart]:
    return [START, rows, Text(question)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    tiny_model.write(path, "llama")
    return path


@pytest.fixture
def open_engine(model: Path, tmp_path: Path) -> Callable[..., Engine]:
    """Opens engines, as one process after another would, with one folder of prompts."""

    def open_engine(path: Path = model, **options: Any) -> Engine:
        store = ArrayCache(tmp_path / "prompts")
        return Engine(path, **{"n_ctx": 256, "n_threads": 1, "prompt_cache": store, **options})

    return open_engine


def generate(engine: Engine, prompt: list[PromptPart]) -> list[tuple[int, float]]:
    return [(token.id, token.p) for token in engine.generate(prompt, max_tokens=6)]


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "prompts").glob("*"))


@pytest.mark.parametrize("options", [{}, {"type_k": "f32", "type_v": "f32"}, {"n_batch": 8}])
def test_the_next_engine_reads_the_question_alone_and_answers_the_same_to_the_bit(
    open_engine: Callable[..., Engine], options: dict[str, Any]
) -> None:
    with open_engine(**options) as engine:
        generate(engine, about(ROWS, "what?"))
        engine.save_prompt()
        engine.clear()
    with open_engine(prompt_cache=None, **options) as engine:
        expected = generate(engine, about(ROWS, "who?"))
        assert engine.last.n_reused == 0
    with open_engine(**options) as engine:
        assert generate(engine, about(ROWS, "who?")) == expected
        assert engine.last.n_read == len(engine.tokenizer.encode("who?"))
        assert engine.last.n_reused == engine.count([START, ROWS])
        # The restored prompt is a part of the KV cache like any other.
        engine.prefill(about(ROWS, "where?"))
        assert engine.last.n_reused >= engine.count([START, ROWS])


def test_what_differs_before_the_question_is_read(open_engine: Callable[..., Engine]) -> None:
    with open_engine() as engine:
        engine.prefill(about(ROWS, "what?"))
        engine.save_prompt()
    prompts: list[list[PromptPart]] = [
        about(ROWS + 1e-6, "what?"),
        [Text("a"), ROWS, Text("what?")],
        [START],
    ]
    for prompt in prompts:
        with open_engine() as engine:
            assert engine.prefill(prompt).n_reused == 0


@pytest.mark.parametrize("change", ["the file", "the type of the cache", "its place"])
def test_another_llm_reads_by_itself(
    open_engine: Callable[..., Engine], model: Path, tmp_path: Path, change: str
) -> None:
    with open_engine() as engine:
        engine.prefill(about(ROWS, "what?"))
        engine.save_prompt()
    if change == "the file":
        os.utime(model, (1, 1))
    path = tmp_path / "other.gguf" if change == "its place" else model
    if path != model:
        shutil.copyfile(model, path)
    options = {"type_k": "f32"} if change == "the type of the cache" else {}
    with open_engine(path, **options) as engine:
        assert engine.prefill(about(ROWS, "what?")).n_reused == 0


@pytest.mark.parametrize("damage", ["cut off", "another size", "noise", "no state"])
def test_a_prompt_with_a_damaged_state_is_read_again(
    open_engine: Callable[..., Engine], tmp_path: Path, damage: str
) -> None:
    with open_engine() as engine:
        expected = generate(engine, about(ROWS, "what?"))
        engine.save_prompt()
    (entry,) = entries(tmp_path)
    state = np.load(entry)["state"]
    if damage == "cut off":
        entry.write_bytes(entry.read_bytes()[:-100])
    elif damage == "no state":
        np.savez(entry, other=state)
    else:
        state = state[: len(state) // 2] if damage == "another size" else np.full_like(state, 7)
        np.savez(entry, state=state)
    with open_engine() as engine:
        assert generate(engine, about(ROWS, "what?")) == expected
        assert engine.last.n_reused == 0


def test_a_prompt_is_saved_once_and_only_with_soft_tokens(
    open_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    with open_engine() as engine:
        engine.save_prompt()
        engine.prefill([START])
        engine.save_prompt()
        assert not entries(tmp_path)
        engine.prefill(about(ROWS, "what?"))
        engine.save_prompt()
        (entry,) = entries(tmp_path)
        assert engine.n_past == engine.count([START, ROWS])
        saved_at = entry.stat().st_mtime_ns
        engine.prefill(about(ROWS, "who?"))
        engine.save_prompt()
    with open_engine() as engine:
        engine.prefill(about(ROWS, "who?"))
        engine.save_prompt()
    assert entries(tmp_path) == [entry] and entry.stat().st_mtime_ns == saved_at


def test_a_memory_that_cannot_be_cut_is_not_saved(
    open_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    path = tmp_path / "mamba.gguf"
    tiny_model.write(path, "mamba")
    with open_engine(path) as engine:
        expected = generate(engine, about(ROWS, "what?"))
        engine.save_prompt()
        assert not entries(tmp_path)
        assert generate(engine, about(ROWS, "what?")) == expected
