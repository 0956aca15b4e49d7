"""Calls as a Python list of calls: LFM2's, Llama 4's."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.llm.tool_calls.answer_source import AnswerSource, NotACall, ParserGenerator
from reellama.pipeline.llm.tool_calls.call_event_emitter import CallEventEmitter
from reellama.pipeline.llm.tool_calls.call_grammar import CallGrammar, literal
from reellama.pipeline.llm.tool_calls.tool import Tool

JSON_NAMES = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class PythonForm:
    """`<|tool_call_start|>[NAME(KEY=VALUE, ...)]<|tool_call_end|>`."""

    begin: str
    end: str

    is_plain_json = False

    @property
    def start_markers(self) -> tuple[str, ...]:
        """Texts that begin calls in the middle of an answer."""
        return (self.begin,)

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts of the form that may be special tokens."""
        return (self.begin, self.end)

    def read(
        self, source: AnswerSource, begin: str, emitter: CallEventEmitter
    ) -> ParserGenerator[None]:
        """Read the calls that follow `begin`."""
        pieces: list[str] = []
        end = yield from source.until((self.end,), pieces.append, or_end=True)
        text, is_cut = "".join(pieces), False
        try:
            calls = _calls(text)
        except NotACall:
            if end:
                raise
            closed, is_cut = _closed(text)
            calls = _calls(closed)
            if is_cut and not source.is_cut:  # what the model itself leaves unfinished is no call
                calls, is_cut = calls[:-1], False
            if not calls or not all(emitter.may_call(name) for name, _ in calls):
                raise
        for name, arguments in calls[: len(calls) - is_cut]:
            emitter.whole(name, arguments)
        if is_cut:
            name, arguments = calls[-1]
            emitter.begin(name)
            emitter.arguments(json.dumps(arguments, ensure_ascii=False).removesuffix("}"))

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model would have written them."""
        written = (
            f"{call.name}({', '.join(f'{k}={v!r}' for k, v in call.arguments.items())})"
            for call in calls
        )
        return f"{self.begin}[{', '.join(written)}]{self.end}"

    def add_rules(self, grammar: CallGrammar, tools: Sequence[Tool], parallel: bool) -> str:
        """Add the rules of calls; returns the GBNF of one or, if `parallel`, of one or more."""
        # Values are JSON, since a schema's rules have no Python literals.
        call = grammar.rule("call", " | ".join(self._tool_rule(grammar, tool) for tool in tools))
        more = f' (", " {call})*' if parallel else ""
        return f'{literal(self.begin)} "[" {call}{more} "]" {literal(self.end)}'

    def _tool_rule(self, grammar: CallGrammar, tool: Tool) -> str:
        required = tool.parameters.get("required") or ()
        pairs = {
            key: f"{literal(key + '=')} {grammar.schema(schema)}"
            for key, schema in tool.properties.items()
        }
        needed = [pairs[key] for key in pairs if key in required]
        optional = [pairs[key] for key in pairs if key not in required]
        parts = ' ", " '.join(needed) + "".join(f' (", " {pair})?' for pair in optional if needed)
        if not needed and optional:
            parts = f"({' | '.join(optional)})?"  # at most one: enough to enforce a call
        return f'{literal(tool.name + "(")} {parts} ")"'


# Errors of parsing text that is not Python, or too long or deeply nested.
_ERRORS = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, OverflowError)
# Strings, of which the last one may be cut, brackets and commas.
_BRACKETS = re.compile(
    r"""'(?:[^'\\]|\\.?)*(?:'|$) | "(?:[^"\\]|\\.?)*(?:"|$) | [()\[\]{},]""", re.DOTALL | re.VERBOSE
)


def python_value_or_text(text: str) -> Any:
    """The value of a Python or JSON literal, or the text itself if it is none."""
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (*_ERRORS, NotACall):
        return text


def _closed(text: str) -> tuple[str, bool]:
    """A list of calls that is cut, closed after the last complete argument or call.

    Returns also whether the last call of the closed list is cut.

    >>> _closed("[f(), g(a=[1, 2], b=[3, 'x")
    ('[f(), g(a=[1, 2])]', True)
    >>> _closed("[f(), g(a=1), h")
    ('[f(), g(a=1)]', False)
    """
    outer = 1 if text.lstrip().startswith("[") else 0  # brackets around a call
    depth = end = 0
    is_inside = True  # of a call
    for match in _BRACKETS.finditer(text):
        depth += (match[0] in "([{") - (match[0] in ")]}")
        if depth == outer + 1 and match[0] in "(,":
            end, is_inside = match.end() if match[0] == "(" else match.start(), True
        elif depth == outer and match[0] == ")":
            end, is_inside = match.end(), False
    return text[:end] + ")" * is_inside + "]" * outer, is_inside


def _calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments of a Python list of calls. Raises NotACall for anything else."""
    try:
        parsed = ast.parse(text.strip(), mode="eval").body
        nodes = parsed.elts if isinstance(parsed, ast.List) else [parsed]
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        if len(calls) < len(nodes) or not calls:
            raise NotACall
        return [
            (ast.unparse(call.func), {str(k.arg): _value(k.value) for k in call.keywords})
            for call in calls
        ]
    except _ERRORS as error:
        raise NotACall from error


def _value(node: ast.expr) -> Any:
    """The value of a Python or JSON literal. Raises NotACall or ValueError for other nodes."""
    if isinstance(node, ast.Name) and node.id in JSON_NAMES:
        return JSON_NAMES[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        keys = [str(_value(key)) for key in node.keys if key is not None]
        return dict(zip(keys, map(_value, node.values), strict=True))
    value = ast.literal_eval(node)
    if isinstance(value, str):  # JSON escapes characters beyond U+FFFF as two surrogates
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if not isinstance(value, int | float | None):  # bytes, complex numbers
        raise NotACall
    if value is not None and not math.isfinite(value):  # JSON has no such number
        raise NotACall
    return value
