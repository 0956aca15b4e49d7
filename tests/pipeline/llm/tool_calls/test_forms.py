"""Every form of calls: written, cut into pieces of any length, and read back as it was."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reellama.pipeline.llm.tool_calls.answer_events import (
    CallCollector,
    CallDelta,
    ReasoningDelta,
    TextDelta,
    ToolCall,
)
from reellama.pipeline.llm.tool_calls.answer_parser import AnswerParser, parse_answer
from reellama.pipeline.llm.tool_calls.reasoning_tags import (
    REASONING_TAGS,
    ReasoningTags,
    reasoning_tags,
)
from reellama.pipeline.llm.tool_calls.tool import Tool
from reellama.pipeline.llm.tool_calls.tool_forms import FORMS, GENERIC, ToolForm

NAMES = st.from_regex(r"[a-z][a-z_0-9]{0,12}", fullmatch=True)
TEXTS = st.text() | st.sampled_from(
    ['say "no"', "a\\", "}]", "\n", "{", "</tool_call", "é😀", "[TOOL_CALLS", "true", "null", "7"]
)
NUMBERS = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)


def texts_of(value: Any) -> Iterable[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)


def can_hold(form: ToolForm, arguments: dict[str, Any]) -> bool:
    """Whether a form without escapes can hold these texts: they must not look like its own."""
    if form in JSON_ESCAPED:
        return True
    marks = [mark[0] for mark in form.markers]
    held = all(not any(mark in text for mark in marks) for text in texts_of(arguments))
    return held and not any("\ud800" <= c <= "\udfff" for t in texts_of(arguments) for c in t)


JSON_ESCAPED = [form for form in FORMS.values() if type(form).__name__ in ("JsonForm", "NamedForm")]


def schema_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """A schema that says of each argument whether it is text."""
    kinds = {key: {"type": "string"} if isinstance(v, str) else {} for key, v in arguments.items()}
    return {"type": "object", "properties": kinds}


def cut(text: str, sizes: Sequence[int]) -> list[str]:
    """The text in pieces: these sizes, again and again."""
    pieces, at, i = [], 0, 0
    while at < len(text):
        size = sizes[i % len(sizes)]
        pieces.append(text[at : at + size])
        at, i = at + size, i + 1
    return pieces


def read(parser: AnswerParser, pieces: Sequence[str]) -> tuple[str, str, list[ToolCall]]:
    """Words, reasoning and calls of an answer; how its stream is told is checked on the way."""
    words, reasoning, calls, collector = "", "", [], CallCollector()
    begun: set[int] = set()
    for event in parse_answer(parser, pieces):
        if isinstance(event, TextDelta):
            words += event.text
        elif isinstance(event, ReasoningDelta):
            reasoning += event.text
        else:
            assert event.first == (event.index not in begun) and event.name and event.id
            begun.add(event.index)
            if (whole := collector.add(event)) is not None:
                calls.append(whole)
    return words, reasoning, calls


@settings(max_examples=500)  # of two objects each
@given(
    name=st.sampled_from(sorted(FORMS)),
    first=OBJECTS,
    second=OBJECTS,
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
def test_calls_come_back_as_they_were_written(
    name: str, first: dict[str, Any], second: dict[str, Any], sizes: list[int]
) -> None:
    form = FORMS[name]
    written = [ToolCall("get_weather", first), ToolCall("add.one", second)]
    written = [call for call in written if can_hold(form, call.arguments)]
    tools = [Tool(call.name, schema_of(call.arguments), {}) for call in written]
    if not written:
        return
    text = form.write(written)
    words, _, calls = read(AnswerParser(form, tools=tools), cut(text, sizes))
    assert [(c.name, c.arguments) for c in calls] == [(c.name, c.arguments) for c in written]
    assert words == ""


@pytest.mark.parametrize("name", FORMS)
def test_words_before_and_after_a_call_are_words(name: str) -> None:
    form = FORMS[name]
    call = form.write([ToolCall("f", {"a": 1})])
    text = call if form.is_plain_json else f"Let me see: 1 < 2, [x].\n\n{call}\nDone. "
    for sizes in ([1], [3, 1], [1000]):
        words, _, calls = read(AnswerParser(form), cut(text, sizes))
        assert [(c.name, c.arguments) for c in calls] == [("f", {"a": 1})]
        assert form.is_plain_json or words.startswith("Let me see: 1 < 2, [x].")
        assert form.is_plain_json or "Done." in words or not form.markers[1:]


@pytest.mark.parametrize("name", FORMS)
def test_what_only_begins_like_a_call_is_words(name: str) -> None:
    form = FORMS[name]
    begin = "{" if form.is_plain_json else form.start_markers[0]
    for text in (begin, f"{begin} is how calls begin.", f"Hm, {begin}"):
        words, _, calls = read(AnswerParser(form), cut(text, [1]))
        assert (words.strip(), calls) == (text.strip(), [])


@pytest.mark.parametrize("name", [GENERIC, "llama3", "hermes", "mistral", "functionary"])
def test_a_call_that_is_cut_before_its_arguments_is_no_words(name: str) -> None:
    form = FORMS[name]
    tools = [Tool(each, {}, {}) for each in ("add", "weather")]
    text = form.write([ToolCall("weather", {"a": 1})])
    begin = form.start_markers[0] if form.start_markers else "{"
    for n in range(len(begin), text.index("}") + 1):
        assert read(AnswerParser(form, tools=tools), cut(text[:n], [2]))[0] == "", text[:n]


@pytest.mark.parametrize("text", ['{"name": "Bob', '{"a', "[1] x", '{"name": "add"}', '{"name": 5'])
def test_what_is_cut_and_is_no_call_of_a_tool_is_words(text: str) -> None:
    parser = AnswerParser(FORMS[GENERIC], tools=[Tool("add", {}, {})])
    assert read(parser, cut(text, [2]))[0] == text


def read_cut(parser: AnswerParser, text: str) -> tuple[str, list[tuple[str, str]]]:
    """Words of an answer that the token limit cut, and its calls: their names, and the JSON text of
    their arguments."""
    events = [event for piece in cut(text, [3]) for event in parser.push(piece)]
    words, calls = "", dict[int, tuple[str, str]]()
    for event in events + parser.finish(cut=True):
        if isinstance(event, CallDelta):
            arguments = calls.get(event.index, ("", ""))[1] + event.arguments
            calls[event.index] = (event.name, arguments)
        elif isinstance(event, TextDelta):
            words += event.text
    return words, list(calls.values())


@pytest.mark.parametrize("name", FORMS)
def test_a_call_that_the_limit_cuts_is_told_as_far_as_it_came(name: str) -> None:
    form = FORMS[name]
    arguments = {"town": "Bern, \n(old)", "days": 21, "more": {"a": [1, "b"]}}
    whole = json.dumps(arguments, ensure_ascii=False)
    tool = Tool("weather", schema_of(arguments), {})
    text = form.write([ToolCall("weather", arguments)])
    told = ""
    for n in range(1, len(text) + 1):
        words, calls = read_cut(AnswerParser(form, tools=[tool]), text[:n])
        # Letters are words, such as those that gpt-oss's calls begin with: " to=functions."
        assert not words or words.strip().isalpha(), text[:n]
        assert len(calls) <= 1 and (calls or n <= text.index("Bern")), text[:n]
        for called, json_text in calls:
            assert called == "weather", text[:n]
            assert whole.startswith(json_text) and json_text.startswith(told), text[:n]
            told = json_text
    assert told == whole


@pytest.mark.parametrize("name", FORMS)
def test_half_a_marker_that_the_limit_cuts_is_no_words(name: str) -> None:
    form = FORMS[name]
    for marker in form.start_markers:
        for n in range(1, len(marker)):
            half = "" if not marker[:n].strip().isalpha() else marker[:n]
            answer = f"One.\n{marker[:n]}"
            words = f"One.\n{half}" if half else "One."
            assert read_cut(AnswerParser(form), answer)[0] == words
            assert read(AnswerParser(form), cut(answer, [2]))[0] == answer  # the model's own end


@pytest.mark.parametrize("tags", REASONING_TAGS)
def test_half_a_tag_of_reasoning_that_the_limit_cuts_is_neither_words_nor_thought(
    tags: ReasoningTags,
) -> None:
    for n in range(1, len(tags.end)):
        parser = AnswerParser(None, tags, in_reasoning=True)
        events = parser.push(f"Hm.{tags.end[:n]}") + parser.finish(cut=True)
        assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == "Hm."
    for n in range(1, len(tags.begin)):
        assert read_cut(AnswerParser(None, tags), tags.begin[:n]) == ("", [])


def test_what_the_limit_cuts_and_is_no_call_of_a_tool_is_words() -> None:
    tools = [Tool("add", {}, {})]
    json_texts = ['{"name": "Bob', '{"a', '{"a": 12', '{"a": "x\\', '{"sum": {"b": [1, ']
    for name, text in [*((GENERIC, text) for text in json_texts), ("hermes", "1 2"), ("glm", "x")]:
        assert read_cut(AnswerParser(FORMS[name], tools=tools), text) == (text, [])


@pytest.mark.parametrize("name", sorted({*FORMS} - {"lfm2"}))
def test_arguments_come_piece_by_piece(name: str) -> None:
    form, given = FORMS[name], {"text": "one two\nthree"}
    tools = [Tool("f", schema_of(given), {})]
    text = form.write([ToolCall("f", given)])
    events = parse_answer(AnswerParser(form, tools=tools), cut(text, [4]))
    pieces = [event.arguments for event in events if isinstance(event, CallDelta)]
    assert len(pieces) > 4 and json.loads("".join(pieces)) == given


def test_a_call_that_is_cut_short_is_not_complete() -> None:
    text = FORMS["hermes"].write([ToolCall("f", {"a": "long text"})])
    events = parse_answer(AnswerParser(FORMS["hermes"]), [text[:-25]])
    (delta,) = [event for event in events if isinstance(event, CallDelta)]
    assert delta.first and not delta.done
    in_escape = text[: text.index("long")] + "\\"
    assert read(AnswerParser(FORMS["hermes"]), [in_escape])[0] == ""


def read_self_ended(name: str, text: str) -> tuple[str, list[tuple[str, bool]], int]:
    """Words of an answer that the model itself ended, its calls and how many of them count.

    A call is the JSON text of its arguments, and whether it was ended.
    """
    types = {"s": {"type": "string"}, "n": {"type": "integer"}}
    tools = [Tool("f", {"type": "object", "properties": types}, {})]
    parser = AnswerParser(FORMS[name], tools=tools)
    words, calls = "", dict[int, tuple[str, bool]]()
    for event in parse_answer(parser, cut(text, [3])):
        if isinstance(event, CallDelta):
            arguments, _ = calls.get(event.index, ("", False))
            calls[event.index] = (arguments + event.arguments, event.done)
        elif isinstance(event, TextDelta):
            words += event.text
    return words, list(calls.values()), parser.n_ended_calls


GLM_CALL = "<tool_call>f<arg_key>s</arg_key><arg_value>Paris</arg_value>"
GEMMA_CALL = "<start_function_call>call:f{s:<escape>Paris<escape>"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("glm", f"{GLM_CALL}\n</tool_call", '{"s": "Paris"}'),
        ("glm", f"{GLM_CALL}\n", '{"s": "Paris"}'),
        ("gemma", f"{GEMMA_CALL},n:3", '{"s": "Paris", "n": 3}'),
        ("llama3", '{"name": "f", "parameters": {"s": "Paris"}', '{"s": "Paris"}'),
        ("mistral-args", '[TOOL_CALLS]f[ARGS]{"s": "Paris"', '{"s": "Paris"}'),
        ("lfm2", "<|tool_call_start|>[f(s='Paris', n=3)", '{"s": "Paris", "n": 3}'),
    ],
)
def test_a_call_without_its_last_tags_is_whole(name: str, text: str, told: str) -> None:
    assert read_self_ended(name, text) == ("", [(told, True)], 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("glm", GLM_CALL.removesuffix("</arg_value>")),
        ("glm", f"{GLM_CALL}<arg_key>n</arg_key><arg_value>3"),
        ("glm", f"{GLM_CALL}<arg_key>n</arg_ke"),
        ("glm", "<tool_call>f<arg_key>s"),
        ("gemma", GEMMA_CALL.removesuffix("<escape>")),
        ("gemma", f"{GEMMA_CALL},n"),
        ("gemma", "<start_function_call>call:f{"),
        ("llama3", '{"name": "f", "parameters": {"s": "Paris", "n'),
        ("mistral-args", '[TOOL_CALLS]f[ARGS]{"s": "Paris", '),
        ("mistral-args", "[TOOL_CALLS]f[ARGS]"),
    ],
)
def test_a_call_that_the_model_leaves_unfinished_does_not_count(name: str, text: str) -> None:
    _, [(_, is_ended)], n_ended = read_self_ended(name, text)
    assert not is_ended and n_ended == 0


@pytest.mark.parametrize("rest", ["", ", ", ", g"])
def test_a_python_call_without_its_bracket_is_whole(rest: str) -> None:
    whole = '{"s": "Paris", "n": 3}'
    text = f"<|tool_call_start|>[f(s='Paris', n=3){rest}"
    assert read_self_ended("lfm2", text) == ("", [(whole, True)], 1)
    assert read_cut(AnswerParser(FORMS["lfm2"]), text) == ("", [("f", whole)])


def test_a_python_call_that_the_model_leaves_unfinished_is_words() -> None:
    for text in ("hello (world, x", "hello (world), x", "[f(s='Paris', n=3", "[g(s='Paris')"):
        text = f"<|tool_call_start|>{text}"
        assert read_self_ended("lfm2", text) == (text, [], 0)
    first = "<|tool_call_start|>[f(s='Paris'), f(s='Ro"
    assert read_self_ended("lfm2", first) == ("", [('{"s": "Paris"}', True)], 1)


@settings(max_examples=200)
@given(
    tags=st.sampled_from(REASONING_TAGS),
    thought=st.text(min_size=1),
    said=st.text(),
    opened=st.booleans(),
    size=st.integers(1, 30),
)
def test_reasoning_comes_apart_from_the_words(
    tags: Any, thought: str, said: str, opened: bool, size: int
) -> None:
    if tags.end[0] in thought or not thought.strip():
        return
    text = f"{'' if opened else tags.begin}\n{thought}\n{tags.end}\n\n{said}"
    words, reasoning, calls = read(AnswerParser(None, tags, opened), cut(text, [size]))
    assert (reasoning, words, calls) == (thought.strip(), said.lstrip(), [])


HARMONY = reasoning_tags("{{ '<|channel|>analysis' }}")
BEFORE = "<|channel|>analysis<|message|>Which town?<|end|><|start|>assistant"
CALL = 'get_weather <|constrain|>json<|message|>{"town": "Bern"}<|call|>'
WORDS = "<|channel|>final<|message|>It is warm.<|return|>"


@pytest.mark.parametrize(
    ("text", "said", "thought", "n_calls"),
    [
        (BEFORE + WORDS, "It is warm.", "Which town?", 0),
        (WORDS, "It is warm.", "", 0),
        ("It is warm.", "It is warm.", "", 0),
        (f"{BEFORE}<|channel|>commentary to=functions.{CALL}", "", "Which town?", 1),
        (f"{BEFORE} to=functions.get_weather<|channel|>commentary json<|message|>", None, "", 0),
        (
            (
                f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{BEFORE}"
                f"<|channel|>commentary to=functions.{CALL}"
            ),
            "I look.",
            "Which town?",
            1,
        ),
        (FORMS["harmony"].write([ToolCall("f", {}), ToolCall("g", {})]), "", "", 2),
    ],
    ids=["thought", "words", "bare", "call", "cut", "words, thought, call", "calls at once"],
)
def test_the_channels_of_gpt_oss_are_told_apart(
    text: str, said: str | None, thought: str, n_calls: int
) -> None:
    for size in (1, 7, 1000):
        parser = AnswerParser(FORMS["harmony"], HARMONY)
        words, reasoning, calls = read(parser, cut(text, [size]))
        assert len(calls) == n_calls
        if said is not None:
            assert (words, reasoning) == (said, thought)


def test_an_answer_without_reasoning_is_words() -> None:
    tags = reasoning_tags("{{ '<think>' }}")
    assert tags is not None
    for text in ("No <think> here.", " <thin", "\n Hi"):
        assert read(AnswerParser(None, tags), cut(text, [1])) == (text, "", [])


def test_a_call_after_reasoning_is_a_call() -> None:
    tags = REASONING_TAGS[0]
    text = f"Hm.{tags.end}\n\n" + FORMS[GENERIC].write([ToolCall("f", {})])
    _, reasoning, calls = read(AnswerParser(FORMS[GENERIC], tags, True), cut(text, [2]))
    assert reasoning == "Hm." and [call.name for call in calls] == ["f"]
