"""JSON schemas as nobody should send them, for hypothesis: bounds, patterns and references."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NUMBERS = st.sampled_from([0, 1, 2, 3, 40, 2000, 2001, 9_999, 10**6, 10**9, -1, 2**63, 1.5, None])
PIECES = [
    *("a", "b", "(", ")", "[", "]", "{", "}", "*", "+", "?", "|", ".", "^", "$", "\\", "\\d", '"'),
    *("[a-z]", "[^a]", "(a|b)", "(a?)", "{2}", "{2,}", "{1,3}", "{99}", "{9999}", "{1e9}", "\\]"),
    *("é", "🦊", "\n", "\0", "-", ",", "(?:", "(?=", "\\x41", "\\u12", " "),
]
PATTERNS = st.builds(
    lambda pieces, whole: f"^{''.join(pieces)}$" if whole else "".join(pieces),
    st.lists(st.sampled_from(PIECES), max_size=12),
    st.sampled_from([True, True, True, False]),
)
TYPES = st.sampled_from(
    ["string", "number", "integer", "boolean", "null", "object", "array", "nonsense", ["string"]]
)
NAMES = st.sampled_from(["a", "b", "root", "value", "é", "a b", '"', "x" * 60, ""])
REFERENCES = st.sampled_from(["#/$defs/a", "#/$defs/b", "#", "#/nowhere", "https://a.example/s"])
CONSTANTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def _strings() -> st.SearchStrategy[dict[str, Any]]:
    optional = {
        **{"pattern": PATTERNS, "minLength": NUMBERS, "maxLength": NUMBERS},
        "format": st.sampled_from(["date", "uuid", "date-time", "nothing"]),
    }
    return st.fixed_dictionaries({"type": st.just("string")}, optional=optional)


def _wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(inner, max_size=3)
    optional = {
        "type": TYPES,
        "properties": st.dictionaries(NAMES, inner, max_size=4),
        "required": st.lists(NAMES, max_size=3),
        "additionalProperties": st.booleans() | inner,
        "items": inner | several,
        "prefixItems": several,
        **{"minItems": NUMBERS, "maxItems": NUMBERS},
        **{"anyOf": several, "oneOf": several, "allOf": several},
        "$defs": st.dictionaries(st.sampled_from(["a", "b"]), inner),
    }
    return st.fixed_dictionaries({}, optional=optional)


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    """Schemas, many of them broken."""
    simple = _strings() | st.one_of(
        st.builds(lambda kind: {"type": kind}, TYPES),
        st.builds(lambda at: {"$ref": at}, REFERENCES),
        st.builds(lambda value: {"const": value}, CONSTANTS),
        st.builds(lambda values: {"enum": values}, st.lists(CONSTANTS, max_size=4)),
    )
    return st.recursive(simple, _wider, max_leaves=8)
