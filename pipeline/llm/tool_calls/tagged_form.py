"""Calls with tags around each argument: Qwen3-Coder's, GLM's, MiniMax's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from reellama.pipeline.llm.finite_json import finite_json
from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.llm.tool_calls.answer_source import AnswerSource, ParserGenerator
from reellama.pipeline.llm.tool_calls.call_event_emitter import CallEventEmitter
from reellama.pipeline.llm.tool_calls.call_grammar import CallGrammar, literal
from reellama.pipeline.llm.tool_calls.python_form import python_value_or_text
from reellama.pipeline.llm.tool_calls.tool import Tool, is_text

_CDATA = "<![CDATA["  # which MiniCPM writes before strings


@dataclass(frozen=True)
class TaggedForm:
    """`<function=NAME><parameter=KEY>VALUE</parameter></function>` and the like.

    Values are plain text if the tool's schema has the type string, otherwise JSON. The fields are
    the texts of the tags. outer_begin, outer_end: around each call, or with `shared` around all
    calls. newline: between tags. padded: values are on lines of their own. says_text: the text
    between a key and "true" or "false", for models that write whether each value is a string.
    """

    outer_begin: str
    outer_end: str
    name_begin: str
    name_end: str
    key_begin: str
    key_end: str
    value_end: str
    end: str
    value_begin: str = ""
    shared: bool = False
    newline: str = "\n"
    padded: bool = False
    says_text: str = ""

    is_plain_json = False

    @property
    def start_markers(self) -> tuple[str, ...]:
        """Texts that begin a call in the middle of an answer."""
        return tuple(text for text in (self.outer_begin, self.name_begin) if text)

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts of the form that may be special tokens."""
        parts = (*self.start_markers, self.outer_end, self.end, self.key_begin, self.key_end)
        return tuple(text for text in (*parts, self.value_begin, self.value_end) if text)

    def read(
        self, source: AnswerSource, begin: str, emitter: CallEventEmitter
    ) -> ParserGenerator[None]:
        """Read the calls that follow `begin`."""
        if self.name_begin and begin == self.outer_begin:
            yield from source.skip_space()
            yield from source.expect(self.name_begin)
        while True:
            yield from self._call(source, emitter)
            yield from source.skip_space()
            if not self.name_begin or not (yield from source.take(self.name_begin)):
                break
        if self.outer_end:
            yield from source.take(self.outer_end)

    def _call(self, source: AnswerSource, emitter: CallEventEmitter) -> ParserGenerator[None]:
        header, marker = yield from source.text_until(self.key_begin, self.end)
        name = header.strip().removesuffix(self.name_end).strip()
        emitter.begin(name)
        emitter.arguments("{")
        separator = ""
        while marker == self.key_begin:
            emitter.arguments(separator)
            key, _ = yield from source.text_until(self.key_end)
            if self.value_begin:
                yield from source.skip_space()
                yield from source.expect(self.value_begin)
            schema = emitter.schema(name, key)
            if self.says_text:
                key, _, is_string = key.partition(self.says_text)
                schema = {"type": "string"} if is_string == "true" else {}
            emitter.arguments(f"{json.dumps(key, ensure_ascii=False)}: ")
            yield from self._value(source, emitter, schema)
            separator = ", "
            _, marker = yield from source.text_until(self.key_begin, self.end)
        emitter.arguments("}")
        emitter.end()

    def _value(
        self, source: AnswerSource, emitter: CallEventEmitter, schema: Any
    ) -> ParserGenerator[None]:
        """Read a value and its end. Strings are emitted as they come."""
        endings: tuple[str, ...] = (self.value_end,)
        if self.padded:
            yield from source.take("\n")
            endings = (f"\n{self.value_end}", *endings)
        if (yield from source.take(_CDATA)):
            endings = (*(f"]]>{ending}" for ending in endings), *endings)
        if is_text(schema):
            emitter.arguments('"')
            yield from source.until(endings, emitter.text)
            emitter.arguments('"')
        else:
            text, _ = yield from source.text_until(*endings)
            emitter.value(_json_or_python(text))

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model would have written them."""
        written = [self.newline.join(self._parts(call)) for call in calls]
        if not self.shared:
            outer = self.outer_begin if self.name_begin else "", self.outer_end
            written = [self.newline.join(filter(None, (outer[0], w, outer[1]))) for w in written]
            return self.newline.join(written)
        return self.newline.join([self.outer_begin, *written, self.outer_end])

    def _parts(self, call: ToolCall) -> Iterator[str]:
        begin = self.name_begin or self.outer_begin
        yield f"{begin}{call.name}{self.name_end}"
        pad = "\n" if self.padded else ""
        between = self.newline if self.value_begin else ""
        for key, value in call.arguments.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield (
                f"{self._key(key, isinstance(value, str))}{between}{self.value_begin}"
                f"{pad}{text}{pad}{self.value_end}"
            )
        yield self.end

    def _key(self, key: str, is_string: bool) -> str:
        """A key with its tags. is_string: whether its value is a string."""
        kind = f"{self.says_text}{str(is_string).lower()}" if self.says_text else ""
        return f"{self.key_begin}{key}{kind}{self.key_end}"

    def add_rules(self, grammar: CallGrammar, tools: Sequence[Tool], parallel: bool) -> str:
        """Add the rules of calls; returns the GBNF of one or, if `parallel`, of one or more."""
        call = grammar.rule("call", " | ".join(self._tool_rule(grammar, tool) for tool in tools))
        newline = literal(self.newline)
        more = f"({newline} {call})*" if parallel else '""'
        if not self.shared:
            return f"{call} {more}"
        begin = literal(self.outer_begin + self.newline)
        return f"{begin} {call} {more} {literal(self.newline + self.outer_end)}"

    def _tool_rule(self, grammar: CallGrammar, tool: Tool) -> str:
        """GBNF of a call of one tool."""
        newline = self.newline
        own_outer = bool(self.name_begin) and not self.shared
        begin = self.outer_begin + newline + self.name_begin if own_outer else self.name_begin
        begin = (begin or self.outer_begin) + tool.name + self.name_end + newline
        parts = [literal(begin)]
        required = tool.parameters.get("required") or ()
        for key, schema in tool.properties.items():
            between = newline if self.value_begin else ""
            before = f"{self._key(key, is_text(schema))}{between}{self.value_begin}"
            value = self._value_rule(grammar, schema, before)
            part = f"{value} {literal(newline)}"
            parts.append(part if key in required else f"({part})?")
        parts.append(literal(self.end + (newline + self.outer_end if own_outer else "")))
        return " ".join(parts)

    def _value_rule(self, grammar: CallGrammar, schema: Any, before: str) -> str:
        pad = "\n" if self.padded else ""
        begin, end = literal(before + pad), pad + self.value_end
        if not is_text(schema):
            return f"{begin} {grammar.schema(schema)} {literal(end)}"
        if choices := schema.get("enum"):
            return f"{begin} ({' | '.join(literal(str(c)) for c in choices)}) {literal(end)}"
        return f"{begin} {grammar.until(end)}"


def _json_or_python(text: str) -> Any:
    """The value of JSON or, as some templates write it, of Python; the text if it is neither."""
    with suppress(ValueError):
        return finite_json(text)
    return python_value_or_text(text)
