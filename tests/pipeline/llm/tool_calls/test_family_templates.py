"""Tools through the chat templates of many families, against transformers, and read back."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from reellama.gguf_tools.text.chat_template import ChatTemplate
from reellama.pipeline.llm.tool_calls.answer_events import CallCollector, CallDelta
from reellama.pipeline.llm.tool_calls.answer_parser import AnswerParser, parse_answer
from reellama.pipeline.llm.tool_calls.chat_format import chat_format_of
from reellama.pipeline.llm.tool_calls.tool import Tool
from reellama.pipeline.llm.tool_calls.tool_forms import FORMS, GENERIC
from tests.helpers.family_templates import family_templates

BOS, EOS = "<BOS>", "<EOS>"
SCHEMA = {
    "type": "object",
    "properties": {
        "town": {"type": "string", "description": "Which town, as on a map."},
        "days": {"type": "integer", "description": "How many."},
        "unit": {"type": "string", "enum": ["°C", "°F"], "description": "Of temperature."},
    },
    "required": ["town"],
}
FUNCTIONS = [
    {"name": "get_weather", "description": "Tells the weather of a town.", "parameters": SCHEMA},
    {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}},
]
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": each} for each in FUNCTIONS]
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("get_weather", {"town": 'Bern "<|im_end|>"', "days": 2}),
    ("add", {"a": 1.5, "b": [1, {"c": None}]}),
]
# Families of the list and more, each by one of its templates, and its form.
KNOWN = {
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "Qwen3-Coder": "qwen3-coder",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3",
    "meta-llama-Llama-3.2-3B-Instruct": "llama3",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral-args",
    "google-gemma-4-31B-it": "gemma4",
    "google-gemma-2-2b-it": GENERIC,
    "ibm-granite-granite-3.3-2B-Instruct": "granite",
    "ibm-granite-granite-4.0": "hermes",
    "GLM-4.6": "glm",
    "ByteDance-Seed-OSS": "seed",
    "MiniMax-M2": "minimax",
    "moonshotai-Kimi-K2": "kimi",
    "LFM2-8B-A1B": "lfm2",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command-r",
    "NVIDIA-Nemotron-Nano-v2": "nemotron",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek-r1",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "deepseek-r1",
    "deepseek-ai-DeepSeek-V3.1": "deepseek",
    "deepseek-ai-DeepSeek-V3.2": "deepseek-v3.2",
    "deepseek-ai-DeepSeek-V4": "deepseek-v4",
    "openai-gpt-oss-120b": "harmony",
    "tencent-Hy3": "hunyuan",
    "microsoft-Phi-3.5-mini-instruct": GENERIC,
}


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return family_templates(tmp_path_factory.getbasetemp().parent / "family-templates")


def talk(n_calls: int, as_text: bool, call_id: str = "call0000{}") -> list[dict[str, Any]]:
    """A question, calls, and their results."""
    calls = [
        {
            "id": call_id.format(i),
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(given) if as_text else given},
        }
        for i, (name, given) in enumerate(CALLS[:n_calls])
    ]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "name": name, "content": f"OUTCOME of {name}"}
        for call, (name, _) in zip(calls, CALLS, strict=False)
    ]
    asked = {"role": "user", "content": "How warm is it?"}
    return [asked, {"role": "assistant", "content": "", "tool_calls": calls}, *results]


def test_templates_write_tools_as_transformers_does(templates: Mapping[str, str]) -> None:
    """The same text; markup in what was typed, such as the town's name, does not act as such."""
    same = 0
    for name, source in templates.items():
        traits = chat_format_of(source, BOS, EOS).traits
        if not (traits.definitions and traits.results):
            continue
        messages = talk(2 if traits.several_calls else 1, traits.text_arguments)
        given = {"tools": TOOLS, "xml_tools": TOOLS, "enable_thinking": True}
        (expected,), _ = render_jinja_template(
            [[dict(message) for message in messages]],
            chat_template=source,
            add_generation_prompt=True,
            bos_token=BOS,
            eos_token=EOS,
            **given,
        )
        template = ChatTemplate(source, BOS, EOS)
        segments = template.render(messages, tools=TOOLS, enable_thinking=True)
        assert "".join(segment.text for segment in segments) == expected, name
        if traits.calls:
            typed = [segment.text for segment in segments if not segment.special]
            assert any("<|im_end|>" in text for text in typed), name
        same += 1
    assert same > 40


@pytest.mark.parametrize("name", KNOWN)
def test_a_family_s_form_is_found_by_its_template(templates: Mapping[str, str], name: str) -> None:
    assert chat_format_of(templates[name], BOS, EOS).tool_form_name == KNOWN[name]


def test_what_a_template_writes_of_calls_is_read_back(templates: Mapping[str, str]) -> None:
    read = set()
    for name, source in templates.items():
        chat_format = chat_format_of(source, BOS, EOS)
        if not (chat_format.knows_tools and chat_format.traits.calls):
            continue
        n_calls = 2 if chat_format.traits.several_calls else 1
        messages = talk(n_calls, chat_format.traits.text_arguments)
        if chat_format.traits.no_content:
            messages[1]["content"] = None
        segments = ChatTemplate(source, BOS, EOS).render(messages, tools=TOOLS)
        text = "".join(segment.text for segment in segments)
        written = text[text.rfind("How warm is it?") : text.find("OUTCOME")]
        if chat_format.tool_form.is_plain_json:
            written = written[written.find("{") :]
        tools = [Tool(f["name"], f["parameters"], {}) for f in FUNCTIONS]  # type: ignore[arg-type]
        for size in (1, 7, len(written)):
            pieces = [written[i : i + size] for i in range(0, len(written), size)]
            calls = CallCollector()
            events = parse_answer(AnswerParser(chat_format.tool_form, tools=tools), pieces)
            each = (calls.add(event) for event in events if isinstance(event, CallDelta))
            assert [(c.name, c.arguments) for c in each if c] == CALLS[:n_calls], name
        read.add(chat_format.tool_form_name)
    assert len(read) >= 15 and read <= FORMS.keys()
