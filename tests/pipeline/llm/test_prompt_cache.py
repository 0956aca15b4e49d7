"""What an LLM made of a video is kept: a second question reads its own words alone."""

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
def opened(model: Path, tmp_path: Path) -> Callable[..., Engine]:
    """Engines as processes have them, one after another, with one folder of prompts."""

    def opened(path: Path = model, **options: Any) -> Engine:
        store = ArrayCache(tmp_path / "prompts")
        return Engine(path, **{"n_ctx": 256, "n_threads": 1, "prompt_cache": store, **options})

    return opened


def said(engine: Engine, prompt: list[PromptPart]) -> list[tuple[int, float]]:
    return [(token.id, token.p) for token in engine.generate(prompt, max_tokens=6)]


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "prompts").glob("*"))


@pytest.mark.parametrize("options", [{}, {"type_k": "f32", "type_v": "f32"}, {"n_batch": 8}])
def test_the_next_engine_reads_the_question_alone_and_says_the_same_to_the_bit(
    opened: Callable[..., Engine], options: dict[str, Any]
) -> None:
    with opened(**options) as engine:
        said(engine, about(ROWS, "what?"))
        engine.save_prompt()
        engine.clear()
    with opened(prompt_cache=None, **options) as engine:
        expected = said(engine, about(ROWS, "who?"))
        assert engine.last.n_reused == 0
    with opened(**options) as engine:
        assert said(engine, about(ROWS, "who?")) == expected
        assert engine.last.n_read == len(engine.tokenizer.encode("who?"))
        assert engine.last.n_reused == engine.count([START, ROWS])
        # What was put there is a part of the KV cache like any other.
        engine.prefill(about(ROWS, "where?"))
        assert engine.last.n_reused >= engine.count([START, ROWS])


def test_what_differs_before_the_question_is_read(opened: Callable[..., Engine]) -> None:
    with opened() as engine:
        engine.prefill(about(ROWS, "what?"))
        engine.save_prompt()
    prompts: list[list[PromptPart]] = [
        about(ROWS + 1e-6, "what?"),
        [Text("a"), ROWS, Text("what?")],
        [START],
    ]
    for prompt in prompts:
        with opened() as engine:
            assert engine.prefill(prompt).n_reused == 0


@pytest.mark.parametrize("change", ["the file", "the type of the cache", "its place"])
def test_another_llm_reads_by_itself(
    opened: Callable[..., Engine], model: Path, tmp_path: Path, change: str
) -> None:
    with opened() as engine:
        engine.prefill(about(ROWS, "what?"))
        engine.save_prompt()
    if change == "the file":
        os.utime(model, (1, 1))
    path = tmp_path / "other.gguf" if change == "its place" else model
    if path != model:
        shutil.copyfile(model, path)
    options = {"type_k": "f32"} if change == "the type of the cache" else {}
    with opened(path, **options) as engine:
        assert engine.prefill(about(ROWS, "what?")).n_reused == 0


@pytest.mark.parametrize("damage", ["cut off", "another size", "noise", "no state"])
def test_a_damaged_state_is_read_anew(
    opened: Callable[..., Engine], tmp_path: Path, damage: str
) -> None:
    with opened() as engine:
        expected = said(engine, about(ROWS, "what?"))
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
    with opened() as engine:
        assert said(engine, about(ROWS, "what?")) == expected
        assert engine.last.n_reused == 0


def test_it_is_kept_once_and_only_with_soft_tokens(
    opened: Callable[..., Engine], tmp_path: Path
) -> None:
    with opened() as engine:
        engine.save_prompt()
        engine.prefill([START])
        engine.save_prompt()
        assert not entries(tmp_path)
        engine.prefill(about(ROWS, "what?"))
        engine.save_prompt()
        (entry,) = entries(tmp_path)
        assert engine.n_past == engine.count([START, ROWS])
        made = entry.stat().st_mtime_ns
        engine.prefill(about(ROWS, "who?"))
        engine.save_prompt()
    with opened() as engine:
        engine.prefill(about(ROWS, "who?"))
        engine.save_prompt()
    assert entries(tmp_path) == [entry] and entry.stat().st_mtime_ns == made


def test_a_memory_that_cannot_be_cut_is_not_kept(
    opened: Callable[..., Engine], tmp_path: Path
) -> None:
    path = tmp_path / "mamba.gguf"
    tiny_model.write(path, "mamba")
    with opened(path) as engine:
        expected = said(engine, about(ROWS, "what?"))
        engine.save_prompt()
        assert not entries(tmp_path)
        assert said(engine, about(ROWS, "what?")) == expected
