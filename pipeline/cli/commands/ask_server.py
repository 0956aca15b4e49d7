"""`reellama ask` through a `reellama serve` that runs already: its models are in memory.

Only a server of the same user, program and bundle is asked, by its Unix socket and in Ollama's
protocol. Whatever it cannot do as `ask` itself would is not asked of it, and whatever goes wrong
before its first word makes `ask` answer by itself. A server is never started from here.

Nothing heavy is imported before a server has begun to answer. The standard library's client takes
a fraction of the time that importing httpx does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, fields, replace
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.chat.file_answers import asks_of_file
from reellama.pipeline.chat.footage_limits import asks_beyond_footage
from reellama.pipeline.chat.question_language import is_in
from reellama.pipeline.chat.subtitle_answers import asks_of_subtitles
from reellama.pipeline.cli.arguments.verbosity import is_verbose
from reellama.pipeline.cli.options import AnswerOptions, FrameOptions, ModelOptions
from reellama.pipeline.server.local import local_socket
from reellama.pipeline.server.request_context import NOTES_HEADER, parse_notes
from reellama.pipeline.video.subtitles import sidecars

# Seconds until the head of an answer: where a server has not begun by then, it hangs.
HEAD_SECONDS = 60.0
# Options that a request carries, or that the server is asked about beforehand. With any other
# option that differs from its default `ask` answers by itself.
FRAME_OPTIONS = {"frames", "sampling", "fps", "start", "end", "subtitles"}
MODEL_OPTIONS = {"bundle", "mmproj", "llm", "system", "tokens", "pooling", "tiles", "n_ctx"}
MODEL_OPTIONS |= {"model_only"}
ANSWER_OPTIONS = {"temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed"}
ANSWER_OPTIONS |= {"max_tokens", "stop"}


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self.path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = local_socket.connect(self.path)
        self.sock.settimeout(HEAD_SECONDS)


def answer_by_server(
    videos: list[Path],
    question: str | None,
    frames: FrameOptions,
    model: ModelOptions,
    answer: AnswerOptions,
) -> bool:
    """Let a running server answer and print it; False where there is none that fits.

    question: None asks for a description. Raises ReellamaError when the answer breaks off.
    """
    if not can_be_asked(videos, question, frames, model, answer):
        return False
    for path in local_socket.sockets():
        try:
            answering = _begin(path, videos[0], question, frames, model, answer)
        except (OSError, HTTPException, ValueError):  # gone, foreign, busy, or of another version
            continue
        if answering is not None:
            notes, lines = answering
            _tell(videos[0].name, notes)
            _print(lines, answer.max_tokens, videos[0])
            return True
    return False


def can_be_asked(
    videos: list[Path],
    question: str | None,
    frames: FrameOptions,
    model: ModelOptions,
    answer: AnswerOptions,
) -> bool:
    """Whether a server would answer as this process does, and as soon as it is asked."""
    return (
        len(videos) == 1
        and videos[0].is_file()
        and not sidecars(videos[0])  # the server reads the file alone
        and not is_verbose()
        and (question is None or _is_for_a_model(question, model.model_only))
        and model.system != ""
        and all(
            getattr(group, field.name) == field.default
            for group, passed in (
                (frames, FRAME_OPTIONS),
                (model, MODEL_OPTIONS),
                (answer, ANSWER_OPTIONS),
            )
            for field in fields(group)
            if field.name not in passed
        )
    )


def _is_for_a_model(question: str, model_only: bool) -> bool:
    """Whether `ask` needs a model for a question. Others it answers from the file or its subtitles,
    or says that the language is not known, or that a bundle cannot tell this of footage."""
    if question.strip() in ("", "-"):
        return False
    needs_no_model = (
        asks_of_file(question) or asks_of_subtitles(question) or asks_beyond_footage(question)
    )
    return model_only or (not needs_no_model and is_in(question, ["en"]))


def _begin(
    path: Path,
    video: Path,
    question: str | None,
    frames: FrameOptions,
    model: ModelOptions,
    answer: AnswerOptions,
) -> tuple[list[str], Iterator[dict[str, Any]]] | None:
    """Notes on the video and the lines of the answer of the server at `path`.

    None when it does not fit or refuses.
    """
    connection = _UnixConnection(path)
    connection.request("GET", local_socket.ABOUT)
    about = json.loads(_body(connection.getresponse()))
    if not isinstance(about, dict):
        raise ValueError(about)
    wanted = local_socket.identity(model.bundle, model.mmproj, model.llm, model.tiles)
    if {name: about.get(name) for name in wanted} != wanted or about["n_ctx"] < model.n_ctx:
        connection.close()
        return None
    content = about["describe"] if question is None else question.strip()
    messages: list[dict[str, Any]] = []
    if model.system:
        messages.append({"role": "system", "content": model.system})
    # The server tells a path from base64 by its dot.
    place = os.path.join(os.sep, ".", os.path.realpath(video).lstrip(os.sep))
    messages.append({"role": "user", "content": content, "videos": [place]})
    body = {"model": about["model"], "messages": messages}
    body["options"] = _options(frames, model, answer)
    connection.request("POST", "/api/chat", json.dumps(body))
    response = connection.getresponse()
    if response.status != 200:
        connection.close()
        return None
    if connection.sock is not None:
        connection.sock.settimeout(None)
    return parse_notes(response.headers.get(NOTES_HEADER)), _lines(connection, response)


def _options(frames: FrameOptions, model: ModelOptions, answer: AnswerOptions) -> dict[str, Any]:
    reading = frames.read_options()
    sampling = asdict(replace(answer, grammar=None, json_schema=None))
    options = {
        **{name: sampling[name] for name in ANSWER_OPTIONS - {"max_tokens"}},
        "num_predict": answer.max_tokens,
        "num_ctx": model.n_ctx,
        **{name: getattr(reading, name) for name in FRAME_OPTIONS},
        "tokens": model.tokens,
        "pooling": model.pooling,
        "model_only": model.model_only,
    }
    return {name: value for name, value in options.items() if value is not None}


def _body(response: HTTPResponse) -> bytes:
    if response.status != 200:
        raise HTTPException(response.reason)
    return response.read()


def _lines(connection: HTTPConnection, response: HTTPResponse) -> Iterator[dict[str, Any]]:
    """The objects of the stream. Leaving early closes the connection, which ends the answer."""
    try:
        while line := response.readline():
            yield json.loads(line)
    finally:
        connection.close()


def _print(lines: Iterator[dict[str, Any]], max_tokens: int, video: Path) -> None:
    from reellama.pipeline.cli.answer_printer import print_limit, print_pieces

    last: dict[str, Any] = {}

    def pieces() -> Generator[tuple[str, str], None, None]:
        with closing(lines):  # type: ignore[type-var]  # a generator
            try:
                for item in lines:
                    last.update(item)
                    yield item.get("message", {}).get("content", ""), ""
            except (OSError, HTTPException, ValueError):
                return

    print_pieces(pieces())
    if not last.get("done"):
        reason = last.get("error", "the server has gone away")
        raise ReellamaError(f"the answer broke off: {reason}; ask again, or with --no-server")
    if caveat := last.get("remark"):
        from reellama.pipeline.cli.console import note_footage_caveat

        note_footage_caveat(video, caveat)
    if last["done_reason"] == "length":
        print_limit("length" if last["eval_count"] >= max_tokens else "context", max_tokens)


def _tell(video: str, notes: Sequence[str]) -> None:
    if notes:
        from reellama.pipeline.cli.console import note

        for text in notes:
            note(f"{video}: {text}")
