"""A grammar holds even a model with random weights to a call, in every family's form."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reellama.gguf_tools.runtime.backend import Model, load_model
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm.engine import Engine, Text
from reellama.pipeline.llm.generation_options import Sampling
from reellama.pipeline.llm.token_sampling import Sampler, _Trigger
from reellama.pipeline.llm.tool_calls.answer_events import CallCollector, CallDelta, ToolCall
from reellama.pipeline.llm.tool_calls.answer_grammar import answer_grammar
from reellama.pipeline.llm.tool_calls.answer_parser import AnswerParser, parse_answer
from reellama.pipeline.llm.tool_calls.tool import Tool
from reellama.pipeline.llm.tool_calls.tool_forms import FORMS, GENERIC

SCHEMA = {
    "type": "object",
    "properties": {
        "unit": {"type": "string", "enum": ["km", "mi"]},
        "far": {"type": "boolean"},
        "near": {"$ref": "#/$defs/near"},
    },
    "required": ["unit", "far"],
    "$defs": {"near": {"enum": [1, 2]}},
}
WEATHER = Tool("get_weather", SCHEMA, {})
SEARCH = Tool(
    "search",
    {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "near": {"$ref": "#/$defs/near"},
            "places": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["text"],
        "$defs": {"near": {"enum": ["here"]}},
    },
    {},
)


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Model]:
    with load_model(smollm2, vocab_only=True) as model:
        yield model


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Iterator[Engine]:
    with Engine(tiny_llama, n_ctx=1024, n_threads=1) as engine:
        yield engine


def accepts(grammar: str, text: str, model: Model) -> bool:
    """Whether a grammar lets a text be written to its end."""
    from llama_cpp import llama_cpp

    sampler = Sampler(Sampling(grammar=grammar), model, 1024)
    tokenizer = Tokenizer(model)
    for token in tokenizer.encode(text):
        if not sampler._allowed(token):
            return False
        llama_cpp.llama_sampler_accept(sampler._grammar, token)
    assert tokenizer.eos is not None
    return sampler._allowed(tokenizer.eos)


def calls_in(text: str, form: str, tools: list[Tool]) -> list[ToolCall]:
    collector = CallCollector()
    events = parse_answer(AnswerParser(FORMS[form], tools=tools), [text])
    assert all(isinstance(event, CallDelta) for event in events), text
    whole = [collector.add(event) for event in events if isinstance(event, CallDelta)]
    return [call for call in whole if call]


@pytest.mark.parametrize("form", FORMS)
def test_a_model_without_sense_calls_the_tool(engine: Engine, form: str) -> None:
    grammar = answer_grammar(form, [WEATHER])
    for seed in (1, 2):
        sampling = Sampling(temperature=2, top_k=0, min_p=0, seed=seed, grammar=grammar)
        tokens = engine.generate([Text("?")], sampling, max_tokens=900)
        text = "".join(token.text for token in tokens)
        (call,) = calls_in(text, form, [WEATHER])
        assert call.name == "get_weather"
        assert call.arguments["unit"] in ("km", "mi") and call.arguments["far"] in (True, False)
        assert call.arguments.keys() <= {"unit", "far", "near"}
        assert call.arguments.get("near", 1) in (1, 2)


@pytest.mark.parametrize("form", FORMS)
def test_the_grammar_of_a_form_is_what_the_form_writes(model: Model, form: str) -> None:
    def written(*calls: tuple[str, dict[str, Any]]) -> str:
        if form in (GENERIC, "llama3"):  # a list of calls is read, but not asked for
            return "\n".join(FORMS[form].write([ToolCall(*call)]) for call in calls)
        text = FORMS[form].write([ToolCall(*call) for call in calls])
        return text.replace("'", '"').replace("True", "true") if form == "lfm2" else text

    one, parallel = (answer_grammar(form, [WEATHER, SEARCH], parallel=p) for p in (False, True))
    weather = ("get_weather", {"unit": "km", "far": True})
    search = ("search", {"text": "a < b, ]", "near": "here"})
    for call in (weather, search):
        assert accepts(one, written(call), model)
        assert accepts(parallel, written(call), model)
    assert accepts(parallel, written(weather, search), model)
    assert not accepts(one, written(weather, search), model)
    for wrong in (
        ("get_rain", {"unit": "km", "far": True}),
        ("get_weather", {"unit": "km"}),
        ("get_weather", {"unit": "m", "far": True}),
        ("search", {"text": "a", "near": "there"}),
    ):
        assert not accepts(parallel, written(wrong), model)
    assert not accepts(one, "It is warm.", model)


def test_where_words_are_allowed_json_is_a_call_all_the_same(model: Model) -> None:
    grammar = answer_grammar(GENERIC, [WEATHER], allow_text=True)
    assert accepts(grammar, "It is warm. {}", model)
    call = ToolCall("get_weather", {"unit": "km", "far": False})
    assert accepts(grammar, FORMS[GENERIC].write([call]), model)
    assert not accepts(grammar, '{"unit": "km"}', model)


def test_a_schema_may_be_followed_instead(model: Model) -> None:
    grammar = answer_grammar(GENERIC, [WEATHER], schema={"enum": ["warm"]})
    assert accepts(grammar, '"warm"', model) and not accepts(grammar, "warm", model)


def test_a_grammar_begins_after_a_text(small_engine: Engine) -> None:
    """The text is one that the grammar would not allow, and the model is made to say it."""
    small_engine.clear()
    [ten] = small_engine.tokenizer.encode(" ten")
    bias = ((ten, 100.0),)
    sampling = Sampling(grammar='root ::= "<b>"', grammar_after="ten", logit_bias=bias)
    tokens = small_engine.generate([Text("Eight, nine,")], sampling, max_tokens=8)
    assert "".join(token.text for token in tokens) == " ten<b>"


def test_a_grammar_binds_from_its_first_text_on(small_engine: Engine) -> None:
    """What stands before is free, also text that begins like it and goes on differently."""
    small_engine.clear()
    tokenizer = small_engine.tokenizer
    bias = tuple((token, 100.0) for token in tokenizer.encode(" ten")[:1])
    grammar = 'root ::= " ten" "<b>"'
    sampling = Sampling(grammar=grammar, grammar_from=" ten", logit_bias=bias)
    tokens = small_engine.generate([Text("Eight, nine,")], sampling, max_tokens=8)
    assert "".join(token.text for token in tokens) == " ten<b>"
    small_engine.clear()
    sampling = Sampling(grammar=grammar, grammar_from="eleven", logit_bias=bias)
    tokens = small_engine.generate([Text("Eight, nine,")], sampling, max_tokens=4)
    assert "".join(token.text for token in tokens) == " ten" * 4


@pytest.mark.parametrize("form", [form for form in FORMS if not FORMS[form].is_plain_json])
def test_calls_that_a_model_makes_by_itself_follow_their_schema(model: Model, form: str) -> None:
    """A sampler is told words, then a call: only what the schema allows may follow its begin."""
    grammar = answer_grammar(form, [WEATHER], parallel=True)
    first = FORMS[form].start_markers[0]
    written = FORMS[form].write([ToolCall("get_weather", {"unit": "km", "far": True})])
    text = written.replace("True", "true").replace("'", '"') if form == "lfm2" else written
    assert text.startswith(first)
    tokenizer = Tokenizer(model)
    trigger = _Trigger(None, first, tokenizer)
    fed: list[int] = []
    for token in tokenizer.encode(f"Well. {text}"):
        fed += trigger.push(token) if trigger.is_waiting else []
    begun = b"".join(map(tokenizer.piece, fed)).decode()
    assert text.startswith(begun) and begun.startswith(first)
    assert accepts(grammar, text, model)


def test_what_only_begins_like_a_call_is_free_again(model: Model) -> None:
    trigger = _Trigger("</think>", "<b>", Tokenizer(model))
    begun = [trigger.push(token) for token in Tokenizer(model).encode("<b> no </think> so <b>")]
    assert not any(begun[:-1]) and begun[-1] and not trigger.is_waiting
    assert trigger.restart() and trigger.is_waiting
    assert not _Trigger("</think>", None, Tokenizer(model)).restart()
