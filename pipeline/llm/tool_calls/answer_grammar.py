"""The grammar of an answer: tool calls, JSON of a schema, or text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reellama.pipeline.llm.tool_calls.call_grammar import CallGrammar
from reellama.pipeline.llm.tool_calls.tool import Tool
from reellama.pipeline.llm.tool_calls.tool_forms import FORMS, GENERIC

# Text that is no call in a form that is bare JSON: it begins with something else.
TEXT = r"[^{\[ \t\r\n\x00] [^\x00]*"


def answer_grammar(
    form: str = GENERIC,
    tools: Sequence[Tool] = (),
    *,
    parallel: bool = False,
    allow_text: bool = False,
    schema: Any = None,
) -> str:
    """GBNF of an answer: calls of `tools` in `form`, a key of FORMS, where there are any.

    parallel: more than one call is allowed. allow_text: so is any text that does not begin like
    JSON. schema: so is JSON of this schema. Raises SamplingError for a schema that has no grammar.
    """
    grammar = CallGrammar()
    ways = [FORMS[form].add_rules(grammar, tools, parallel)] if tools else []
    ways += [grammar.schema(schema)] if schema is not None else []
    ways += [TEXT] if allow_text else []
    return grammar.text(" | ".join(ways))
