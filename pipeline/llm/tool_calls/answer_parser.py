"""An answer taken apart as it streams: text, reasoning, calls of tools."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reellama.pipeline.llm.engine import Token
from reellama.pipeline.llm.tool_calls.answer_events import (
    AnswerEvent,
    CallDelta,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    joined,
)
from reellama.pipeline.llm.tool_calls.answer_source import AnswerSource, NotACall, ParserGenerator
from reellama.pipeline.llm.tool_calls.call_event_emitter import CallEventEmitter
from reellama.pipeline.llm.tool_calls.reasoning_tags import ReasoningTags
from reellama.pipeline.llm.tool_calls.tool import Tool
from reellama.pipeline.llm.tool_calls.tool_forms import ToolForm

_BRACKETS = ("{", "[")
_SPACE = re.compile(r"\s+")


class AnswerParser:
    """Takes an answer piece by piece; `push` returns the events that are certain.

    form: how this model calls tools; None where it has none to call. reasoning: the tags around
    its reasoning; None where it shows none. in_reasoning: the prompt ends inside of reasoning.
    tools: those that may be called.
    """

    def __init__(
        self,
        form: ToolForm | None = None,
        reasoning: ReasoningTags | None = None,
        in_reasoning: bool = False,
        tools: Sequence[Tool] = (),
    ) -> None:
        self._form, self._reasoning, self._in_reasoning = form, reasoning, in_reasoning
        self._tools = tools
        self._source = AnswerSource()
        self._events: list[AnswerEvent] = []
        self._emitter = CallEventEmitter(self._events, tools)
        self._cut = False
        self._space = ""  # white space after the text: it is left out before a call
        self._tokens: list[Token] = []  # those that belong to no event yet
        self._parsing = self._read()
        next(self._parsing, None)

    @property
    def n_calls(self) -> int:
        """How many calls were begun."""
        return self._emitter.n_calls

    def push(self, text: str, token: Token | None = None) -> list[AnswerEvent]:
        """Take the next piece of the answer, and the token that it is of."""
        self._source.push(text)
        self._tokens += [token] if token else []
        return self._resume()

    def finish(self, cut: bool = False) -> list[AnswerEvent]:
        """The end of the answer: what was held back.

        cut: the token limit ended it. Half a marker is then left out, as llama.cpp's server does;
        where the model itself ended, it is text. Letters alone are rather those of a word, though
        " to=functions." begins with some.
        """
        if cut and self._is_half_marker(self._source.unread):
            self._source.drop_unread()
            self._space = ""
        self._cut, self._source.ended = cut, True
        return self._resume()

    def _is_half_marker(self, text: str) -> bool:
        """Whether a text that was held back begins a marker, perhaps after white space."""
        markers = self._form.markers if self._form is not None else ()
        if (tags := self._reasoning) is not None:
            markers = (*markers, tags.begin, tags.end, *tags.silent)
        half = text.strip()
        begins = any(marker.strip().startswith(half) for marker in markers)
        return text != "" and not half.isalpha() and begins

    def _resume(self) -> list[AnswerEvent]:
        next(self._parsing, None)
        events: list[AnswerEvent] = []
        for event in self._events:
            if events and (both := joined(events[-1], event)):
                events[-1] = both
            else:
                events.append(event)
        self._events.clear()
        for i, event in enumerate(events):
            if isinstance(event, CallDelta):
                self._source.forget_mark()  # a call that was emitted is not taken back
            else:
                events[i] = type(event)(event.text, tuple(self._tokens))
            self._tokens = []
        return events

    def _read(self) -> ParserGenerator[None]:
        source = self._source
        yield from self._read_reasoning()
        if self._form is not None and self._form.is_plain_json:
            yield from source.skip_space()
            if (yield from source.peek()) in _BRACKETS:
                yield from self._read_calls("")
        markers = self._form.start_markers if self._form is not None else ()
        tags = self._reasoning
        if tags is not None and tags.silent:
            markers = (*markers, *tags.silent, tags.begin)
        while True:
            if markers:
                begin = yield from source.until(markers, self._emit_trimmed, or_end=True)
            else:
                begin = ""
                self._emit_trimmed(source.rest())
            if tags is not None and begin == tags.begin != "":
                yield from self._read_thought(tags)
            elif tags is not None and begin in tags.silent:
                continue
            elif begin:
                yield from self._read_calls(begin)
            elif source.ended:
                self._emit_text(self._space)
                return
            else:
                yield

    def _read_calls(self, begin: str) -> ParserGenerator[None]:
        """Read calls; what turns out to be no call is emitted as text."""
        assert self._form is not None
        source, n_calls = self._source, self._emitter.n_calls
        source.mark()
        try:
            yield from self._form.read(source, begin, self._emitter)
        except NotACall:
            text, is_begun = begin + source.since_mark, self._emitter.n_calls > n_calls
            # Where the limit cut what follows a marker, the end alone says that it is no call.
            is_cut = is_begun or (self._cut and begin) or self._begins_call(text + source.unread)
            if source.ended and is_cut:
                source.rest()
            elif not is_begun:
                self._emit_trimmed(text)
            source.forget_mark()
            return
        source.forget_mark()
        self._space = ""
        yield from source.skip_space()

    def _begins_call(self, text: str) -> bool:
        """Whether a text is the beginning of a call that was cut before its arguments."""
        assert self._form is not None
        begun = _squeezed(text)
        calls = (ToolCall(tool.name, {}) for tool in self._tools)
        return any(_squeezed(self._form.write([call])).startswith(begun) for call in calls)

    def _read_reasoning(self) -> ParserGenerator[None]:
        tags, source = self._reasoning, self._source
        if tags is None:
            return
        if not self._in_reasoning:
            source.mark()
            yield from source.skip_space()
            if not (yield from source.take(tags.begin)):
                source.go_back()
                return
            source.forget_mark()
        yield from self._read_thought(tags)

    def _read_thought(self, tags: ReasoningTags) -> ParserGenerator[None]:
        """Read reasoning that has begun."""
        source = self._source
        yield from source.skip_space()
        yield from source.until((tags.end,), self._emit_reasoning, or_end=True)
        self._space = ""
        yield from source.skip_space()

    def _emit_reasoning(self, text: str) -> None:
        """Emit reasoning; white space at its end waits for what comes next."""
        whole = self._space + text
        trimmed = whole.rstrip()
        self._space = whole[len(trimmed) :]
        if trimmed:
            self._events.append(ReasoningDelta(trimmed))

    def _emit_trimmed(self, text: str) -> None:
        """Emit text; white space at its end waits for what comes next."""
        whole = self._space + text
        trimmed = whole.rstrip() if self._form is not None else whole
        self._space = whole[len(trimmed) :]
        self._emit_text(trimmed)

    def _emit_text(self, text: str) -> None:
        if text:
            self._events.append(TextDelta(text))


def _squeezed(text: str) -> str:
    """A text without white space, and without the bracket of a list of calls."""
    return _SPACE.sub("", text).removeprefix("[")


def parse_answer(parser: AnswerParser, pieces: Sequence[str]) -> list[AnswerEvent]:
    """All events of an answer that comes in these pieces."""
    return [event for piece in pieces for event in parser.push(piece)] + parser.finish()
