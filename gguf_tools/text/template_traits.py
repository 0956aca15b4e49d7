"""What a chat template does with tools: seen by trying it.

Templates differ in what they know of tools: their definitions, calls in earlier turns, results.
What one does not know must reach the model in words. llama.cpp tries templates in the same way.
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
    """What of tools a template writes.

    definitions: of the tools. calls, results: in earlier turns. several_calls: more than one call
    in one message. text_arguments: arguments are given to it as JSON text, not as objects.
    short_ids: it takes ids of nine letters and digits alone. no_content: a message with calls has
    no content, not an empty one. written_call: how it writes a call of
    PROBE_NAME with PROBE_ARGUMENTS, and what it puts around that.
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
    """The traits of a chat template."""

    def rendered(messages: Sequence[Message], **variables: Any) -> str:
        """What it writes; nothing where it fails."""
        template = ChatTemplate(source, bos, eos)
        segments = template.render(messages, **variables)
        return "" if template.problem else "".join(segment.text for segment in segments)

    asked: Message = {"role": "user", "content": _QUESTION}
    definitions = _HINT in rendered([asked], tools=[_definition()])
    as_objects: Callable[[Any], Any] = lambda arguments: arguments  # noqa: E731
    tries = product(("", None), (_LONG_ID, _SHORT_ID), (as_objects, json.dumps))
    for content, call_id, written in tries:
        calls = partial(_calls, content, written, call_id)
        one, two = (
            rendered([asked, calls(*names), _result(call_id)], tools=[_definition()])
            for names in ((PROBE_NAME,), (PROBE_NAME, _OTHER))
        )
        if _RESULT not in one or (_VALUE in one and f"{{'{_VALUE}'" in one):
            continue  # the second: an object was written as Python would
        if content == "" and _VALUE not in one:
            continue
        around = one.rfind(_QUESTION) + len(_QUESTION), one.find(_RESULT)
        return TemplateTraits(
            definitions=definitions,
            calls=_VALUE in one,
            results=True,
            several_calls=two.count(_VALUE) == 2 * one.count(_VALUE) and _OTHER in two,
            text_arguments=written is json.dumps,
            short_ids=call_id == _SHORT_ID,
            no_content=content is None and _VALUE in one,
            written_call=one[slice(*around)] if _VALUE in one else "",
        )
    return TemplateTraits(definitions=definitions)


def _definition() -> dict[str, Any]:
    described = {"type": "string", "description": "probe_what"}
    schema = {"type": "object", "properties": {"a": described}, "required": ["a"]}
    function = {"name": PROBE_NAME, "description": _HINT, "parameters": schema}
    return {"type": "function", "function": function}


def _calls(
    content: str | None, written: Callable[[Any], Any], call_id: str, *names: str
) -> Message:
    calls = [
        {
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": written(PROBE_ARGUMENTS)},
        }
        for name in names
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _result(call_id: str) -> Message:
    return {"role": "tool", "content": _RESULT, "tool_call_id": call_id, "name": PROBE_NAME}
