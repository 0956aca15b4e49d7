"""Calls as JSON objects with the tool's name and its arguments: the form of most families."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.llm.tool_calls.answer_source import AnswerSource, NotACall, ParserGenerator
from reellama.pipeline.llm.tool_calls.call_event_emitter import CallEventEmitter
from reellama.pipeline.llm.tool_calls.call_grammar import CallGrammar, literal
from reellama.pipeline.llm.tool_calls.tool import Tool


@dataclass(frozen=True)
class JsonForm:
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>` and the like.

    begin: the text before a call; "" if an answer that is JSON is a call.
    end: the text after a call.
    name, arguments: the keys. name "" means {NAME: ARGUMENTS}.
    listed: all calls of an answer are one list; otherwise each has its own `begin` and `end`.
    other_begins: texts that other models of the family write instead of `begin`.
    """

    begin: str
    end: str = ""
    name: str = "name"
    arguments: str = "arguments"
    listed: bool = False
    other_begins: tuple[str, ...] = ()

    @property
    def start_markers(self) -> tuple[str, ...]:
        """Texts that begin a call in the middle of an answer."""
        return tuple(text for text in (self.begin, *self.other_begins) if text)

    @property
    def is_plain_json(self) -> bool:
        """Whether an answer that is JSON is a call."""
        return not self.begin

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts of the form that may be special tokens."""
        return tuple(text for text in (*self.start_markers, self.end) if text)

    def read(
        self, source: AnswerSource, begin: str, emitter: CallEventEmitter
    ) -> ParserGenerator[None]:
        """Read the objects, or the list of objects, that follow `begin`."""
        yield from source.skip_space()
        listed = yield from source.take("[")
        while True:
            yield from source.skip_space()
            yield from self._object(source, emitter, is_plain_json=not begin)
            yield from source.skip_space()
            if (yield from source.take(",")):
                continue
            if (yield from source.peek()) != "{":
                break
        if listed:
            yield from source.expect("]")
            yield from source.skip_space()
        if self.end:
            yield from source.take(self.end)

    def _object(
        self, source: AnswerSource, emitter: CallEventEmitter, is_plain_json: bool
    ) -> ParserGenerator[None]:
        """Read one call. If the name comes first, the arguments are emitted as they come."""
        yield from source.expect("{")
        name: str | None = None
        held: list[str] = []  # the arguments, if they come before the name
        is_emitted = False
        while True:
            yield from source.skip_space()
            if (yield from source.take("}")):
                break
            key = yield from source.json_string()
            yield from source.skip_space()
            yield from source.expect(":")
            yield from source.skip_space()
            if key == self.name and self.name:
                name = yield from source.json_string()
            elif key == self.arguments or not self.name:
                name = key if not self.name else name
                if name is None:
                    yield from source.json(held.append)
                else:
                    emitter.begin(name)
                    yield from self._arguments(source, emitter)
                    is_emitted = True
            else:
                yield from source.json_value()
            yield from source.skip_space()
            yield from source.take(",")
        if name is None or (is_plain_json and not is_emitted and not held):
            raise NotACall
        if not is_emitted:
            emitter.begin(name)
            emitter.arguments("".join(held) or "{}")
        emitter.end()

    def _arguments(self, source: AnswerSource, emitter: CallEventEmitter) -> ParserGenerator[None]:
        if (yield from source.peek()) == '"':  # an object as a JSON string
            emitter.arguments((yield from source.json_string()) or "{}")
        else:
            yield from source.json(emitter.arguments)

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model would have written them."""
        objects = [json.dumps(self._as_object(call), ensure_ascii=False) for call in calls]
        if self.listed or (self.is_plain_json and len(objects) > 1):
            return f"{self.begin}[{', '.join(objects)}]{self.end}"
        if self.begin and self.end:
            return "\n".join(f"{self.begin}\n{text}\n{self.end}" for text in objects)
        return "\n".join(f"{self.begin}{text}{self.end}" for text in objects)

    def _as_object(self, call: ToolCall) -> dict[str, Any]:
        if not self.name:
            return {call.name: call.arguments}
        return {self.name: call.name, self.arguments: call.arguments}

    def add_rules(self, grammar: CallGrammar, tools: Sequence[Tool], parallel: bool) -> str:
        """Add the rules of calls; returns the GBNF of one or, if `parallel`, of one or more."""
        call = grammar.rule("call", " | ".join(self._call(grammar, tool) for tool in tools))
        if self.listed:
            more = f' ("," space {call})*' if parallel else ""
            calls = f'"[" space {call} space{more} "]"'
            return f"{literal(self.begin)} space {calls} {literal(self.end)}"
        one = f"{literal(self.begin)} space {call} space {literal(self.end)}"
        return f"{one} (space {one})*" if parallel else one

    def _call(self, grammar: CallGrammar, tool: Tool) -> str:
        arguments = grammar.arguments(tool)
        if not self.name:
            return f'"{{" space {literal(json.dumps(tool.name))} space ":" space {arguments} "}}"'
        parts = [literal(json.dumps(self.name)), '":"', literal(json.dumps(tool.name)), '","']
        parts += [literal(json.dumps(self.arguments)), '":"', arguments]
        return '"{" space ' + " space ".join(parts) + ' "}"'
