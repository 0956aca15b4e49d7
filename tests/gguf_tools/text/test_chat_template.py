"""Chat templates: rendered as their authors meant it, with contents kept apart from markup."""

import json
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reellama.gguf_tools.text.chat_template import ChatTemplate, Segment

QUESTION = [{"role": "user", "content": "  Why?\n"}]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi!"},
    {"role": "assistant", "content": "<think>Hm.</think>\nHello."},
    {"role": "user", "content": " And you? "},
]
# Text that has been trouble: markup, Jinja, braces, marks, control characters, nothing at all.
tricky = st.text() | st.sampled_from(
    [
        "",
        " ",
        "<|im_end|>",
        "{{ 7 * 7 }}",
        "{% raw %}",
        "{0} %s %(a)s",
        "\U000f0000",
        "\U000f0001x",
        "\ud800",
        "'\"\\",
        "\0",
        "</think>",
    ]
)


def loop(body: str) -> str:
    """Return a template that renders `body` for each message."""
    return "{% for message in messages %}" + body + "{% endfor %}"


def text_of(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def contents_of(segments: list[Segment]) -> list[tuple[str, int]]:
    return [(part.text, part.content) for part in segments if part.content is not None]


def render(source: str, messages: list[dict[str, str]] = TALK, **variables: Any) -> str:
    """Render with a template that must work, and check that contents are never special."""
    template = ChatTemplate(source, "<s>", "</s>")
    segments = template.render(messages, **variables)
    assert template.problem == ""
    for segment in segments:
        assert segment.special == (segment.content is None)
    return text_of(segments)


def test_smollm2_s_own_template(smollm2: Path) -> None:
    segments = ChatTemplate.from_gguf(smollm2).render(TALK[:2])
    assert segments == [
        Segment("<|im_start|>system\n", True, None),
        Segment("Be brief.", False, 0),
        Segment("<|im_end|>\n<|im_start|>user\n", True, None),
        Segment("Hi!", False, 1),
        Segment("<|im_end|>\n<|im_start|>assistant\n", True, None),
    ]


def test_smollm2_puts_its_own_system_message_where_none_is_given(smollm2: Path) -> None:
    template = ChatTemplate.from_gguf(smollm2)
    segments = template.render(QUESTION)
    assert "You are a helpful AI assistant" in segments[0].text
    assert contents_of(segments) == [("  Why?\n", 0)]
    assert text_of(template.render(QUESTION, add_generation_prompt=False)).endswith("<|im_end|>\n")


@given(st.lists(tricky, min_size=1, max_size=4))
def test_contents_come_through_unchanged_and_in_order(texts: list[str]) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    template = ChatTemplate(loop("[{{ message.role }}]{{ message['content'] + eos_token }}"))
    segments = template.render(messages)
    assert template.problem == ""
    assert contents_of(segments) == [(text, index) for index, text in enumerate(texts)]
    assert text_of(segments) == "".join(f"[user]{text}" for text in texts)


@given(tricky)
@settings(max_examples=20)
def test_what_a_template_makes_of_a_content_is_right_and_still_content(text: str) -> None:
    changes = {
        "c | trim": text.strip(),
        "c.strip()": text.strip(),
        "c | upper": text.upper(),
        "c | lower": text.lower(),
        "c.replace('a', 'b')": text.replace("a", "b"),
        "c | replace('a', 'b')": text.replace("a", "b"),
        "c.split('</think>')[-1].lstrip('\\n')": text.split("</think>")[-1].lstrip("\n"),
        "c[1:3]": text[1:3],
        "c[::-1]": text[::-1],
        "c | string": text,
        "'' ~ c": text,
        "c | list | join": text,
        "'%s' % c": text,
        "'{}'.format(c)": text,
    }
    for expression, expected in changes.items():
        # The plain `c` is there for the template to have used the last message.
        template = ChatTemplate(
            "{% set c = messages[0].content %}{{ " + expression + " }}" + "|{{ c }}"
        )
        segments = template.render([{"role": "user", "content": text}])
        assert template.problem == "", expression
        assert text_of(segments) == f"{expected}|{text}", expression
        assert text_of([part for part in segments if part.special]) == "|", expression


@given(tricky, st.sampled_from(["</think>", "a", ""]))
@settings(max_examples=20)
def test_questions_about_a_content_get_the_true_answer(text: str, part: str) -> None:
    checks = {
        "c | length": len(text),
        "part in c": part in text,
        "c.startswith(part)": text.startswith(part),
        "c == part": text == part,
        "c != part": text != part,
        "c is string": True,
        "not c": not text,
        "c in [part]": text == part,
        "c.count('a')": text.count("a"),
    }
    for expression, expected in checks.items():
        template = ChatTemplate("{% set c = messages[0].content %}{{ " + expression + " }}|{{ c }}")
        segments = template.render([{"role": "user", "content": text}], part=part)
        assert text_of(segments) == f"{expected}|{text}", expression


def test_a_content_that_stands_twice_is_there_twice() -> None:
    template = ChatTemplate(loop("{{ message.content }}/{{ message.content | upper }};"))
    segments = template.render([{"role": "user", "content": "hi"}])
    assert contents_of(segments) == [("hi", 0), ("HI", 0)]
    assert text_of(segments) == "hi/HI;"


def test_an_empty_content_keeps_its_place() -> None:
    segments = ChatTemplate(loop("<{{ message.content }}>")).render(
        [{"role": "user", "content": ""}]
    )
    assert segments == [Segment("<", True, None), Segment("", False, 0), Segment(">", True, None)]


def test_json_is_escaped_and_still_content() -> None:
    messages = [{"role": "user", "content": 'say "é"\n<|im_end|>'}]
    template = ChatTemplate("{{ messages | tojson }} {{ messages[0].content | tojson }}")
    segments = template.render(messages)
    escaped = r"say \"é\"\n<|im_end|>"
    assert text_of(segments) == f'[{{"role": "user", "content": "{escaped}"}}] "{escaped}"'
    assert contents_of(segments) == [(escaped, 0), (escaped, 0)]


def test_renderings_of_one_source_do_not_mix() -> None:
    source = "{% set c = messages[0].content %}{{ c }}|{{ c | upper }}|{{ messages | tojson }}"
    for text, role in [('a "b"', "user"), ("\U000f0000", "\U000f0000"), ("c\n", "tool")] * 2:
        template = ChatTemplate(source)
        segments = template.render([{"role": role, "content": text}])
        assert template.problem == ""
        escaped = json.dumps(text, ensure_ascii=False)[1:-1]
        assert contents_of(segments) == [(text, 0), (text.upper(), 0), (escaped, 0)]
        own = [part.text for part in segments if part.special]
        assert own == ["|", f'|[{{"role": "{role}", "content": "', '"}]']


def test_a_template_keeps_nothing_for_the_next_rendering() -> None:
    source = (
        "{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}"
        "{{ seen is defined }}{{ extra is defined }}{% set seen = messages[0].content %}{{ seen }}"
    )
    assert render(source, QUESTION, extra=1) == "1FalseTrue  Why?\n"
    assert render(source, QUESTION) == "1FalseFalse  Why?\n"


def test_the_time_is_that_of_the_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "{{ strftime_now('%Y') }}{{ messages[0].content }}"
    for year in (2001, 2002):
        clock = SimpleNamespace(now=lambda year=year: datetime(year, 1, 1))
        monkeypatch.setattr("reellama.gguf_tools.text.chat_template.datetime", clock)
        assert render(source, QUESTION) == f"{year}  Why?\n"


@pytest.mark.parametrize(
    "leak",
    [
        "{{ c._text }}",
        "{{ c['_text'] }}",
        "{{ c|attr('_text') }}",
        "{{ c.__class__ }}",
        "{{ c.encode() }}",
        "{{ '%r' % c }}",
        "{{ messages }}",
        "{{ c.join(['x', 'y']) }}",
        "{{ c|e }}",
        "{{ c|title }}{{ c|capitalize }}{{ c|center(80) }}{{ c|indent }}{{ c|wordwrap(3) }}",
        "{{ c|truncate(5, true) }}{{ c|first }}{{ c|last }}{{ c|reverse }}{{ c|urlencode }}",
        "{{ c|batch(2)|list }}{{ c|sort|join }}{{ c|unique|join }}{{ c|format }}{{ c * 2 }}",
        "{% for x in c %}{{ x }}{% endfor %}{{ c.partition('|') }}{{ c.format(1) }}",
        "{% set d = {c: c} %}{{ d }}{% for k, v in d|items %}{{ k }}{{ v }}{% endfor %}",
    ],
)
def test_no_template_makes_markup_of_what_was_typed(leak: str) -> None:
    messages = [{"role": "user", "content": "SECRET <|im_end|> SECRET"}]
    template = ChatTemplate("{% set c = messages[0].content %}" + leak + "{{ c }}")
    own = text_of([part for part in template.render(messages) if part.special])
    assert "SECRET" not in own.upper()
    if not template.problem:
        assert "im_end" not in own


def test_the_special_tokens_and_variables_that_templates_know() -> None:
    assert render("{{ bos_token }}{{ messages[-1].content }}{{ eos_token }}") == "<s> And you? </s>"
    source = (
        "{% if tools is none and tools is defined %}no tools {% endif %}"
        "{% if enable_thinking is defined and not enable_thinking %}no thinking {% endif %}"
        "{{ messages[-1].content }}"
    )
    assert render(source) == "no tools  And you? "
    assert render(source, enable_thinking=False) == "no tools no thinking  And you? "


def test_the_jinja_that_templates_are_written_in() -> None:
    namespace = (
        "{% set ns = namespace(n=0) %}"
        "{% for message in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
        "{{ ns.n }}{{ messages[-1].content }}"
    )
    assert render(namespace) == "4 And you? "
    controls = (
        "{% for message in messages %}"
        "{% if message.role == 'system' %}{% continue %}{% endif %}"
        "{{ message.content }}{% if loop.last %}{% break %}{% endif %}"
        "{% endfor %}"
    )
    assert render(controls) == "Hi!<think>Hm.</think>\nHello. And you? "
    blocks = "{% for message in messages %}\n    {{- message.content }};\n{% endfor %}\n"
    assert render(blocks) == "Be brief.;\nHi!;\n<think>Hm.</think>\nHello.;\n And you? ;\n"
    generation = loop("{% generation %}{{ message.content }}{% endgeneration %}")
    assert render(generation, QUESTION) == "  Why?\n"
    assert render("{{ strftime_now('%Y') | length }}{{ messages[-1].content }}") == "4 And you? "


def test_thoughts_that_a_template_cuts_out_are_gone() -> None:
    source = loop(
        "{% if message.role == 'assistant' and '</think>' in message.content %}"
        "{{ message.content.split('</think>')[-1].lstrip('\\n') }}"
        "{% else %}{{ message.content | trim }}{% endif %};"
    )
    assert render(source) == "Be brief.;Hi!;Hello.;And you?;"


NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    + loop("<{{ message.role }}>{{ message.content | trim }}")
)


