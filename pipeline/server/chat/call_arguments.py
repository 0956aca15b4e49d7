"""Arguments of earlier tool calls, which OpenAI's protocols write as JSON text."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator

from reellama.pipeline.llm.finite_json import finite_object
from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.server.request_bodies.json_bodies import check_size


def read_arguments(text: Any) -> dict[str, Any] | str:
    """The arguments by name, or the text itself if it is no JSON object.

    Clients send back such text of calls that the token limit cut, or that a model got wrong. Raises
    ValueError for values that are not text, and InvalidBody for too large ones.
    """
    if text is None:
        return {}
    if not isinstance(text, str):
        raise ValueError("the arguments of a call are a text, which should be a JSON object")
    check_size(text.encode(errors="surrogatepass"))
    arguments = finite_object(text)
    return text if arguments is None else arguments


def tool_call_from(name: str, arguments: dict[str, Any] | str, call_id: str) -> ToolCall:
    """A call with these arguments."""
    if isinstance(arguments, str):
        return ToolCall(name, {"arguments": arguments}, call_id, unread=arguments)
    return ToolCall(name, arguments, call_id)


# A field of a request. Long arguments take long to parse, so they are parsed once, here.
CallArguments = Annotated[dict[str, Any] | str, PlainValidator(read_arguments)]
