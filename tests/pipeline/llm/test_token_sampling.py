"""Sampling options do what llama.cpp's do, and bad ones are refused in one line."""

import ctypes
import json
import os
import resource
import threading
import time
from collections import Counter
from functools import partial
from itertools import accumulate, cycle, pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from llama_cpp import llama_cpp

from reellama.pipeline.llm import token_sampling
from reellama.pipeline.llm.engine import Engine, PromptPart, Text
from reellama.pipeline.llm.generation_options import (
    GenerationOptions,
    Sampling,
    SamplingError,
    requested_sampling,
)
from reellama.pipeline.llm.token_sampling import CANDIDATE, build_chain
from tests.helpers.forced_sampling import saying

pytestmark = pytest.mark.numeric

PROMPT: list[PromptPart] = [
    Text("<|im_start|>user\nWrite a line about a dog.<|im_end|>\n<|im_start|>assistant\n", True)
]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "kind": {"enum": ["dog", "cat"]},
        "legs": {"type": "integer"},
    },
    "required": ["name", "kind", "legs"],
}


def deep_schema() -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    return schema


# After so much of it, no model says anything else of itself.
DRUM: list[PromptPart] = [Text("tick tock " * 30 + "tick")]


def ids(
    engine: Engine, sampling: Sampling, max_tokens: int = 12, prompt: list[PromptPart] = PROMPT
) -> list[int]:
    """The tokens of an answer; nothing was read before, so that all answers round alike."""
    engine.clear()
    return [token.id for token in engine.generate(prompt, sampling, max_tokens=max_tokens)]


def chosen(sampling: Sampling, p: list[float]) -> int:
    """The token that the chain of samplers takes from a vocabulary of these probabilities."""
    candidates = np.zeros(len(p), CANDIDATE)
    candidates["id"], candidates["logit"] = np.arange(len(p)), np.log(p)
    data = candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
    array = llama_cpp.llama_token_data_array(data=data, size=len(p), selected=-1, sorted=False)
    chain = build_chain(sampling, len(p), 64)
    llama_cpp.llama_sampler_apply(chain, ctypes.byref(array))
    llama_cpp.llama_sampler_free(chain)
    return int(array.data[array.selected].id)


def text(engine: Engine, sampling: Sampling, max_tokens: int = 60) -> str:
    tokens = engine.generate(PROMPT, sampling, max_tokens=max_tokens, n_probs=0)
    return "".join(token.text for token in tokens)


def test_a_seed_repeats_and_another_differs(engine: Engine) -> None:
    first = ids(engine, Sampling(temperature=1.0, seed=7))
    assert ids(engine, Sampling(temperature=1.0, seed=7)) == first
    others = [ids(engine, Sampling(temperature=1.0, seed=seed)) for seed in (8, 9, 10)]
    assert any(other != first for other in others)


def test_without_a_seed_answers_vary(engine: Engine) -> None:
    wild = Sampling(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0)
    assert ids(engine, wild) != ids(engine, wild)


@pytest.mark.parametrize(
    "narrow",
    [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"temperature": 1e-6}],
    ids=lambda options: next(iter(options)),
)
def test_each_filter_alone_can_leave_only_the_likeliest_token(
    engine: Engine, narrow: dict[str, Any]
) -> None:
    wide: dict[str, Any] = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1}
    assert ids(engine, Sampling(**{**wide, **narrow}), 6) == ids(engine, Sampling(), 6)


def test_a_bias_forbids_a_token_and_leaves_only_another_one(engine: Engine) -> None:
    likeliest, second, *_ = ids(engine, Sampling(), 2)
    assert ids(engine, Sampling(logit_bias=((likeliest, -100.0),)), 1) != [likeliest]
    wanted = ((second, 100.0),)
    for sampling in (Sampling(logit_bias=wanted), Sampling(temperature=1, logit_bias=wanted)):
        assert ids(engine, sampling, 3) == [second] * 3
    for bias, reason in (((10**9, 1.0), "no token 1000000000"), ((5, 101.0), "between -100 and")):
        with pytest.raises(SamplingError, match=reason) as error:
            ids(engine, Sampling(logit_bias=(bias,)), 1)
        assert error.value.option == "logit_bias"


def test_the_pieces_of_tokens_are_the_bytes_of_the_answer(engine: Engine) -> None:
    """Those of a character that is made of several tokens too, which only the last one shows."""
    fox = Sampling(grammar='root ::= "a 🦊!"')
    tokens = list(engine.generate(PROMPT, fox, n_probs=2))
    assert "".join(token.text for token in tokens) == "a 🦊!"
    assert b"".join(token.piece for token in tokens) == "a 🦊!".encode()
    assert any(token.piece and not token.text for token in tokens)
    assert all(len(token.alternative_pieces) == 2 for token in tokens)


