"""Options of a request, in any protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reellama.pipeline.llm.generation_options import GenerationOptions

ANY_JSON_OBJECT: dict[str, Any] = {"type": "object"}


@dataclass(frozen=True)
class RequestOptions:
    """How to answer a request.

    n_ctx: positions that may be used, at most the server's. keep_alive: seconds, -1 for ever.
    video: how videos are read, by the names of `reellama.pipeline.server.video_options`.
    response_format: "json", or a JSON schema. truncate: whether a conversation that is too long
    loses its oldest turns, or is refused. model_only: whether the model answers questions that a
    file or a rule could answer; None leaves it to the server. context: token ids before the prompt.
    """

    generation_options: GenerationOptions
    n_ctx: int | None = None
    keep_alive: float | None = None
    response_format: str | dict[str, Any] | None = None
    video: Mapping[str, Any] = field(default_factory=dict)
    model_only: bool | None = None
    truncate: bool = True
    context: tuple[int, ...] = ()

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer follows, if any."""
        form = self.response_format
        return ANY_JSON_OBJECT if isinstance(form, str) else form
