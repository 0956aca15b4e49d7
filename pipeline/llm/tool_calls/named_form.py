"""Calls as a tool's name followed by a JSON object of its arguments: Mistral's, gpt-oss's."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.llm.tool_calls.answer_source import AnswerSource, NotACall, ParserGenerator
from reellama.pipeline.llm.tool_calls.call_event_emitter import CallEventEmitter
from reellama.pipeline.llm.tool_calls.call_grammar import CallGrammar, literal
from reellama.pipeline.llm.tool_calls.tool import Tool


@dataclass(frozen=True)
class NamedForm:
    """`[TOOL_CALLS]NAME[ARGS]{...}` and the like.

    begin, middle, end: the texts before the name, between name and arguments, and after both.
    outer_begin, outer_end: the texts around all calls of an answer.
    name: a regular expression that finds the name in the text between `begin` and `middle`.
    prefix, suffix: texts that the model writes before a name, and between name and `middle`.
    between: the text that the model writes between two calls.
    other_begins: texts that a model may write instead of `begin`.
    tokens: parts of these texts that may be special tokens.
    """

    begin: str
    middle: str
    end: str = ""
    outer_begin: str = ""
    outer_end: str = ""
    name: str = r"\s*([\w.-]+)"
    prefix: str = ""
    suffix: str = ""
    between: str = ""
    other_begins: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    is_plain_json = False

    @property
    def start_markers(self) -> tuple[str, ...]:
        """Texts that begin a call in the middle of an answer."""
        texts = (self.outer_begin, self.begin, *self.other_begins)
        return tuple(text for text in texts if text)

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts of the form that may be special tokens."""
        parts = (*self.start_markers, self.middle, self.end, self.outer_end)
        return tuple(text for text in (*parts, *self.tokens) if text)

    def read(
        self, source: AnswerSource, begin: str, emitter: CallEventEmitter
    ) -> ParserGenerator[None]:
        """Read the calls that follow `begin`."""
        if begin == self.outer_begin != "":
            yield from source.skip_space()
            yield from source.expect(self.begin)
        while True:
            header, _ = yield from source.text_until(self.middle.strip())
            match = re.match(self.name, header)
            if match is None:
                raise NotACall
            emitter.begin(match[1])
            yield from source.skip_space()
            yield from source.json(emitter.arguments)
            emitter.end()
            yield from source.skip_space()
            if self.end:
                yield from source.take(self.end.strip())
                yield from source.skip_space()
            if not (yield from source.take(self.begin)):
                break
        if self.outer_end:
            yield from source.take(self.outer_end)

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model would have written them."""
        written = self.between.join(
            f"{self._head(call.name)}{json.dumps(call.arguments, ensure_ascii=False)}{self.end}"
            for call in calls
        )
        return f"{self.outer_begin}{written}{self.outer_end}"

    def _head(self, name: str) -> str:
        """The text before the arguments."""
        return f"{self.begin}{self.prefix}{name}{self.suffix}{self.middle}"

    def add_rules(self, grammar: CallGrammar, tools: Sequence[Tool], parallel: bool) -> str:
        """Add the rules of calls; returns the GBNF of one or, if `parallel`, of one or more."""
        alternatives = (
            f"{literal(self._head(tool.name))} {grammar.arguments(tool)} {literal(self.end)}"
            for tool in tools
        )
        call = grammar.rule("call", " | ".join(alternatives))
        calls = f"{call} ({literal(self.between)} {call})*" if parallel else call
        return f"{literal(self.outer_begin)} {calls} {literal(self.outer_end)}"