@pytest.mark.parametrize("value", ["\U0001f98a", "a\nb", 'say "yes"', "C:\\new", "\t\x01ü"])
def test_a_schema_binds_to_texts_with_any_character(engine: Engine, value: str) -> None:
    names = {"type": "object", "properties": {value: {"const": [value]}}, "required": [value]}
    assert json.loads(text(engine, Sampling(json_schema=names))) == {value: [value]}


@pytest.mark.parametrize("bounds", [{"minLength": 4, "maxLength": 4}, {"pattern": "^....$"}])
def test_a_schema_lets_no_character_through_that_json_escapes(
    engine: Engine, bounds: dict[str, Any]
) -> None:
    unfit = [i for text in ("\n", "\t", "\x0b", '"', "\\") for i in engine.tokenizer.encode(text)]
    sampling = Sampling(
        json_schema={"type": "string", **bounds}, logit_bias=tuple((i, 50.0) for i in unfit)
    )
    assert len(json.loads(text(engine, sampling))) == 4


def test_typical_sampling_takes_the_token_of_typical_surprise() -> None:
    """Where many tokens could follow, a likely one is no typical one."""
    p = [0.4, *[0.004] * 50, 0.04, *[0.008] * 45]  # 3.9 nats of surprise on average
    wide: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    for seed in range(20):
        assert chosen(Sampling(**wide, typical_p=0.01, seed=seed), p) == 51
    drawn = {chosen(Sampling(**wide, seed=seed), p) for seed in range(20)}
    assert 0 in drawn and len(drawn) > 2


@pytest.mark.parametrize(
    "penalty",
    [{"repeat_penalty": 50.0}, {"frequency_penalty": 50.0}, {"presence_penalty": 50.0}],
    ids=lambda options: next(iter(options)),
)
def test_penalties_keep_an_answer_from_repeating_itself(
    engine: Engine, penalty: dict[str, Any]
) -> None:
    assert max(Counter(ids(engine, Sampling(), 20, DRUM)).values()) > 1
    assert max(Counter(ids(engine, Sampling(**penalty), 20, DRUM)).values()) == 1


def test_a_penalty_forgets_what_was_said_long_ago(engine: Engine) -> None:
    said = ids(engine, Sampling(frequency_penalty=50.0, repeat_last_n=1), 20, DRUM)
    assert max(Counter(said).values()) > 1
    assert all(a != b for a, b in pairwise(said))


def test_the_chain_has_llama_cpps_order(engine: Engine) -> None:
    def names(sampling: Sampling) -> list[str]:
        chain = build_chain(sampling, 100, 64)
        links = range(llama_cpp.llama_sampler_chain_n(chain))
        found = [
            llama_cpp.llama_sampler_name(llama_cpp.llama_sampler_chain_get(chain, i)).decode()
            for i in links
        ]
        llama_cpp.llama_sampler_free(chain)
        return [name.lstrip("+") for name in found]

    options: dict[str, Any] = {"typical_p": 0.9, "repeat_penalty": 1.1}
    assert names(Sampling()) == ["greedy"]
    assert names(Sampling(temperature=0.7, **options)) == [
        *("penalties", "top-k", "typical", "top-p", "min-p", "temp", "dist")
    ]


def test_a_grammar_forces_the_answer(engine: Engine) -> None:
    grammar = 'root ::= ("woof" | "meow") "!" [0-9]{3}'
    said = text(engine, Sampling(grammar=grammar))
    assert said[:5] in ("woof!", "meow!")
    assert said[5:].isdigit()
    assert len(said) == 8
    assert engine.last.stop_reason == "stop"


def test_a_grammar_also_binds_a_hot_sampler(engine: Engine) -> None:
    hot = Sampling(temperature=5.0, top_k=0, top_p=1.0, min_p=0.0, seed=3, grammar='root ::= "a"+')
    assert set(text(engine, hot, 10)) == {"a"}


def test_a_json_schema_gives_json_of_that_shape(engine: Engine) -> None:
    for sampling in (
        Sampling(json_schema=SCHEMA),
        Sampling(json_schema=SCHEMA, temperature=1.5, seed=5),
    ):
        found = json.loads(text(engine, sampling, 400))
        assert set(found) == {"name", "kind", "legs"}
        assert found["kind"] in ("dog", "cat")
        assert isinstance(found["legs"], int)


