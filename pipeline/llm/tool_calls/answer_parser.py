"""Parses an answer while it streams: text, reasoning, tool calls."""

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
    """An incremental parser, whose `push` returns the events that are certain.

    form: the form of the model's calls; None if there are no tools. reasoning: the tags around
    reasoning; None if the model shows none. in_reasoning: the prompt ends inside of reasoning.
    tools: the tools that may be called.
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
        self._space = ""  # white space after text, held back: it is dropped before a call
        self._tokens: list[Token] = []  # tokens of no event yet
        self._parsing = self._read()
        next(self._parsing, None)

    @property
    def n_ended_calls(self) -> int:
        """How many calls are whole."""
        return self._emitter.n_ended_calls

    def push(self, text: str, token: Token | None = None) -> list[AnswerEvent]:
        """Add text to the answer, and the token that it is from."""
        self._source.push(text)
        self._tokens += [token] if token else []
        return self._resume()

    def finish(self, cut: bool = False) -> list[AnswerEvent]:
        """End the answer; returns the events of text that was held back.

        cut: whether the token limit ended the answer. Then an incomplete marker at its end is
        dropped, as in llama.cpp's server; if the model itself ended, such text is emitted, and a
        call that lacks only its last tags is ended. Letters alone are taken for a word, though
        " to=functions." begins with letters.
        """
        if cut and self._is_half_marker(self._source.unread):
            self._source.drop_unread()
            self._space = ""
        self._source.is_cut, self._source.ended = cut, True
        return self._resume()

    def _is_half_marker(self, text: str) -> bool:
        """Whether held-back text is the beginning of a marker, perhaps after white space."""
        markers = self._form.markers if self._form is not None else ()
        if (tags := self._reasoning) is not None:
            markers = (*markers, tags.begin, tags.end, *tags.silent)
        stripped = text.strip()
        is_beginning = any(marker.strip().startswith(stripped) for marker in markers)
        return text != "" and not stripped.isalpha() and is_beginning

    def _resume(self) -> list[AnswerEvent]:
        next(self._parsing, None)
        events: list[AnswerEvent] = []
        for event in self._events:
            if events and (merged := joined(events[-1], event)):
                events[-1] = merged
            else:
                events.append(event)
        self._events.clear()
        for i, event in enumerate(events):
            if isinstance(event, CallDelta):
                self._source.forget_mark()  # an emitted call cannot become text
            else:
                events[i] = type(event)(event.text, tuple(self._tokens))
            self._tokens = []
        return events

    def _read(self) -> ParserGenerator[None]:
        source = self._source
        yield from self._read_leading_reasoning()
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
                yield from self._read_reasoning(tags)
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
        """Read calls; text that turns out to be no call is emitted as text."""
        assert self._form is not None
        source, n_calls = self._source, self._emitter.n_calls
        source.mark()
        try:
            yield from self._form.read(source, begin, self._emitter)
        except NotACall:
            text, is_begun = begin + source.since_mark, self._emitter.n_calls > n_calls
            # A call that the token limit has cut after its marker is no text.
            is_cut = is_begun or (source.is_cut and begin)
            if source.ended and (is_cut or self._begins_call(text + source.unread)):
                source.rest()
                if is_begun and not source.is_cut:
                    self._emitter.end_if_whole()
            elif not is_begun:
                self._emit_trimmed(text)
            source.forget_mark()
            return
        source.forget_mark()
        self._space = ""
        yield from source.skip_space()

    def _begins_call(self, text: str) -> bool:
        """Whether a text is the beginning of a call, cut before its arguments."""
        assert self._form is not None
        beginning = _normalized(text)
        calls = (ToolCall(tool.name, {}) for tool in self._tools)
        return any(_normalized(self._form.write([call])).startswith(beginning) for call in calls)

    def _read_leading_reasoning(self) -> ParserGenerator[None]:
        """Read the reasoning with which the answer begins, if it does."""
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
        yield from self._read_reasoning(tags)

    def _read_reasoning(self, tags: ReasoningTags) -> ParserGenerator[None]:
        """Read reasoning after its opening tag."""
        source = self._source
        yield from source.skip_space()
        yield from source.until((tags.end,), self._emit_reasoning, or_end=True)
        self._space = ""
        yield from source.skip_space()

    def _emit_reasoning(self, text: str) -> None:
        """Emit reasoning; white space at its end is held back."""
        whole = self._space + text
        trimmed = whole.rstrip()
        self._space = whole[len(trimmed) :]
        if trimmed:
            self._events.append(ReasoningDelta(trimmed))

    def _emit_trimmed(self, text: str) -> None:
        """Emit text; white space at its end is held back."""
        whole = self._space + text
        trimmed = whole.rstrip() if self._form is not None else whole
        self._space = whole[len(trimmed) :]
        self._emit_text(trimmed)

    def _emit_text(self, text: str) -> None:
        if text:
            self._events.append(TextDelta(text))


def _normalized(text: str) -> str:
    """A text without white space and the opening bracket of a list of calls."""
    return _SPACE.sub("", text).removeprefix("[")


def parse_answer(parser: AnswerParser, pieces: Sequence[str]) -> list[AnswerEvent]:
    """All events of an answer that is pushed in these pieces."""
    return [event for piece in pieces for event in parser.push(piece)] + parser.finish()
