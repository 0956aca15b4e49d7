"""The arguments of a call in a conversation, as OpenAI's protocols have them: JSON text."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator

from reellama.pipeline.llm.finite_json import finite_json
from reellama.pipeline.server.replies.json_bodies import check_size


def read_arguments(text: Any) -> dict[str, Any]:
    """The arguments by name. Raises ValueError for what is no text of an object, and BodyProblem
    for one of too much."""
    if text is None:
        return {}
    what = "the arguments of a call are the text of a JSON object"
    if not isinstance(text, str):
        raise ValueError(what)
    check_size(text.encode(errors="surrogatepass"))
    try:
        found = finite_json(text or "{}")
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(what)
    return found


# A field of a request. It is read here and nowhere else: long ones take long.
CallArguments = Annotated[dict[str, Any], PlainValidator(read_arguments)]
