"""Options stand in one place: the command line and both protocols have their names and values."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from reellama.pipeline.cli.options import AnswerOptions, FrameOptions
from reellama.pipeline.llm.generation_options import (
    SAMPLING_OPTIONS,
    GenerationOptions,
    Sampling,
    SamplingError,
)
from reellama.pipeline.server.ollama.ollama_schemas import GenerateRequest
from reellama.pipeline.server.openai.openai_schemas import ChatCompletionRequest
from reellama.pipeline.video.read_options import VideoReadOptions

VALUES: dict[str, Any] = dict.fromkeys(SAMPLING_OPTIONS, 1)


def names(options: type) -> set[str]:
    return {each.name for each in fields(options)}


def test_the_command_line_has_the_names_and_defaults_of_the_library() -> None:
    of_bundles = {"max_side", "still_side", "default_frames"}
    assert names(FrameOptions) == names(VideoReadOptions) - of_bundles
    assert names(AnswerOptions) <= names(Sampling) | names(GenerationOptions)
    assert FrameOptions().read_options() == VideoReadOptions()
    assert AnswerOptions().generation() == vars(GenerationOptions())


def test_both_protocols_take_all_sampling_options_by_their_names() -> None:
    of_ollama = GenerateRequest.model_validate({"model": "mini", "options": VALUES}).to_options({})
    messages = [{"role": "user", "content": "What?"}]
    of_openai = ChatCompletionRequest.model_validate(
        {"model": "mini", "messages": messages, **VALUES}
    )
    assert of_ollama.generation_options.sampling == Sampling(**VALUES)
    assert of_openai.options().generation_options.sampling == Sampling(**VALUES)


def test_how_an_answer_ends_has_bounds_too() -> None:
    assert GenerationOptions(stop="END").stop == ("END",)
    with pytest.raises(SamplingError, match="max_tokens is -2"):
        GenerationOptions(max_tokens=-2)
    with pytest.raises(SamplingError, match="n_probs is -1"):
        GenerationOptions(n_probs=-1)


def test_a_saved_conversation_keeps_what_a_person_chose() -> None:
    options = VideoReadOptions(frames=4, fps=2.0, max_side=768)
    saved: dict[str, Any] = {
        "frames": 4,
        "sampling": "uniform",
        "fps": 2.0,
        "start": None,
        "end": None,
        "subtitles": "auto",
    }
    assert options.to_json() == saved
    assert options.mode == "fps"
    assert VideoReadOptions(**saved) == VideoReadOptions(frames=4, fps=2.0)
