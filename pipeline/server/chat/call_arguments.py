"""The arguments of a call in a conversation, as OpenAI's protocols have them: JSON text."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator

from reellama.pipeline.llm.finite_json import finite_object
from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.server.request_bodies.json_bodies import check_size


def read_arguments(text: Any) -> dict[str, Any] | str:
    """The arguments by name, or the text itself where it is not that of a JSON object.

    A call that the token limit cut is sent back like that, as is one that a model got wrong.
    Raises ValueError for what is no text, and InvalidBody for one of too much.
    """
    if text is None:
        return {}
    if not isinstance(text, str):
        raise ValueError("the arguments of a call are a text, which should be a JSON object")
    check_size(text.encode(errors="surrogatepass"))
    found = finite_object(text)
    return text if found is None else found


def tool_call_from(name: str, arguments: dict[str, Any] | str, call_id: str) -> ToolCall:
    """A call with these arguments."""
    if isinstance(arguments, str):
        return ToolCall(name, {"arguments": arguments}, call_id, unread=arguments)
    return ToolCall(name, arguments, call_id)


# A field of a request. It is read here and nowhere else: long ones take long.
CallArguments = Annotated[dict[str, Any] | str, PlainValidator(read_arguments)]
