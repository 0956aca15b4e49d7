"""The events of a streamed answer: text, reasoning, tool calls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from reellama.pipeline.llm.engine import Token
from reellama.pipeline.llm.finite_json import finite_object


@dataclass(frozen=True)
class TextDelta:
    """More text; `tokens` are the tokens that it is from, for their probabilities."""

    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class ReasoningDelta:
    """More reasoning."""

    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class CallDelta:
    """More of a tool call.

    Each delta has the index of the call in the answer, its id and its name; `arguments` is more of
    the JSON text of its arguments. `first` and `done` mark the first delta and the last.
    """

    index: int
    id: str
    name: str
    arguments: str = ""
    first: bool = False
    done: bool = False

    @property
    def is_end_alone(self) -> bool:
        """Whether the event only marks the end of the call."""
        return self.done and not (self.first or self.arguments)


AnswerEvent = TextDelta | ReasoningDelta | CallDelta


def joined(first: AnswerEvent, second: AnswerEvent) -> AnswerEvent | None:
    """Two successive events as one, or None if they are of different kinds or calls."""
    if isinstance(first, CallDelta) and isinstance(second, CallDelta):
        if first.index == second.index:
            text = first.arguments + second.arguments
            return replace(second, arguments=text, first=first.first)
    elif isinstance(first, TextDelta) and isinstance(second, TextDelta):
        return TextDelta(first.text + second.text)
    elif isinstance(first, ReasoningDelta) and isinstance(second, ReasoningDelta):
        return ReasoningDelta(first.text + second.text)
    return None


@dataclass(frozen=True)
class ToolCall:
    """A whole tool call, with its arguments by name. Results refer to its `id`.

    unread: the text of arguments that are no JSON object; `arguments` then has it as one value.
    """

    name: str
    arguments: dict[str, Any]
    id: str = ""
    unread: str = ""


class CallCollector:
    """Joins the events of each call into a ToolCall."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}

    def add(self, delta: CallDelta) -> ToolCall | None:
        """The call that this event completes, if any, unless its arguments are no JSON object."""
        self._texts.setdefault(delta.index, []).append(delta.arguments)
        if not delta.done:
            return None
        arguments = finite_object("".join(self._texts[delta.index]))
        return None if arguments is None else ToolCall(delta.name, arguments, delta.id)
