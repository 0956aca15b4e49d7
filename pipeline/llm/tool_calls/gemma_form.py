"""Gemma's form of calls: `call:NAME{KEY:VALUE}`, with quotes that are special tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.llm.tool_calls.answer_source import AnswerSource, NotACall, ParserGenerator
from reellama.pipeline.llm.tool_calls.call_event_emitter import CallEventEmitter
from reellama.pipeline.llm.tool_calls.call_grammar import CallGrammar, literal
from reellama.pipeline.llm.tool_calls.python_form import python_value_or_text
from reellama.pipeline.llm.tool_calls.tool import Tool, is_text, properties


@dataclass(frozen=True)
class GemmaForm:
    """`<start_function_call>call:NAME{KEY:<escape>text<escape>}<end_function_call>`.

    begin, end: the texts around each call. quote: the text around each string.
    """

    begin: str
    end: str
    quote: str

    is_plain_json = False

    @property
    def start_markers(self) -> tuple[str, ...]:
        """Texts that begin a call in the middle of an answer."""
        return (self.begin,)

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts of the form that may be special tokens."""
        return (self.begin, self.end, self.quote)

    def read(
        self, source: AnswerSource, begin: str, emitter: CallEventEmitter
    ) -> ParserGenerator[None]:
        """Read the call that follows `begin`."""
        yield from source.skip_space()
        yield from source.expect("call:")
        name, _ = yield from source.text_until("{")
        emitter.begin(name.strip())
        yield from self._object(source, emitter)
        emitter.end()
        yield from source.skip_space()
        yield from source.take(self.end)

    def _value(self, source: AnswerSource, emitter: CallEventEmitter) -> ParserGenerator[None]:
        """Read a value, and emit it as it comes."""
        yield from source.skip_space()
        if (yield from source.take(self.quote)):
            emitter.arguments('"')
            yield from source.until((self.quote,), emitter.text)
            emitter.arguments('"')
        elif (yield from source.take("{")):
            yield from self._object(source, emitter)
        elif (yield from source.take("[")):
            yield from self._list(source, emitter)
        else:
            scalar: list[str] = []
            yield from source.json(scalar.append)
            emitter.value(python_value_or_text("".join(scalar)))

    def _object(self, source: AnswerSource, emitter: CallEventEmitter) -> ParserGenerator[None]:
        """Read an object after its `{`."""
        emitter.arguments("{")
        separator = ""
        while True:
            yield from source.skip_space()
            if (yield from source.take("}")):
                return emitter.arguments("}")
            if (yield from source.peek()):  # another key
                emitter.arguments(separator)
            if (yield from source.take(self.quote)):
                key, _ = yield from source.text_until(self.quote)
                yield from source.expect(":")
            else:
                key, _ = yield from source.text_until(":")
            emitter.arguments(f"{json.dumps(key.strip(), ensure_ascii=False)}: ")
            yield from self._value(source, emitter)
            separator = ", "
            yield from source.skip_space()
            yield from source.take(",")

    def _list(self, source: AnswerSource, emitter: CallEventEmitter) -> ParserGenerator[None]:
        """Read a list after its `[`."""
        emitter.arguments("[")
        separator = ""
        while True:
            yield from source.skip_space()
            if (yield from source.take("]")):
                return emitter.arguments("]")
            if source.ended and not (yield from source.peek()):
                raise NotACall
            emitter.arguments(separator)
            yield from self._value(source, emitter)
            separator = ", "
            yield from source.skip_space()
            yield from source.take(",")

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model would have written them."""
        return "".join(
            f"{self.begin}call:{call.name}{self._write_value(call.arguments)}{self.end}"
            for call in calls
        )

    def _write_value(self, value: Any) -> str:
        if isinstance(value, str):
            return f"{self.quote}{value}{self.quote}"
        if isinstance(value, Mapping):
            return "{" + ",".join(f"{k}:{self._write_value(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(self._write_value, value)) + "]"
        return json.dumps(value)

    def add_rules(self, grammar: CallGrammar, tools: Sequence[Tool], parallel: bool) -> str:
        """Add the rules of calls; returns the GBNF of one or, if `parallel`, of one or more."""
        alternatives = (
            f"{literal(f'{self.begin}call:{tool.name}')} "
            f"{self._object_rule(grammar, tool.parameters)} {literal(self.end)}"
            for tool in tools
        )
        call = grammar.rule("call", " | ".join(alternatives))
        return f"{call}+" if parallel else call

    def _object_rule(self, grammar: CallGrammar, schema: Mapping[str, Any]) -> str:
        """The rule of an object: required members first, then optional ones, in order."""
        known = properties(schema)
        required = [key for key in schema.get("required") or () if key in known]
        pairs = {
            key: f"{literal(key + ':')} {self._value_rule(grammar, value)}"
            for key, value in known.items()
        }
        parts = ' "," '.join(pairs[key] for key in required)
        optional = [pairs[key] for key in known if key not in required]
        if parts:
            parts += "".join(f' ("," {pair})?' for pair in optional)
        elif optional:
            tails = [
                " ".join([pair, *(f'("," {later})?' for later in optional[i + 1 :])])
                for i, pair in enumerate(optional)
            ]
            parts = f"({' | '.join(tails)})?"
        return grammar.rule("object", f'"{{" {parts} "}}"')

    def _value_rule(self, grammar: CallGrammar, schema: Any) -> str:
        if is_text(schema):
            quote = literal(self.quote)
            if choices := schema.get("enum"):
                return f"{quote} ({' | '.join(literal(str(c)) for c in choices)}) {quote}"
            return f"{quote} {grammar.until(self.quote)}"
        if isinstance(schema, Mapping) and schema.get("type") == "object":
            return self._object_rule(grammar, schema)
        if isinstance(schema, Mapping) and schema.get("type") == "array" and "items" in schema:
            (items,) = properties({**schema, "properties": {"": schema["items"]}}).values()
            item = grammar.rule("item", self._value_rule(grammar, items))
            return f'"[" ({item} ("," {item})*)? "]"'
        return grammar.schema(schema)
