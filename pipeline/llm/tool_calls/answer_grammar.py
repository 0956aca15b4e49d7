"""The grammar of an answer: tool calls, JSON of a schema, or words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reellama.pipeline.llm.tool_calls.call_grammar import CallGrammar
from reellama.pipeline.llm.tool_calls.tool import Tool
from reellama.pipeline.llm.tool_calls.tool_forms import FORMS, GENERIC

# Words that are no call in a form that is bare JSON: they begin with something else.
WORDS = r"[^{\[ \t\r\n\x00] [^\x00]*"


def answer_grammar(
    form: str = GENERIC,
    tools: Sequence[Tool] = (),
    *,
    several: bool = False,
    words: bool = False,
    schema: Any = None,
) -> str:
    """GBNF of an answer: calls of `tools` in `form`, a key of FORMS, where there are any.

    several: more than one call. words: else any words that do not begin like JSON. schema: else
    JSON of this schema. Raises SamplingError for a schema that has no grammar.
    """
    grammar = CallGrammar()
    ways = [FORMS[form].grammar(grammar, tools, several)] if tools else []
    ways += [grammar.schema(schema)] if schema is not None else []
    ways += [WORDS] if words else []
    return grammar.text(" | ".join(ways))
