"""Emits the events of tool calls while an answer is parsed, and gives the calls ids."""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Sequence
from typing import Any

from reellama.pipeline.llm.finite_json import finite_object
from reellama.pipeline.llm.tool_calls.answer_events import AnswerEvent, CallDelta
from reellama.pipeline.llm.tool_calls.tool import Tool

# Mistral's templates accept only ids of nine letters and digits.
ID_LENGTH = 9
_ID_LETTERS = string.ascii_letters + string.digits


def new_call_id() -> str:
    """A new id of a call."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(ID_LENGTH))


class CallEventEmitter:
    """Appends the events of calls to `events`.

    `n_calls` counts the calls that have begun, `n_ended_calls` those that are whole.
    tools: the tools that may be called; some forms are parsed by the schemas of arguments.
    """

    def __init__(self, events: list[AnswerEvent], tools: Sequence[Tool] = ()) -> None:
        self.n_calls = self.n_ended_calls = 0
        self._tools = {tool.name: tool for tool in tools}
        self._events = events
        self._id, self._name = "", ""
        self._arguments: list[str] = []  # pieces of the JSON text of the call's arguments
        self._is_open = False  # whether a call is begun and not ended

    def schema(self, name: str, key: str) -> Any:
        """The schema of an argument, None if it is not known."""
        return self._tools[name].properties.get(key) if name in self._tools else None

    def may_call(self, name: str) -> bool:
        """Whether this is one of the tools that may be called; True if these are not known."""
        return name in self._tools or not self._tools

    def begin(self, name: str) -> None:
        """Begin a call of this tool."""
        self._id, self._name = new_call_id(), name
        self._arguments, self._is_open = [], True
        self.n_calls += 1
        self._emit(first=True)

    def arguments(self, text: str) -> None:
        """Add JSON text to the arguments of the call."""
        if text:
            self._arguments.append(text)
            self._emit(text)

    def value(self, value: Any) -> None:
        """Add a value to the JSON text of the arguments."""
        self.arguments(json.dumps(value, ensure_ascii=False))

    def text(self, text: str) -> None:
        """Add to a JSON string of the arguments, between its quotes."""
        self.arguments(json.dumps(text, ensure_ascii=False)[1:-1])

    def end(self) -> None:
        """End the call."""
        self.n_ended_calls += 1
        self._is_open = False
        self._emit(done=True)

    def end_if_whole(self) -> None:
        """End the call that is begun, if its arguments lack nothing but perhaps their last brace.

        `{` alone is not ended: the model had begun to write arguments.
        """
        text = "".join(self._arguments)
        if not self._is_open or not text:
            return
        if finite_object(text) is None:
            if not finite_object(text + "}"):
                return
            self.arguments("}")
        self.end()

    def whole(self, name: str, arguments: dict[str, Any]) -> None:
        """Emit a whole call."""
        self.begin(name)
        self.value(arguments)
        self.end()

    def _emit(self, text: str = "", first: bool = False, done: bool = False) -> None:
        self._events.append(CallDelta(self.n_calls - 1, self._id, self._name, text, first, done))
