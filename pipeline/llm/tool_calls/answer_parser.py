"""An answer taken apart as it streams: words, reasoning, calls of tools."""

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

    form: how this model calls tools; None where it has none to call. reasoning: how it shows what
    it thinks; None where it does not. `in_reasoning`: the prompt ends inside of reasoning. tools:
    those that may be called.
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
        self._space = ""  # white space after the words: it is left out before a call
        self._tokens: list[Token] = []  # that no event has yet
        self._reading = self._read()
        next(self._reading, None)

    @property
    def n_calls(self) -> int:
        """How many calls were begun."""
        return self._emitter.n_calls

    def push(self, text: str, token: Token | None = None) -> list[AnswerEvent]:
        """Take the next piece of the answer, and the token that it is of."""
        self._source.push(text)
        self._tokens += [token] if token else []
        return self._go_on()

    def finish(self) -> list[AnswerEvent]:
        """The end of the answer: what was held back."""
        self._source.ended = True
        return self._go_on()

    def _go_on(self) -> list[AnswerEvent]:
        next(self._reading, None)
        events: list[AnswerEvent] = []
        for event in self._events:
            if events and (both := joined(events[-1], event)):
                events[-1] = both
            else:
                events.append(event)
        self._events.clear()
        for i, event in enumerate(events):
            if isinstance(event, CallDelta):
                self._source.forget_mark()  # what was told is not taken back
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
                begin = yield from source.until(markers, self._say, or_end=True)
            else:
                begin = ""
                self._say(source.rest())
            if tags is not None and begin == tags.begin != "":
                yield from self._read_thought(tags)
            elif tags is not None and begin in tags.silent:
                continue
            elif begin:
                yield from self._read_calls(begin)
            elif source.ended:
                self._say_now(self._space)
                return
            else:
                yield

    def _read_calls(self, begin: str) -> ParserGenerator[None]:
        """Read calls, or tell what was none as words."""
        assert self._form is not None
        source, n_calls = self._source, self._emitter.n_calls
        source.mark()
        try:
            yield from self._form.read(source, begin, self._emitter)
        except NotACall:
            if self._emitter.n_calls == n_calls:
                text = begin + source.since_mark
                if source.ended and self._begins_call(text + source.unread):
                    source.rest()
                else:
                    self._say(text)
            source.forget_mark()
            return
        source.forget_mark()
        self._space = ""
        yield from source.skip_space()

    def _begins_call(self, text: str) -> bool:
        """Whether the whole of a text is how a call begins, up to its arguments: it was cut."""
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
        yield from source.until((tags.end,), self._think, or_end=True)
        self._space = ""
        yield from source.skip_space()

    def _think(self, text: str) -> None:
        whole = self._space + text
        kept = whole.rstrip()
        self._space = whole[len(kept) :]
        if kept:
            self._events.append(ReasoningDelta(kept))

    def _say(self, text: str) -> None:
        """Tell words; white space at their end waits for what comes next."""
        whole = self._space + text
        kept = whole.rstrip() if self._form is not None else whole
        self._space = whole[len(kept) :]
        self._say_now(kept)

    def _say_now(self, text: str) -> None:
        if text:
            self._events.append(TextDelta(text))


def _squeezed(text: str) -> str:
    """A text without white space, and without the bracket of a list of calls."""
    return _SPACE.sub("", text).removeprefix("[")


def parse_answer(parser: AnswerParser, pieces: Sequence[str]) -> list[AnswerEvent]:
    """All events of an answer that came in these pieces."""
    return [event for piece in pieces for event in parser.push(piece)] + parser.finish()
