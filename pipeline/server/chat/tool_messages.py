"""Tool calls, results and definitions in the form that a model's chat template supports.

What a template has no place for is written into the text of messages.
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

# Shows a model the form of a call, if its template does not.
EXAMPLE = ToolCall("NAME", {"argument": "value"})

# Messages, each with the prompt parts of its pictures and videos.
EncodedConversation = Sequence[tuple[ServiceMessage, Prompt]]


def adapt_conversation(
    conversation: EncodedConversation, chat_format: ChatFormat, tools: Sequence[Tool]
) -> EncodedConversation:
    """The conversation in the form that the model's template supports.

    The definitions of `tools` go into a system message if the template does not write them.
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
    """Give an id to each call, and to each result the id and name of its call.

    A result without an id belongs to an earlier call, by name or in order. `short`: ids that are
    not `ID_LENGTH` letters and digits are replaced.
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
    """Calls whose results have not come yet."""

    def __init__(self) -> None:
        self._by_id: dict[str, ToolCall] = {}
        self._by_name: defaultdict[str, deque[str]] = defaultdict(deque)

    def add(self, call: ToolCall) -> None:
        self._by_id[call.id] = call
        self._by_name[call.name].append(call.id)

    def take(self, call_id: str, name: str) -> ToolCall:
        """The call of a result: by id, else the first one of that name, or of any name for ""."""
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
    """Write calls as text, as the model does, if its template leaves them out."""
    for message, videos in conversation:
        if message.tool_calls and not (chat_format.traits.calls and chat_format.knows_tools):
            texts = [message.content, chat_format.tool_form.write(message.tool_calls)]
            content = "\n".join(filter(None, texts))
            yield replace(message, content=content, tool_calls=()), videos
        else:
            yield message, videos


def _results_as_text(conversation: EncodedConversation) -> Iterator[Any]:
    """Turn results into user messages, joined with each other and the user message after them."""
    pending: list[tuple[ServiceMessage, Prompt]] = []

    def joined() -> Iterator[Any]:
        if pending:
            content = "\n".join(message.content for message, _ in pending)
            parts = [part for _, videos in pending for part in videos]
            yield ServiceMessage("user", content), parts
            pending.clear()

    for message, videos in conversation:
        if message.role == "tool":
            content = f"Result of {message.name or 'the function'}: {message.content}"
            pending.append((ServiceMessage("user", content), videos))
        elif pending and message.role == "user":
            pending.append((message, videos))
            yield from joined()
        else:
            yield from joined()
            yield message, videos
    yield from joined()


def _one_call_per_message(conversation: EncodedConversation) -> Iterator[Any]:
    """Split messages with several calls into one message for each call, before its result."""
    waiting: dict[str, ServiceMessage] = {}  # by id, calls whose results have not come
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
    """Write the definitions of tools into the system message."""
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
