"""What allows anything has a grammar; what is wrong with a JSON schema is said in words."""

from typing import Any

import pytest
from pydantic import BaseModel

from reellama.pipeline.llm import schema_grammar
from reellama.pipeline.llm.generation_options import SamplingError
from reellama.pipeline.llm.schema_grammar import schema_to_gbnf

A: dict[str, Any] = {"type": "object", "properties": {"a": {}}}
WRONG: list[tuple[Any, str]] = [
    ({**A, "required": None}, "required must be a list of names, not null"),
    ({**A, "required": [{}]}, "required must be a list of names, not this list"),
    ({"type": "object", "properties": {"a": None}}, "properties.a must be an object, not null"),
    ({"type": "object", "properties": [1]}, "properties must be an object of schemas"),
    ({"properties": {"required": {"enum": 5}}}, "properties.required.enum must be a list"),
    ({"anyOf": [{"type": "string"}, {"type": 5}]}, "anyOf.1.type must be one of object"),
    ({"type": "array", "items": 5}, "items must be a schema"),
    ({"type": "array", "items": {"enum": None}}, "items.enum must be a list of values, not null"),
    ({"type": "string", "minLength": "a"}, 'minLength must be a whole number, not "a"'),
    ({"$ref": "#/x"}, "its reference #/x leads nowhere"),
    ({"const": "\ud800"}, "half of a character"),
    ({"type": "string", "pattern": "^*$"}, "its pattern repeats nothing"),
    (None, "it must be an object, not null"),
]


@pytest.mark.parametrize(("schema", "reason"), WRONG, ids=lambda each: str(each)[:40])
def test_what_is_wrong_with_a_schema_is_said(schema: Any, reason: str) -> None:
    with pytest.raises(SamplingError) as caught:
        schema_to_gbnf(schema)
    message = str(caught.value)
    assert message.startswith("this JSON schema cannot be turned into a grammar: ")
    assert reason in message
    assert not any(word in message for word in ("NoneType", "object has no", "codec", "\n"))


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), NotImplementedError(), KeyError("x")])
def test_whatever_the_conversion_raises_is_told(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(schema: Any) -> dict[str, str]:
        raise error

    monkeypatch.setattr(schema_grammar, "_convert", fails)
    with pytest.raises(SamplingError, match="a keyword has a value"):
        schema_to_gbnf({"type": "string"})


ANYTHING = " | array | string | number | boolean | null"  # after an object


class OfAnything(BaseModel):
    anything: Any
    several: list
    named: dict[str, Any]
    listed: list[Any] = []
    maybe: Any = None


def test_fields_of_any_type_have_a_grammar() -> None:
    grammar = schema_to_gbnf(OfAnything.model_json_schema())
    assert grammar.count(ANYTHING) >= 3  # a value, an item of a list, a field that may be missing


@pytest.mark.parametrize("anything", [{}, True, {"title": "A", "description": "?", "default": 1}])
def test_a_schema_that_allows_anything_allows_anything(anything: Any) -> None:
    for schema in (
        {"type": "object", "properties": {"a": anything}, "required": ["a"]},
        {"type": "array", "items": anything},
        {"anyOf": [anything, {"const": 1}]},
        {"type": "array", "prefixItems": [{"const": 1}, anything]},
    ):
        assert ANYTHING in schema_to_gbnf(schema)
    # Of an answer as a whole it means an object, as it does for Ollama.
    assert "root ::= object" in schema_to_gbnf(anything)


def test_a_list_of_anything_keeps_its_length() -> None:
    schema = {"type": "array", "minItems": 2, "maxItems": 2}
    assert 'root ::= "[" space item "," space item "]" space' in schema_to_gbnf(schema)
