"""What a bundle asks its LLM to read of a video is what an importance matrix is collected from."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.quantization.imatrix import read_imatrix
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.models.bundle import Bundle
from reellama.pipeline.chat.video_prompts import video_prompts
from tests.conftest import Result


def test_a_prompt_has_the_video_the_question_and_an_answer(demo_video: Path, smollm2: Path) -> None:
    (prompt,) = video_prompts([demo_video], n_ctx=512, n_threads=1)
    before, soft, after = prompt
    bundle = Bundle.load("mini")
    assert soft.dtype == np.float32 and soft.ndim == 2
    assert before.dtype == after.dtype == np.int32
    with Tokenizer.from_path(smollm2) as tokenizer:
        text = tokenizer.decode(after.tolist())
    _, between, _ = text.split(bundle.describe)
    assert any(letter.isalpha() for letter in between)  # what the model says of it


def test_the_command_counts_every_position_of_a_long_part(
    demo_video: Path,
    tmp_path: Path,
    small_bundle: Path,
    small_llm: Path,
    reellama: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts: list[list[np.ndarray]] = []

    def recorded(*arguments: Any, **options: Any) -> Iterator[list[np.ndarray]]:
        for prompt in video_prompts(*arguments, **options):
            prompts.append(prompt)
            yield prompt

    monkeypatch.setattr("reellama.pipeline.chat.video_prompts.video_prompts", recorded)
    place = tmp_path / "m.gguf"
    arguments = ["--bundle", small_bundle, "-o", place, "--threads", "1"]
    videos = ["--video", demo_video, "--video", demo_video]
    done = reellama("gguf", "imatrix", small_llm, *videos, *arguments)
    assert done.status == 0, done.err
    matrix = read_imatrix(place)
    assert matrix.datasets == (demo_video.name, demo_video.name)
    # Positions that the command itself read: a small LLM may describe a video otherwise next time.
    counted = sum(len(part) for prompt in prompts for part in prompt if len(part) >= 16)
    assert len(prompts) == 2
    assert {int(count[0]) for count in matrix.counts.values()} == {counted}
    refused = reellama("gguf", "imatrix", small_llm, "--video", demo_video, "--process-output")
    assert "--process-output needs a TEXT" in refused.err


def test_an_llm_of_another_width_is_refused(demo_video: Path, tiny_llama: Path) -> None:
    with pytest.raises(ReellamaError):
        list(video_prompts([demo_video], llm=tiny_llama))
