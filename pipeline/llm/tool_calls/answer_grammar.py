"""The grammar of an answer: tool calls, JSON that follows a schema, or text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reellama.pipeline.llm.tool_calls.call_grammar import CallGrammar
from reellama.pipeline.llm.tool_calls.tool import Tool
from reellama.pipeline.llm.tool_calls.tool_forms import FORMS, GENERIC

# Text that cannot be a call in the form of plain JSON, since it begins with another character.
TEXT = r"[^{\[ \t\r\n\x00] [^\x00]*"


def answer_grammar(
    form: str = GENERIC,
    tools: Sequence[Tool] = (),
    *,
    parallel: bool = False,
    allow_text: bool = False,
    schema: Any = None,
) -> str:
    """GBNF of an answer: calls of `tools`, if any, in `form`, a key of FORMS.

    parallel: allow more than one call. allow_text: allow any text that does not begin like JSON.
    schema: allow JSON of this schema. Raises SamplingError for a schema that has no grammar.
    """
    grammar = CallGrammar()
    alternatives = [FORMS[form].add_rules(grammar, tools, parallel)] if tools else []
    alternatives += [grammar.schema(schema)] if schema is not None else []
    alternatives += [TEXT] if allow_text else []
    return grammar.text(" | ".join(alternatives))