def test_a_template_that_refuses_a_system_message_gets_it_with_the_first_question() -> None:
    template = ChatTemplate(NO_SYSTEM)
    segments = template.render(TALK[:2])
    assert text_of(segments) == "<user>Be brief.\n\nHi!"
    assert contents_of(segments) == [("Be brief.", 0), ("Hi!", 1)]
    assert template.problem == ""


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("", "there is no chat template"),
        (" \n", "there is no chat template"),
        ("{% for %}", "failed"),
        ("{{ raise_exception('only\nin French') }}", "failed: only in French"),
        ("{{ messages[9].content.x.y }}", "failed"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages.append(1) }}{{ messages[-1].content }}", "failed"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[-1].content }}", "failed"),
        ("{% for i in range(10**9) %}{% endfor %}", "failed"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "failed"),
        ("Hello!", "leaves out the last message"),
    ],
)
def test_a_template_that_fails_is_replaced_by_chatml(source: str, problem: str) -> None:
    template = ChatTemplate(source)
    segments = template.render(TALK)
    assert problem in template.problem
    assert "\n" not in template.problem
    assert text_of(segments) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi!<|im_end|>\n"
        "<|im_start|>assistant\n<think>Hm.</think>\nHello.<|im_end|>\n"
        "<|im_start|>user\n And you? <|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_gemma_s_file_has_no_template_and_gets_chatml(gemma: Path) -> None:
    template = ChatTemplate.from_gguf(gemma)
    assert template.problem == "there is no chat template"
    assert (template.bos, template.eos) == ("<bos>", "<eos>")


def test_contents_too_long_to_be_taken_apart_are_not_lost() -> None:
    template = ChatTemplate("{% for c in messages[0].content %}{{ c }}{% endfor %}")
    segments = template.render([{"role": "user", "content": "x" * 200_000}])
    assert "into too many pieces" in template.problem
    assert contents_of(segments) == [("x" * 200_000, 0)]
