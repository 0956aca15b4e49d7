"""Detect a chat template's support for tools by rendering test conversations.

Templates differ in whether they write definitions of tools, calls in earlier turns, and results.
What a template does not write must be put into the messages as text. llama.cpp detects the support
in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from reellama.gguf_tools.text.chat_template import ChatTemplate, Message

PROBE_NAME, PROBE_ARGUMENTS = "probe_tool", {"probe_value": 1}
_VALUE, _RESULT, _HINT, _QUESTION = "probe_value", "probe_result", "probe_hint", "probe_question"
_OTHER = "other_tool"
_SHORT_ID, _LONG_ID = "probeid01", "call_of_the_probe_0123456789"


@dataclass(frozen=True)
class TemplateTraits:
    """A chat template's support for tools.

    Attributes:
        definitions: the template writes the definitions of tools.
        calls, results: it writes the calls and results of earlier turns.
        several_calls: it writes more than one call of a message.
        text_arguments: it expects the arguments of calls as JSON text, not as objects.
        short_ids: it accepts only ids of nine letters and digits.
        no_content: it expects the content of a message with calls to be None, not "".
        written_call: its text for a call of PROBE_NAME with PROBE_ARGUMENTS, with its surroundings.
    """

    definitions: bool = False
    calls: bool = False
    results: bool = False
    several_calls: bool = False
    text_arguments: bool = False
    short_ids: bool = False
    no_content: bool = False
    written_call: str = ""


def try_template(source: str, bos: str = "", eos: str = "") -> TemplateTraits:
    """Detect the traits of a chat template.

    bos, eos: the texts of these tokens.
    """

    def rendered(messages: Sequence[Message], **variables: Any) -> str:
        """The rendered conversation, or "" if the template fails."""
        template = ChatTemplate(source, bos, eos)
        segments = template.render(messages, **variables)
        return "" if template.problem else "".join(segment.text for segment in segments)

    question: Message = {"role": "user", "content": _QUESTION}
    definitions = _HINT in rendered([question], tools=[_definition()])
    as_objects: Callable[[Any], Any] = lambda arguments: arguments  # noqa: E731
    variants = product(("", None), (_LONG_ID, _SHORT_ID), (as_objects, json.dumps))
    for content, call_id, encode in variants:
        calls = partial(_calls, content, encode, call_id)
        with_one, with_two = (
            rendered([question, calls(*names), _result(call_id)], tools=[_definition()])
            for names in ((PROBE_NAME,), (PROBE_NAME, _OTHER))
        )
        has_call = _VALUE in with_one
        if _RESULT not in with_one or f"{{'{_VALUE}'" in with_one:
            continue  # the latter is a repr by Python, where the model expects JSON
        if content == "" and not has_call:
            continue
        start, end = with_one.rfind(_QUESTION) + len(_QUESTION), with_one.find(_RESULT)
        return TemplateTraits(
            definitions=definitions,
            calls=has_call,
            results=True,
            several_calls=with_two.count(_VALUE) == 2 * with_one.count(_VALUE)
            and _OTHER in with_two,
            text_arguments=encode is json.dumps,
            short_ids=call_id == _SHORT_ID,
            no_content=content is None and has_call,
            written_call=with_one[start:end] if has_call else "",
        )
    return TemplateTraits(definitions=definitions)


def _definition() -> dict[str, Any]:
    argument = {"type": "string", "description": "probe_what"}
    schema = {"type": "object", "properties": {"a": argument}, "required": ["a"]}
    function = {"name": PROBE_NAME, "description": _HINT, "parameters": schema}
    return {"type": "function", "function": function}


def _calls(content: str | None, encode: Callable[[Any], Any], call_id: str, *names: str) -> Message:
    calls = [
        {
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": encode(PROBE_ARGUMENTS)},
        }
        for name in names
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _result(call_id: str) -> Message:
    return {"role": "tool", "content": _RESULT, "tool_call_id": call_id, "name": PROBE_NAME}
