"""How families of models call tools, and which of these a chat template is of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.llm.tool_calls.answer_source import AnswerSource, Reading
from reellama.pipeline.llm.tool_calls.call_grammar import CallGrammar
from reellama.pipeline.llm.tool_calls.call_writer import CallWriter
from reellama.pipeline.llm.tool_calls.json_form import JsonForm
from reellama.pipeline.llm.tool_calls.tool import Tool


class ToolForm(Protocol):
    """How a family writes calls of tools."""

    @property
    def begins(self) -> tuple[str, ...]:
        """What begins calls in the middle of an answer."""
        ...

    @property
    def bare(self) -> bool:
        """Whether an answer that is JSON is a call."""
        ...

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts of the form that may be special tokens."""
        ...

    def read(self, source: AnswerSource, begin: str, calls: CallWriter) -> Reading[None]:
        """Read the calls that follow `begin`. Raises NotACall."""
        ...

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model would have written them."""
        ...

    def grammar(self, grammar: CallGrammar, tools: Sequence[Tool], several: bool) -> str:
        """The GBNF of one call or, if `several`, of one or more."""
        ...


# For models whose template knows no tools.
GENERIC = "json"

# Forms by name.
FORMS: dict[str, ToolForm] = {
    GENERIC: JsonForm(""),
    "hermes": JsonForm("<tool_call>", "</tool_call>"),
}

# What a family's template has in it, as a regular expression, and its form. The first that is found
# is taken: families with more of their own come first.
FAMILIES: tuple[tuple[str, str], ...] = (
    (r"<tool_call>", "hermes"),  # Hermes 2 and 3, Qwen 2.5 and 3, SmolLM3, Granite 4
)


def tool_form(template: str) -> str | None:
    """How the models of a chat template call tools, a key of FORMS; None where it is not known."""
    if not re.search(r"\btools\b", template):
        return None
    return next((form for mark, form in FAMILIES if re.search(mark, template)), None)
