"""Calls of tools, their results and definitions, as a model's chat template takes them.

What a template does not know is written in words that it does.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from reellama import prompts
from reellama.pipeline.llm.prompt import Prompt
from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.llm.tool_calls.call_event_emitter import ID_LENGTH
from reellama.pipeline.llm.tool_calls.chat_format import ChatFormat
from reellama.pipeline.llm.tool_calls.tool import Tool
from reellama.pipeline.server.chat.chat_request import ServiceMessage

# Shows a model how its family calls, where its template does not.
EXAMPLE = ToolCall("NAME", {"argument": "value"})

# Messages, each with what stands for its pictures and videos in the prompt.
EncodedConversation = Sequence[tuple[ServiceMessage, Prompt]]


def adapt_conversation(
    conversation: EncodedConversation, chat_format: ChatFormat, tools: Sequence[Tool]
) -> EncodedConversation:
    """The conversation as this model's template takes it.

    `tools` are told of in a system message where the template does not.
    """
    adapted = conversation
    if any(message.tool_calls or message.role == "tool" for message, _ in conversation):
        messages = _with_call_ids([message for message, _ in adapted], chat_format.traits.short_ids)
        adapted = list(zip(messages, (videos for _, videos in adapted), strict=True))
        adapted = list(_calls_as_text(adapted, chat_format))
        if not (chat_format.traits.results and chat_format.knows_tools):
            adapted = list(_results_as_text(adapted))
        elif not chat_format.traits.several_calls:
            adapted = list(_one_call_per_message(adapted))
    if tools and not chat_format.is_told_of_tools:
        adapted = _with_tool_definitions(adapted, chat_format, tools)
    return adapted


def _with_call_ids(messages: Iterable[ServiceMessage], short: bool) -> Iterator[ServiceMessage]:
    """Messages whose calls have ids, and whose results say of which call, by id and by name.

    Results without an id are those of the calls before them, by name or in order. `short`: ids
    are replaced where they are not of `ID_LENGTH` letters and digits.
    """
    open_calls = _OpenCalls()
    renamed: dict[str, str] = {}
    n = 0
    for message in messages:
        if message.role == "tool":
            call_id = renamed.get(message.tool_call_id, message.tool_call_id)
            call = open_calls.take(call_id, message.name)
            yield replace(message, tool_call_id=call.id, name=call.name)
            continue
        calls = []
        for call in message.tool_calls:
            call_id = call.id
            if not call_id or (short and not (len(call_id) == ID_LENGTH and call_id.isalnum())):
                n += 1
                call_id = f"call{n:05}"
                if call.id:
                    renamed[call.id] = call_id
            calls.append(replace(call, id=call_id))
            open_calls.add(calls[-1])
        yield replace(message, tool_calls=tuple(calls))


class _OpenCalls:
    """Calls without a result so far."""

    def __init__(self) -> None:
        self._by_id: dict[str, ToolCall] = {}
        self._by_name: defaultdict[str, deque[str]] = defaultdict(deque)

    def add(self, call: ToolCall) -> None:
        self._by_id[call.id] = call
        self._by_name[call.name].append(call.id)

    def take(self, call_id: str, name: str) -> ToolCall:
        """The call that a result is of: by its id, else the first one of its name, or of any."""
        if call_id in self._by_id:
            return self._by_id.pop(call_id)
        named = self._by_name[name]
        while named:
            if (call := self._by_id.pop(named.popleft(), None)) is not None:
                return call
        if not name and self._by_id:
            return self._by_id.pop(next(iter(self._by_id)))
        return ToolCall(name, {}, call_id)


def _calls_as_text(conversation: EncodedConversation, chat_format: ChatFormat) -> Iterator[Any]:
    """Calls as the text that the model wrote, where its template leaves them out."""
    for message, videos in conversation:
        if message.tool_calls and not (chat_format.traits.calls and chat_format.knows_tools):
            texts = [message.content, chat_format.tool_form.write(message.tool_calls)]
            content = "\n".join(filter(None, texts))
            yield replace(message, content=content, tool_calls=()), videos
        else:
            yield message, videos


def _results_as_text(conversation: EncodedConversation) -> Iterator[Any]:
    """Results as a user's words; those that follow one another, and what is said then, in one."""
    held: list[tuple[ServiceMessage, Prompt]] = []

    def together() -> Iterator[Any]:
        if held:
            content = "\n".join(message.content for message, _ in held)
            yield ServiceMessage("user", content), [part for _, videos in held for part in videos]
            held.clear()

    for message, videos in conversation:
        if message.role == "tool":
            content = f"Result of {message.name or 'the function'}: {message.content}"
            held.append((ServiceMessage("user", content), videos))
        elif held and message.role == "user":
            held.append((message, videos))
            yield from together()
        else:
            yield from together()
            yield message, videos
    yield from together()


def _one_call_per_message(conversation: EncodedConversation) -> Iterator[Any]:
    """Messages of one call each, every one with its result after it."""
    waiting: dict[str, ServiceMessage] = {}  # calls that wait for their results
    for message, videos in conversation:
        if message.role != "tool":
            yield from ((call_message, []) for call_message in waiting.values())
            waiting = {
                c.id: ServiceMessage("assistant", "", tool_calls=(c,))
                for c in message.tool_calls[1:]
            }
            yield replace(message, tool_calls=message.tool_calls[:1]), videos
            continue
        if message.tool_call_id in waiting:
            yield waiting.pop(message.tool_call_id), []
        yield message, videos
    yield from ((call_message, []) for call_message in waiting.values())


def _with_tool_definitions(
    conversation: EncodedConversation, chat_format: ChatFormat, tools: Sequence[Tool]
) -> EncodedConversation:
    """The conversation with the definitions of tools in its system message."""
    lines = [json.dumps(tool.definition["function"], ensure_ascii=False) for tool in tools]
    instructions = prompts.load("tools_in_form" if chat_format.knows_tools else "tools")
    instructions = instructions.replace("{call}", chat_format.tool_form.write([EXAMPLE]))
    instructions = instructions.replace("{tools}", "\n".join(lines))
    if conversation and (first := conversation[0][0]).role == "system":
        content = f"{first.content}\n\n{instructions}"
        return [(replace(first, content=content), conversation[0][1]), *conversation[1:]]
    return [(ServiceMessage("system", instructions), []), *conversation]


def template_message(
    message: ServiceMessage, text_arguments: bool, no_content: bool = False
) -> dict[str, Any]:
    """A message as chat templates take it; see `ChatTemplate.render` and `TemplateTraits`."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["content"] = message.content or (None if no_content else "")
        fields["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": (call.unread or json.dumps(call.arguments, ensure_ascii=False))
                    if text_arguments
                    else call.arguments,
                },
            }
            for call in message.tool_calls
        ]
    if message.reasoning:
        fields |= {"reasoning_content": message.reasoning, "thinking": message.reasoning}
    if message.role == "tool":
        fields |= {"tool_call_id": message.tool_call_id, "name": message.name}
    return fields
