"""Grammars are refused before llama.cpp sees them: those that it would refuse, and no others."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_cpp import llama_cpp
from llama_cpp.llama_grammar import json_schema_to_gbnf

from reellama.gguf_tools.runtime.backend import Model, last_errors, load_model
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm.grammar import MAX_NESTED, grammar_error

Complain = Callable[[str], str | None]
# Of what is refused, what llama.cpp may take: it would be busy for ever, its stack would overflow,
# or it has dropped the name of a rule that is repeated zero times.
STRICTER = ("at least, and", "parentheses are open", "no rule named", "too large")


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Model]:
    with load_model(smollm2, vocab_only=True) as model:
        yield model


@pytest.fixture(scope="module")
def complain(model: Model) -> Complain:
    tokenizer = Tokenizer(model)
    return lambda text: grammar_error(
        text, lambda name: len(tokenizer.encode(name, special=True)) == 1
    )


def taken(text: str, model: Model) -> bool:
    """Whether llama.cpp takes a grammar."""
    sampler = llama_cpp.llama_sampler_init_grammar(model.vocab, text.encode(), b"root")
    if sampler:
        llama_cpp.llama_sampler_free(sampler)
    return bool(sampler)


GOOD = [
    'root ::= "a"',
    'root ::= ("woof" | "meow") "!" [0-9]{3}',
    "# a comment\n\n  root ::= x y?  # another\n\nx ::= [a-z]+\ny ::= x*",
    'root ::= (\n  "a"\n  | "b" # here\n)\r\nx ::= "c"\r\n',
    r'root ::= "\"\\\[\]\-\n\t\r\x41\u00e9\U0001F98A" [^\]"-] [\x00-\x1f] []',
    "root ::= [a-] [-a] [a-z-9] [^^] [[] .",
    'root ::= "🦊é" [β-ω]',
    'root ::= "a"{2} "b"{2,} "c"{0,5} "d"{ 1 , 2 } "e"{0} "f"{1,99999}',
    'root ::= <|im_end|> !<|im_start|> <[2]> "x"',
    'root ::= "" | "a" root-2\nroot-2 ::= "b"',
    'root ::= (("a" | "b")+ ("c")?)*',
    'root ::= "one"\nroot ::= "two"',
]
BAD = {
    "": "empty",
    "# nothing": "a rule named root",
    "root": "::= after the name",
    "root :: x": "::= after the name",
    'Root ::= "a"': "a rule named root",
    'root ::= "a" )': "end of the line",
    'root ::= ("a"': "a closing )",
    'root ::= "a" "b': "unexpected end of input",
    "root ::= [a-z": "unexpected end of input",
    r'root ::= "\q"': "unknown escape",
    r'root ::= "\x4"': "unknown escape",
    r"root ::= [\d]": "unknown escape",
    "root ::= *": "nothing before this",
    'root ::= ""*': "nothing before this",
    'root ::= "a" | +': "nothing before this",
    'root ::= "a"{': "a number of times",
    'root ::= "a"{,2}': "a number of times",
    'root ::= "a"{2': ", or }",
    'root ::= "a"{2001}': "at most 2000 repetitions",
    'root ::= "a"{50}{50}': "too many repetitions",
    'root ::= "a"{3,2}': "3 repetitions at least, and 2 at most",
    "root ::= x\ny ::= [a]": "line 1: there is no rule named x",
    'root ::= "a"\n\nx ::= "b" = "c"': "line 3: expected the end of the line",
    "root ::= <|im_end": "a token",
    "root ::= !x": "a token",
    "root ::= <not one token>": "not one token of this model",
    'root ::= "\ud800"': "half a character",
    "root ::= " + "(" * (MAX_NESTED + 1): "parentheses are open",
    'root ::= "a"\0': "NUL",
}


@pytest.mark.parametrize("text", GOOD)
def test_what_llama_cpp_takes_is_taken(complain: Complain, model: Model, text: str) -> None:
    assert complain(text) is None
    assert taken(text, model)


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_told_in_one_line(complain: Complain, text: str) -> None:
    reason = complain(text)
    assert reason is not None and BAD[text] in reason and "\n" not in reason


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "array", "items": {"enum": ["a", '"', "\\"]}, "minItems": 3, "maxItems": 7},
        {"type": "string", "pattern": r"^[A-Z]{2}-\d+(\.\d\d)?$"},
        {"type": "string", "maxLength": 900},
        {"type": "string", "maxLength": 1100},
        {"type": "string", "format": "date-time"},
        {"anyOf": [{"type": "null"}, {"const": "é🦊"}, {"$ref": "#/$defs/n"}], "$defs": {"n": {}}},
        {"properties": {c: {"type": "number"} for c in "abcdefg"}, "type": "object"},
    ],
    ids=str,
)
def test_llama_cpp_agrees_about_grammars_of_json_schemas(
    complain: Complain, model: Model, schema: dict[str, Any]
) -> None:
    text = json_schema_to_gbnf(json.dumps(schema))
    assert (complain(text) is None) == taken(text, model)


PIECES = [
    *("root", "x", " ::= ", "\n", "\r\n", " ", "# c\n", "|", "(", ")", "*", "+", "?", "."),
    *('"a"', '""', '"', "'", "[a-z]", "[]", "[^a]", "[", "]", "-", "\\", "\\x41", "\\u12", "é"),
    *("{", "}", "{2}", "{0}", "{0,0}", "{1,}", "{,3}", "{1,3}", "{3,1}", "{40}", "{2000}", ","),
    *("{1,3000}", "<|im_end|>", "<[5]>", "<", ">", "!", "<>", "\nx ::= ", "(x)", '("a"|x)', "7"),
]


@settings(max_examples=500)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=14), st.booleans())
def test_llama_cpp_agrees(complain: Complain, model: Model, pieces: list[str], whole: bool) -> None:
    text = "".join(pieces)
    if whole:  # else nearly nothing would be a grammar
        text = f'root ::= "b" {text}\nx ::= [0-9]\n'
    reason = complain(text)
    if reason is None:
        assert taken(text, model) or "left recursion" in last_errors()[-1]
    elif not any(known in reason for known in STRICTER):
        assert not taken(text, model)
