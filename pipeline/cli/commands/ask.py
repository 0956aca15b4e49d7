"""`reellama ask` and `reellama describe`: one question, one answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from typer import BadParameter

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import GGUFFile
from reellama.models.bundle import Bundle
from reellama.models.open_bundle import VideoBundle
from reellama.models.prompt_format import AFTER_VIDEO
from reellama.pipeline.chat.conversation import Video
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.cli.arguments.checks import bad_arguments
from reellama.pipeline.cli.arguments.verbosity import is_verbose
from reellama.pipeline.cli.options import AnswerOptions, FrameOptions, ModelOptions
from reellama.pipeline.llm.engine import Token
from reellama.pipeline.llm.generation_options import SamplingError

CONTEXT_STEP = 256  # positions
EMPTY_QUESTION = "the question is empty: say what you want to know about the video"


@dataclass(frozen=True)
class OutputOptions:
    """What is shown beside the answer."""

    json: bool
    probs: bool
    timings: bool


def run(
    videos: list[Path],
    question: str | None,
    frames: FrameOptions,
    model: ModelOptions,
    answer: AnswerOptions,
    output: OutputOptions,
) -> None:
    """Answer `question` about `videos`; None asks for a description, "-" reads it from stdin."""
    if question is not None and not question.strip():
        raise BadParameter(EMPTY_QUESTION)
    if question == "-":
        question = sys.stdin.read()
    if question is not None and not question.strip():
        raise ReellamaError(EMPTY_QUESTION)
    with bad_arguments(SamplingError):
        generation = answer.generation()  # a wrong grammar file is told before anything is loaded

    def needed(bundle: VideoBundle, llm: GGUFFile) -> int:
        asked = bundle.describe if question is None else question
        texts = (asked, bundle.system if model.system is None else model.system)
        return positions_needed(bundle, llm, len(videos), texts, answer.max_tokens)

    with model.open(frames, wait=False, needed=needed) as video_chat:
        # Rich is imported while the LLM is loaded.
        from reellama.pipeline.cli import answer_printer  # noqa: F401
        from reellama.pipeline.cli.console import (
            add_video,
            detail,
            merge_adapter,
            note_footage_caveat,
        )

        detail(f"bundle {video_chat.bundle.name}, LLM {video_chat.llm}")
        video_chat.check_llm()
        for path in videos:
            add_video(video_chat, path)
        asked = video_chat.bundle.describe if question is None else question.strip()
        if footage := video_chat.footage_behind(asked, **generation):
            note_footage_caveat(footage.path, footage.footage_caveat)
        if question is None:
            _describe(video_chat, generation, output)
        else:
            _answer(video_chat, asked, generation, output)
        merge_adapter(video_chat)


def positions_needed(
    bundle: VideoBundle, llm: GGUFFile, n_videos: int, texts: Iterable[str], max_tokens: int
) -> int:
    """Positions that one question and its answer take at most.

    What a context does not hold need not be cleared: of 4096 positions that is 94 MB for `mini`. A
    bundle that pools its tokens takes what room there is.
    """
    if not isinstance(bundle, Bundle):
        return sys.maxsize
    # No text has more tokens than bytes, and a template adds less than it is long.
    n_text = sum(len(text.encode()) for text in (*texts, llm.chat_template or ""))
    n = n_videos * (bundle.tokens + len(AFTER_VIDEO)) + n_text + max_tokens
    return (n // CONTEXT_STEP + 1) * CONTEXT_STEP


def _describe(video_chat: VideoChat, generation: dict[str, Any], output: OutputOptions) -> None:
    from reellama.pipeline.cli.console import out, strip_control

    watched = video_chat.videos
    for video in watched:  # each by itself, or one would be told of the other
        video_chat.conversation.videos = [video]
        video_chat.conversation.clear()
        if len(watched) > 1 and not output.json:
            out.print(
                f"{strip_control(video.path.name or str(video.path))}: ", end="", markup=False
            )
        _answer(video_chat, video_chat.bundle.describe, generation, output)


def _answer(
    video_chat: VideoChat, question: str, generation: dict[str, Any], output: OutputOptions
) -> None:
    """Ask `question` and print the answer and what was wanted beside it."""
    from reellama.pipeline.cli.answer_printer import print_answer, print_remarks
    from reellama.pipeline.cli.console import alternatives_table, err, out, timings_table

    tokens: list[Token] = []
    if not output.probs:
        generation = generation | {"n_probs": 0}  # what nobody sees takes a thirtieth of the time
    stream = video_chat.stream(question, **generation)
    if output.json:
        tokens.extend(stream)
        footage = video_chat.footage_behind(question, **generation)
        print_json(video_chat, question, tokens, footage, probs=output.probs)
    else:
        print_answer(stream, tokens, probs=output.probs)
        print_remarks(video_chat, generation["max_tokens"])
        if output.probs and (out.no_color or not out.color_system):
            err.print(alternatives_table(tokens))
    if output.timings or is_verbose():
        err.print(timings_table(video_chat.timings))
    sys.stdout.flush()  # the answer is there: now for what makes the next one quick
    video_chat.save_prompt()


def print_json(
    video_chat: VideoChat,
    question: str,
    tokens: list[Token],
    footage: Video | None,
    *,
    probs: bool,
) -> None:
    """One object on stdout, for programs; the notes on `footage` have its caveat."""
    data: dict[str, Any] = {
        "answer": "".join(token.text for token in tokens).strip(),
        "question": question,
        "videos": [
            {
                "path": str(video.path),
                "duration": video.clip.duration,
                "frames": [round(float(time), 6) for time in video.clip.times],
                "soft_tokens": video.n_soft_tokens,
                "notes": [*video.clip.notes, *[video.footage_caveat] * (video is footage)],
            }
            for video in video_chat.videos
        ],
        "bundle": video_chat.bundle.name,
        "llm": video_chat.llm,
        "stop_reason": video_chat.last.stop_reason,
        "timings": video_chat.timings.to_json(),
    }
    if probs:
        data["tokens"] = [
            {"text": t.text, "p": None if isnan(t.p) else t.p, "alternatives": t.alternatives}
            for t in tokens
        ]
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
