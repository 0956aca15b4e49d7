"""A client's chat template, rendered in the sandbox."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from reellama.gguf_tools.text.chat_template import Segment
from reellama.pipeline.server.sandbox.sandbox import SandboxChild, SandboxError

MAX_RENDERING_SECONDS = 20.0  # of wall-clock time, for all renderings of a request
MAX_TEMPLATE_CHARACTERS = 200_000


class SandboxedTemplate:
    """Like `reellama.gguf_tools.text.chat_template.ChatTemplate`, for one request.

    Raises SandboxError for a template that takes too much, and if `strict` for one that fails in
    another way. If not `strict`, ChatML is used in its place.
    """

    def __init__(
        self, child: SandboxChild, source: str, bos: str = "", eos: str = "", strict: bool = True
    ) -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise SandboxError(f"the template has more than {MAX_TEMPLATE_CHARACTERS} characters")
        self._child, self._source, self._bos, self._eos = child, source, bos, eos
        self._strict = strict
        self._seconds = 0.0

    def render(self, messages: Sequence[Any], **variables: Any) -> list[Segment]:
        """The conversation in segments."""
        if self._seconds > MAX_RENDERING_SECONDS:
            raise SandboxError("this template takes too long: send a simpler one")
        started_at = time.monotonic()
        template = {"source": self._source, "bos": self._bos, "eos": self._eos}
        answer = self._child.ask(
            "template", messages=list(messages), variables=variables, **template
        )
        self._seconds += time.monotonic() - started_at
        if answer["problem"] and self._strict:
            raise SandboxError(f"{answer['problem']}; templates are written in Jinja here")
        return [Segment(*segment) for segment in answer["segments"]]
