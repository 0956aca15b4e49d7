"""JSON schemas as GBNF grammars, under limits of size, depth and repetition.

llama-cpp-python writes the grammar. It writes every repetition out, and some patterns keep it busy
for ever, so a schema over a limit is refused before.
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
# Keywords that say nothing of what is allowed.
ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
# Errors whose message says what llama-cpp-python cannot do; others come from its bugs.
WORDED_ERRORS = (AssertionError, ValueError)
# A piece of a pattern is an escape, a class of characters, a quantifier, or any character.
_PIECE = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\{[^}]*\}|.", re.DOTALL)
# Characters that need no escape in JSON (RFC 8259, section 7; and no DEL, as in llama.cpp).
# llama-cpp-python allows control characters too, and in a pattern's dot quotes and backslashes.
_UNESCAPED = r'[^"\\\x7F\x00-\x1F]'
_TOO_PERMISSIVE = {"char": r'[^"\\]', "dot": r"[^\x0A\x0D]"}
_LOST_REF = re.compile(r"Error resolving ref stdin(\S+): .*")
_NUMBER = re.compile(r"[{,]\s*(\d+)(?=\s*[,}])")


def schema_to_gbnf(schema: Any) -> str:
    """The grammar of a JSON schema. Raises SamplingError, with the reason, where there is none."""
    return "\n".join(f"{name} ::= {body}" for name, body in schema_rules(schema).items())


def schema_rules(schema: Any) -> dict[str, str]:
    """The rules of a schema's grammar by name, with `root`. Raises like `schema_to_gbnf`."""
    try:
        _check(schema)
        rules = _converted(schema)
        text = "".join(rules.values())
        text.encode()  # which fails for half a character
        if len(text) > MAX_GRAMMAR_CHARACTERS:
            raise _LimitError(f"its grammar has more than {MAX_GRAMMAR_CHARACTERS} characters")
    except MemoryError:
        raise  # it is not the schema's fault alone
    except Exception as error:  # any of them comes from a schema that a client sent
        raise SamplingError(
            f"this JSON schema cannot be turned into a grammar: {_reason(error, schema)}"
        ) from error
    return rules


class _LimitError(ValueError):
    """A schema is over a limit, which its message names."""


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
    if isinstance(error, WORDED_ERRORS) and str(error):
        words = str(error).splitlines()[0][:200]
        return _LOST_REF.sub(r"its reference \1 leads nowhere", words)
    return "a keyword has a value that JSON Schema does not have there"


class _Converter(SchemaConverter):
    """llama-cpp-python's converter, with texts that are escaped for a grammar.

    The original leaves JSON's escapes in them, which a grammar reads as its own: half characters
    in place of those beyond U+FFFF, and line ends that JSON does not allow.
    """

    def _format_literal(self, literal: str) -> str:
        with suppress(ValueError):
            literal = json.dumps(json.loads(literal), ensure_ascii=False)
        return str(super()._format_literal(literal.replace("\\", "\\\\")))


def _converted(schema: Any) -> dict[str, str]:
    converter = _Converter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
    own = json.loads(json.dumps(schema))  # its references are replaced
    own = {} if _allows_anything(own) else _complete(own)
    converter.visit(converter.resolve_refs(own, "stdin"), "")
    rules = dict(sorted(converter._rules.items()))
    for name in _TOO_PERMISSIVE.keys() & rules.keys():
        rules[name] = rules[name].replace(_TOO_PERMISSIVE[name], _UNESCAPED)
    return rules


def _complete(schema: Any) -> Any:
    """The schema with all types named where it allows anything: `{}` and the like have no grammar.

    Pydantic writes such parts for fields of any type, and for lists of anything.
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
    left = [(schema, 1)]
    while left:
        part, depth = left.pop()
        if depth > MAX_DEPTH:
            raise _LimitError(f"it is nested more than {MAX_DEPTH} deep")
        if isinstance(part, dict):
            _check_bounds(part)
            left += [(inner, depth + 1) for inner in part.values()]
        elif isinstance(part, list):
            left += [(inner, depth + 1) for inner in part]
    if (n := len(json.dumps(schema))) > MAX_CHARACTERS:
        raise _LimitError(f"it has {n} characters, and may have {MAX_CHARACTERS} at most")


def _check_bounds(part: dict[str, Any]) -> None:
    bounds = [(name, part.get(name)) for name in BOUNDS]
    if isinstance(pattern := part.get("pattern"), str):
        pieces = _PIECE.findall(pattern)
        if stray := next((piece for piece in pieces if piece in ("]", "}")), None):
            raise _LimitError(f"a {stray} in its pattern closes nothing")
        counts = [n for piece in pieces if piece[0] == "{" for n in _NUMBER.findall(piece)]
        bounds += [("a number in its pattern", int(n[:9])) for n in counts]
    for name, bound in bounds:
        if isinstance(bound, int | float) and not bound <= MAX_BOUND:
            raise _LimitError(f"{name} is {bound}, and may be {MAX_BOUND} at most")
