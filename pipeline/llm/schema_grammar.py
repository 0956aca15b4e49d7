"""Converts JSON schemas to GBNF grammars, with limits of size, depth and repetition.

llama-cpp-python makes the grammar. It unrolls every repetition, and some patterns keep it busy for
ever, so schemas over a limit are refused before.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

from llama_cpp.llama_grammar import SchemaConverter

from reellama.pipeline.llm.generation_options import SamplingError
from reellama.pipeline.llm.schema_kinds import LISTS, MAPPINGS, wrong_kind

MAX_CHARACTERS = 100_000  # of a schema, as JSON
MAX_DEPTH = 64  # objects and lists inside each other
BOUNDS = ("minLength", "maxLength", "minItems", "maxItems")
MAX_BOUND = 10_000  # for each of BOUNDS, and for the repetitions of a pattern
MAX_GRAMMAR_CHARACTERS = 500_000
ANYTHING = ("object", "array", "string", "number", "boolean", "null")
# Keywords that constrain nothing.
ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
# Errors of llama-cpp-python with a helpful message; others come from its bugs.
HELPFUL_ERRORS = (AssertionError, ValueError)
# An element of a pattern: an escape, a class of characters, a quantifier, or any character.
_PATTERN_ELEMENT = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\{[^}]*\}|.", re.DOTALL)
# Characters that need no escape in JSON (RFC 8259, section 7), without DEL, as in llama.cpp.
# llama-cpp-python also allows control characters, and quotes and backslashes for a pattern's dot.
_UNESCAPED = r'[^"\\\x7F\x00-\x1F]'
_TOO_PERMISSIVE = {"char": r'[^"\\]', "dot": r"[^\x0A\x0D]"}
_UNRESOLVED_REFERENCE = re.compile(r"Error resolving ref stdin(\S+): .*")
_NUMBER = re.compile(r"[{,]\s*(\d+)(?=\s*[,}])")


def schema_to_gbnf(schema: Any) -> str:
    """The grammar of a JSON schema. Raises SamplingError, with the reason, if there is none."""
    return "\n".join(f"{name} ::= {body}" for name, body in schema_rules(schema).items())


def schema_rules(schema: Any) -> dict[str, str]:
    """The rules of a schema's grammar by name, with `root`. Raises like `schema_to_gbnf`."""
    try:
        _check(schema)
        rules = _convert(schema)
        text = "".join(rules.values())
        text.encode()  # raises UnicodeError for a lone surrogate
        if len(text) > MAX_GRAMMAR_CHARACTERS:
            raise _LimitError(f"its grammar has more than {MAX_GRAMMAR_CHARACTERS} characters")
    except MemoryError:
        raise  # not only the schema's fault
    except Exception as error:  # llama-cpp-python raises errors of any type for some schemas
        raise SamplingError(
            f"this JSON schema cannot be turned into a grammar: {_reason(error, schema)}"
        ) from error
    return rules


class _LimitError(ValueError):
    """A schema that exceeds the limit in the message."""


def _reason(error: Exception, schema: Any) -> str:
    """Why a schema has no grammar, in words for its author."""
    if isinstance(error, _LimitError):
        return str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deep, or too many properties are optional"
    if isinstance(error, UnicodeError):
        return "it has half of a character: a surrogate without the other one"
    if problem := wrong_kind(schema):
        return problem
    if isinstance(error, IndexError):
        return "its pattern repeats nothing"
    if isinstance(error, re.error):
        return f"its pattern is none: {error.msg}"
    if isinstance(error, HELPFUL_ERRORS) and str(error):
        words = str(error).splitlines()[0][:200]
        return _UNRESOLVED_REFERENCE.sub(r"its reference \1 leads nowhere", words)
    return "a keyword has a value that JSON Schema does not have there"


class _Converter(SchemaConverter):
    """llama-cpp-python's converter, with literals escaped for GBNF.

    The original leaves JSON's escapes in literals, which GBNF reads as its own escapes: as lone
    surrogates in place of characters beyond U+FFFF, and as line ends that JSON does not allow.
    """

    def _format_literal(self, literal: str) -> str:
        with suppress(ValueError):
            literal = json.dumps(json.loads(literal), ensure_ascii=False)
        return str(super()._format_literal(literal.replace("\\", "\\\\")))


def _convert(schema: Any) -> dict[str, str]:
    converter = _Converter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
    copy = json.loads(json.dumps(schema))  # `resolve_refs` changes it
    copy = {} if _allows_anything(copy) else _complete(copy)
    converter.visit(converter.resolve_refs(copy, "stdin"), "")
    rules = dict(sorted(converter._rules.items()))
    for name in _TOO_PERMISSIVE.keys() & rules.keys():
        rules[name] = rules[name].replace(_TOO_PERMISSIVE[name], _UNESCAPED)
    return rules


def _complete(schema: Any) -> Any:
    """The schema with a list of all types in each part that allows any value.

    The converter has no rule for such parts, which pydantic writes for fields of type Any.
    """
    if _allows_anything(schema):
        return {"type": [*ANYTHING]}
    if not isinstance(schema, dict):
        return schema
    completed = dict(schema)
    if completed.get("type") == "array" and "prefixItems" not in completed:
        completed.setdefault("items", {})
    for keyword, value in completed.items():
        if keyword in MAPPINGS and isinstance(value, dict):
            completed[keyword] = {name: _complete(part) for name, part in value.items()}
        elif keyword in (*LISTS, "items") and isinstance(value, list):
            completed[keyword] = [_complete(part) for part in value]
        elif keyword == "items" or (keyword == "additionalProperties" and value == {}):
            completed[keyword] = _complete(value)
    return completed


def _allows_anything(schema: Any) -> bool:
    return schema is True or (isinstance(schema, dict) and schema.keys() <= ANNOTATIONS)


def _check(schema: Any) -> None:
    """Raise _LimitError for a schema that is over a limit."""
    stack = [(schema, 1)]
    while stack:
        part, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise _LimitError(f"it is nested more than {MAX_DEPTH} deep")
        if isinstance(part, dict):
            _check_bounds(part)
            stack += [(inner, depth + 1) for inner in part.values()]
        elif isinstance(part, list):
            stack += [(inner, depth + 1) for inner in part]
    if (n := len(json.dumps(schema))) > MAX_CHARACTERS:
        raise _LimitError(f"it has {n} characters, and may have {MAX_CHARACTERS} at most")


def _check_bounds(part: dict[str, Any]) -> None:
    bounds = [(name, part.get(name)) for name in BOUNDS]
    if isinstance(pattern := part.get("pattern"), str):
        elements = _PATTERN_ELEMENT.findall(pattern)
        if stray := next((element for element in elements if element in ("]", "}")), None):
            raise _LimitError(f"a {stray} in its pattern closes nothing")
        counts = [n for element in elements if element[0] == "{" for n in _NUMBER.findall(element)]
        bounds += [("a number in its pattern", int(n[:9])) for n in counts]
    for name, bound in bounds:
        if isinstance(bound, int | float) and not bound <= MAX_BOUND:
            raise _LimitError(f"{name} is {bound}, and may be {MAX_BOUND} at most")
