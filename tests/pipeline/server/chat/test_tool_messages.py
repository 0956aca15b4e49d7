"""Calls and results as templates take them, and in words where a template does not."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.text.template_traits import try_template
from reellama.pipeline.llm.generation_options import GenerationOptions
from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.llm.tool_calls.answer_grammar import answer_grammar
from reellama.pipeline.llm.tool_calls.chat_format import ChatFormat, chat_format_of
from reellama.pipeline.llm.tool_calls.tool import Tool
from reellama.pipeline.llm.tool_calls.tool_forms import FORMS
from reellama.pipeline.server.chat.answer_constraints import find_grammar, with_grammar
from reellama.pipeline.server.chat.call_arguments import tool_call_from
from reellama.pipeline.server.chat.chat_request import (
    ChatRequest,
    ServiceMessage,
    ToolChoice,
    tool_choice_from,
    tool_from_definition,
)
from reellama.pipeline.server.chat.tool_messages import (
    EXAMPLE,
    adapt_conversation,
    template_message,
)
from reellama.pipeline.server.sandbox.sandbox import SandboxError

EACH = "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
DEFINITIONS = "{% for t in tools or [] %}{{ t | tojson }} <tool_call> {% endfor %}"
CALLS = (
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
)
END = "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
ONE = "{% if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endif %}"
KNOWS_ALL = DEFINITIONS + EACH + CALLS + END
TOOL = Tool("f", {}, {"type": "function", "function": {"name": "f", "description": "An f."}})


def two_calls(*ids: str) -> list[tuple[ServiceMessage, Any]]:
    """A question, two calls of one message, and results in the other order, each by its name."""
    calls = tuple(
        ToolCall(name, {"a": i}, given)
        for i, (name, given) in enumerate(zip("fg", ids, strict=True))
    )
    said = [
        ServiceMessage("system", "Be brief."),
        ServiceMessage("user", "?"),
        ServiceMessage("assistant", "Hm.", tool_calls=calls),
        ServiceMessage("tool", "of g", name="g"),
        ServiceMessage("tool", "of f", tool_call_id=ids[0], name="f"),
        ServiceMessage("user", "And?"),
    ]
    return [(message, []) for message in said]


def told(source: str, *ids: str) -> list[tuple[str, str, list[str]]]:
    """Roles, contents, and names of calls, as this template gets them."""
    found = adapt_conversation(two_calls(*ids), chat_format_of(source), [TOOL])
    return [(m.role, m.content, [c.name for c in m.tool_calls]) for m, _ in found]


def test_a_template_that_knows_tools_gets_them_as_they_are() -> None:
    found = adapt_conversation(two_calls("", ""), chat_format_of(KNOWS_ALL), [TOOL])
    assistant, of_g, of_f = (message for message, _ in found[2:5])
    ids = [call.id for call in assistant.tool_calls]
    assert len(set(ids)) == 2 and [of_f.tool_call_id, of_g.tool_call_id] == ids
    assert template_message(of_g, False) == {
        "role": "tool",
        "content": "of g",
        "tool_call_id": ids[1],
        "name": "g",
    }
    (call, _) = template_message(assistant, True)["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"a": 0}'}


def test_arguments_that_are_no_json_object_reach_the_template() -> None:
    call = tool_call_from("f", '{ "a": "1', "1")
    said = ServiceMessage("assistant", "", tool_calls=(call,))
    for text_arguments, shown in ((True, '{ "a": "1'), (False, {"arguments": '{ "a": "1'})):
        (made,) = template_message(said, text_arguments)["tool_calls"]
        assert made["function"] == {"name": "f", "arguments": shown}
    (words, _) = adapt_conversation(
        [(said, []), (ServiceMessage("tool", "?"), [])], chat_format_of(EACH + END), []
    )
    assert json.dumps('{ "a": "1') in words[0].content


def test_tools_that_a_template_does_not_know_are_described_in_text() -> None:
    system, asked, call, results = told(EACH + END, "", "")
    assert "An f." in system[1] and system[1].startswith("Be brief.")
    assert asked == ("user", "?", [])
    assert call[0] == "assistant" and call[1].startswith("Hm.\n[{") and '"name": "g"' in call[1]
    assert results == ("user", "Result of g: of g\nResult of f: of f\nAnd?", [])


def test_a_template_that_leaves_calls_out_gets_them_as_the_model_writes_them() -> None:
    source = DEFINITIONS + EACH + END
    assert (
        chat_format_of(source).tool_form_name == "hermes"
        and not chat_format_of(source).traits.calls
    )
    _, _, call, of_g, of_f, _ = told(source, "", "")
    assert call[1].startswith('Hm.\n<tool_call>\n{"name": "f"') and not call[2]
    assert of_g[0] == of_f[0] == "tool"


def test_a_template_that_takes_one_call_at_a_time_gets_each_with_its_result() -> None:
    source = DEFINITIONS + EACH + ONE + CALLS + END
    roles = [(role, names) for role, _, names in told(source, "", "")]
    assert roles[2:6] == [("assistant", ["f"]), ("assistant", ["g"]), ("tool", []), ("tool", [])]


def test_ids_are_replaced_where_a_template_takes_only_short_ones() -> None:
    short = "{% if m.tool_calls and m.tool_calls[0].id | length != 9 %}{{ raise_exception('id') }}"
    source = DEFINITIONS + EACH + short + "{% endif %}" + CALLS + END
    assert try_template(source).short_ids and not try_template(KNOWS_ALL).short_ids
    found = adapt_conversation(
        two_calls("toolu_0123456789", "toolu_9876543210"), chat_format_of(source), [TOOL]
    )
    ids = [call.id for call in found[2][0].tool_calls]
    assert all(len(each) == 9 and each.isalnum() for each in ids)
    assert [message.tool_call_id for message, _ in found[3:5]] == ids[::-1]


def test_a_form_that_does_not_read_what_the_template_writes_is_not_used() -> None:
    odd = KNOWS_ALL.replace("c.function | tojson", "c.function.name ~ c.function.arguments")
    assert chat_format_of(KNOWS_ALL).knows_tools and not chat_format_of(odd).knows_tools


def test_reasoning_tags_are_those_of_the_template() -> None:
    found: ChatFormat = chat_format_of(KNOWS_ALL + "{{ '[THINK]' }}")
    assert found.reasoning is not None and found.reasoning.end == "[/THINK]"
    assert chat_format_of(KNOWS_ALL).reasoning is None


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ({}, "a tool is"),
        ({"type": "function", "function": {}}, "cannot be named ''"),
        ({"type": "function", "function": {"name": "a b"}}, "cannot be named 'a b'"),
        ({"type": "function", "function": {"name": "f", "parameters": 1}}, "no JSON schema"),
    ],
)
def test_a_tool_that_cannot_be_used_is_refused(definition: Any, reason: str) -> None:
    with pytest.raises(ReellamaError, match=reason):
        tool_from_definition(definition)


def test_a_contradictory_request_is_refused() -> None:
    for tools, choice, reason in (
        ([TOOL, TOOL], ToolChoice(), "two tools named 'f'"),
        ([TOOL], tool_choice_from({"name": "g"}), "names 'g'"),
        ([], tool_choice_from("required"), "there are no tools"),
    ):
        with pytest.raises(ReellamaError, match=reason):
            ChatRequest([], tools, choice)


def test_a_template_that_writes_calls_alone_is_told_of_tools_with_one_as_an_example() -> None:
    own = chat_format_of(EACH + CALLS + END)
    assert own.tool_form_name == "hermes" and not own.is_told_of_tools
    (system, _), *rest = adapt_conversation(two_calls("", ""), own, [TOOL])
    assert system.content.startswith("Be brief.") and "An f." in system.content
    assert FORMS["hermes"].write([EXAMPLE]) in system.content
    assert [len(message.tool_calls) for message, _ in rest] == [0, 2, 0, 0, 0]


def test_a_message_with_calls_has_no_content_where_the_template_wants_none() -> None:
    strict = EACH.replace("{{ m.content }}", "{{ m.content or '' }}{% if m.content is none %}")
    own = chat_format_of(DEFINITIONS + strict + CALLS + "{% endif %}" + END)
    assert own.knows_tools and own.traits.no_content
    silent = ServiceMessage("assistant", "", tool_calls=(ToolCall("f", {}),))
    assert template_message(silent, False, no_content=True)["content"] is None
    assert template_message(silent, False)["content"] == ""


def test_a_schema_binds_what_follows_the_channel_of_the_answer() -> None:
    channels = chat_format_of("{# <|channel|>analysis #}" + EACH + END)
    options = GenerationOptions()
    assert with_grammar(options, channels, "", None, text_only=True) is options
    after = with_grammar(options, channels, "<|start|>assistant", 'root ::= "{}"', text_only=True)
    assert after.sampling.grammar_after == "<|channel|>final<|message|>"
    calls = with_grammar(options, channels, "<|start|>assistant", 'root ::= "{}"', text_only=False)
    assert calls.sampling.grammar_after is None


class Kept:
    """Grammars by what they are asked for; those of the tool `g` are refused."""

    async def get(self, wanted: dict[str, Any], model: Path) -> str:
        if wanted["tools"][0][0] == "g":
            raise SandboxError("too long")
        return answer_grammar(wanted["form"], [TOOL], parallel=wanted["parallel"])


def test_a_grammar_binds_calls_that_a_model_makes_by_itself_where_they_begin() -> None:
    own, said = chat_format_of(KNOWS_ALL), [ServiceMessage("user", "?")]

    def found(asked: ChatRequest, by: ChatFormat = own, schema: Any = None) -> Any:
        return asyncio.run(find_grammar(Kept(), Path("x"), asked, schema, by))  # type: ignore[arg-type]

    grammar, first = found(ChatRequest(said, [TOOL]))
    assert first == "<tool_call>" and "<tool_call>" in grammar
    options = with_grammar(GenerationOptions(), own, "", grammar, False, first)
    assert (options.sampling.grammar_from, options.sampling.grammar_after) == (first, None)
    required = ChatRequest(said, [TOOL], ToolChoice("required"))
    assert found(required)[1] is None and found(required)[0]
    assert found(ChatRequest(said, [TOOL], ToolChoice("none"))) == (None, None)
    assert (
        found(ChatRequest(said, [TOOL]), chat_format_of(EACH + END))[1] is None
    )  # the generic form
    other = Tool("g", {}, {"type": "function", "function": {"name": "g"}})
    assert found(ChatRequest(said, [other])) == (None, None)  # free: nobody asked for a call