@pytest.mark.parametrize(
    ("grammar", "complaint"),
    [
        ('root ::= "yes', "unexpected end of input"),
        ("root ::= missing", "missing"),
        ('other ::= "a"', "root"),
        ("", "empty"),
        ('root ::= root "a" | "b"', "begins with itself"),
        ('root ::= "a"\0', "NUL"),
        ("🦊 \n\n %%", ""),
    ],
)
def test_a_malformed_grammar_is_refused_in_one_line(
    engine: Engine, grammar: str, complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SamplingError, match="grammar") as caught:
        engine.generate(PROMPT, Sampling(grammar=grammar))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_malformed_grammar_leaves_stderr_to_the_other_threads(
    engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = [f"line {i}\n" for i in range(2000)]
    done = threading.Event()

    def log() -> None:
        for line in lines:
            os.write(2, line.encode())
            time.sleep(0)
        done.set()

    thread = threading.Thread(target=log)
    thread.start()
    while not done.is_set():
        with pytest.raises(SamplingError, match="no rule named missing"):
            engine.generate(PROMPT, Sampling(grammar="root ::= missing"))
    thread.join()
    assert capfd.readouterr().err == "".join(lines)


def test_a_grammar_that_nothing_can_continue_is_an_error_and_not_a_crash(engine: Engine) -> None:
    with pytest.raises(SamplingError, match="lets no token follow"):
        text(engine, Sampling(grammar='root ::= "a" [^\\x00-\\U0010FFFF]'))
    assert text(engine, Sampling(grammar='root ::= "ok"')) == "ok"


def test_a_grammar_with_ever_more_ways_to_go_on_ends_the_answer(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_sampling, "MAX_GRAMMAR_SECONDS", 0.01)
    [dash] = engine.tokenizer.encode("-")
    ambiguous = 'root ::= x "."\nx ::= "-" | "-" x | "-" x x | "-" x x x\n'
    with pytest.raises(SamplingError, match="too many ways to go on"):
        text(engine, Sampling(grammar=ambiguous, logit_bias=((dash, 100.0),)))


def test_one_slow_token_ends_no_answer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = accumulate(cycle([0.0, 0.0, 0.0, 10.0]))  # every second token
    monkeypatch.setattr(token_sampling, "time", SimpleNamespace(thread_time=partial(next, clock)))
    assert text(engine, saying("slow, but it goes on to its end")) == (
        "slow, but it goes on to its end"
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "https://example.org/schema.json"},
        {"$ref": "#/nowhere"},
        {"type": "string", "pattern": "unanchored"},
        {"properties": 3, "type": "object"},
        {"type": "string", "maxLength": 2**31 - 1},
        {"type": "array", "items": {"type": "array", "items": {}, "minItems": 10**9}},
        {"type": "string", "pattern": "^a{2,1000000000}$"},
        deep_schema(),
    ],
    ids=lambda schema: "-".join(schema),
)
def test_a_schema_that_cannot_be_a_grammar_is_refused(
    engine: Engine, schema: dict[str, Any]
) -> None:
    with pytest.raises(SamplingError, match="JSON schema") as caught:
        engine.generate(PROMPT, Sampling(json_schema=schema))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"typical_p": 2},
        {"repeat_penalty": 0},
        {"repeat_last_n": -2},
        {"frequency_penalty": float("inf")},
        {"seed": -1},
        {"seed": 2**32},
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(SamplingError, match=f"{name} is .* but must lie between"):
        Sampling(**options)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"temperature": -5}, Sampling()),
        ({"top_p": 7.0, "min_p": -1.0}, Sampling(top_p=1.0, min_p=0.0)),
        ({"top_k": -1, "repeat_last_n": -7}, Sampling(top_k=0, repeat_last_n=-1)),
        ({"seed": -1}, Sampling()),
        ({"seed": 2**63 - 1}, Sampling(seed=(2**63 - 1) % 0xFFFFFFFF)),
        ({"temperature": None, "seed": 3}, Sampling(seed=3)),
    ],
    ids=str,
)
def test_what_ollama_clamps_is_clamped(given: dict[str, Any], taken: Sampling) -> None:
    assert requested_sampling(given) == taken


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("name", ["temperature", "repeat_penalty", "presence_penalty"])
def test_a_request_cannot_ask_for_what_is_no_number(name: str, value: float) -> None:
    with pytest.raises(SamplingError, match=name) as caught:
        requested_sampling({name: value})
    assert caught.value.option == name


def test_a_penalty_over_any_number_of_tokens_takes_no_more_memory_than_the_context() -> None:
    chain = build_chain(Sampling(repeat_penalty=1.1, repeat_last_n=2**31 - 1), 100, 64)
    try:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert most < 4 << 20  # KiB; llama.cpp's ring of so many tokens has 8 GiB
    finally:
        llama_cpp.llama_sampler_free(chain)


@pytest.mark.parametrize("stop", [["x"] * 65, ["x" * 16_385], [7]], ids=["many", "long", "no text"])
def test_stop_texts_are_limited(stop: Any) -> None:
    with pytest.raises(SamplingError, match="stop text") as caught:
        GenerationOptions(stop=stop)
    assert caught.value.option == "stop"


def test_a_grammar_and_a_schema_together_are_refused() -> None:
    with pytest.raises(SamplingError, match="not both"):
        Sampling(grammar='root ::= "a"', json_schema=SCHEMA)
