"""Prompts about videos, as token ids and soft tokens.

They are for code that only decodes prompts, such as the collection of an importance matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.bundle import Bundle
from reellama.pipeline.chat.conversation import Turn
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.llm.prompt import tokenize_prompt

ANSWER_TOKENS = 64  # of the model's own description


def video_prompts(
    videos: Iterable[str | Path],
    bundle: str | Path = "mini",
    llm: str | Path | None = None,
    **engine: Any,
) -> Iterator[list[np.ndarray]]:
    """A prompt for each video: token ids int32 `[n]` and soft tokens float32 `[n, n_embd]`.

    A prompt has the video, the bundle's request for a description, and the answer of `llm`. Raises
    ReellamaError for a video that cannot be read, an LLM of another width, and a vision GGUF, whose
    tokens have other positions.
    """
    with VideoChat(bundle=bundle, llm=llm, **engine) as video_chat:
        if not isinstance(video_chat.bundle, Bundle):
            raise ReellamaError(f"{bundle} is a vision GGUF: only a bundle has soft tokens alone")
        request = video_chat.bundle.describe
        for path in videos:
            video_chat.add(path)
            answer = video_chat.describe(max_tokens=ANSWER_TOKENS)  # greedy
            prompt = video_chat.conversation.prompt(request, [Turn(request, answer)])
            tokenized = tokenize_prompt(
                prompt, video_chat.engine.tokenizer, video_chat.engine.n_embd
            )
            yield [
                np.array(span.keys, np.int32) if span.soft is None else span.soft.rows
                for span in tokenized.spans
            ]
            video_chat.conversation.clear()
            video_chat.videos.clear()
