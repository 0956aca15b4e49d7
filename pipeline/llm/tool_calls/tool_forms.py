"""The forms of tool calls by families of models, and the detection of a template's family."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.llm.tool_calls.answer_source import AnswerSource, ParserGenerator
from reellama.pipeline.llm.tool_calls.call_event_emitter import CallEventEmitter
from reellama.pipeline.llm.tool_calls.call_grammar import CallGrammar
from reellama.pipeline.llm.tool_calls.gemma_form import GemmaForm
from reellama.pipeline.llm.tool_calls.json_form import JsonForm
from reellama.pipeline.llm.tool_calls.named_form import NamedForm
from reellama.pipeline.llm.tool_calls.python_form import PythonForm
from reellama.pipeline.llm.tool_calls.tagged_form import TaggedForm
from reellama.pipeline.llm.tool_calls.tool import Tool


class ToolForm(Protocol):
    """The form of a family's tool calls."""

    @property
    def start_markers(self) -> tuple[str, ...]:
        """Texts that begin calls in the middle of an answer."""
        ...

    @property
    def is_plain_json(self) -> bool:
        """Whether an answer that is JSON is a call."""
        ...

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts of the form that may be special tokens."""
        ...

    def read(
        self, source: AnswerSource, begin: str, emitter: CallEventEmitter
    ) -> ParserGenerator[None]:
        """Read the calls that follow `begin`. Raises NotACall."""
        ...

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model would have written them."""
        ...

    def add_rules(self, grammar: CallGrammar, tools: Sequence[Tool], parallel: bool) -> str:
        """Add the rules of calls; returns the GBNF of one or, if `parallel`, of one or more."""
        ...


# The form for models whose template does not support tools.
GENERIC = "json"

# Forms by name.
FORMS: dict[str, ToolForm] = {
    GENERIC: JsonForm(""),
    "hermes": JsonForm("<tool_call>", "</tool_call>"),
    "qwen3-coder": TaggedForm(
        outer_begin="<tool_call>",
        outer_end="</tool_call>",
        name_begin="<function=",
        name_end=">",
        key_begin="<parameter=",
        key_end=">",
        value_end="</parameter>",
        end="</function>",
        padded=True,
    ),
    "seed": TaggedForm(
        outer_begin="<seed:tool_call>",
        outer_end="</seed:tool_call>",
        name_begin="<function=",
        name_end=">",
        key_begin="<parameter=",
        key_end=">",
        value_end="</parameter>",
        end="</function>",
    ),
    "glm": TaggedForm(
        outer_begin="<tool_call>",
        outer_end="",
        name_begin="",
        name_end="",
        key_begin="<arg_key>",
        key_end="</arg_key>",
        value_begin="<arg_value>",
        value_end="</arg_value>",
        end="</tool_call>",
    ),
    "minimax": TaggedForm(
        outer_begin="<minimax:tool_call>",
        outer_end="</minimax:tool_call>",
        name_begin='<invoke name="',
        name_end='">',
        key_begin='<parameter name="',
        key_end='">',
        value_end="</parameter>",
        end="</invoke>",
        shared=True,
    ),
    "deepseek-v3.2": TaggedForm(
        outer_begin="<｜DSML｜function_calls>",
        outer_end="</｜DSML｜function_calls>",
        name_begin='<｜DSML｜invoke name="',
        name_end='">',
        key_begin='<｜DSML｜parameter name="',
        key_end='">',
        value_end="</｜DSML｜parameter>",
        end="</｜DSML｜invoke>",
        shared=True,
        says_text='" string="',
    ),
    "deepseek-v4": TaggedForm(
        outer_begin="<｜DSML｜tool_calls>",
        outer_end="</｜DSML｜tool_calls>",
        name_begin='<｜DSML｜invoke name="',
        name_end='">',
        key_begin='<｜DSML｜parameter name="',
        key_end='">',
        value_end="</｜DSML｜parameter>",
        end="</｜DSML｜invoke>",
        shared=True,
        says_text='" string="',
    ),
    "hunyuan": TaggedForm(
        outer_begin="<tool_calls:opensource>",
        outer_end="</tool_calls:opensource>",
        name_begin="<tool_call:opensource>",
        name_end="<tool_sep:opensource>",
        key_begin="<arg_key:opensource>",
        key_end="</arg_key:opensource>",
        value_begin="<arg_value:opensource>",
        value_end="</arg_value:opensource>",
        end="</tool_call:opensource>",
        shared=True,
    ),
    "minicpm": TaggedForm(
        outer_begin="",
        outer_end="",
        name_begin='<function name="',
        name_end='">',
        key_begin='<param name="',
        key_end='">',
        value_end="</param>",
        end="</function>",
        newline="",
    ),
    "llama3": JsonForm("", arguments="parameters", other_begins=("<|python_tag|>",)),
    "functionary": NamedForm("<function=", ">", "</function>"),
    "mistral": JsonForm("[TOOL_CALLS]", listed=True),
    "mistral-args": NamedForm("[TOOL_CALLS]", "[ARGS]"),
    "granite": JsonForm("<|tool_call|>", listed=True, other_begins=("<tool_call>",)),
    "nemotron": JsonForm("<TOOLCALL>", "</TOOLCALL>", listed=True),
    "apriel": JsonForm("<tool_calls>", "</tool_calls>", listed=True),
    "apertus": JsonForm("<|tools_prefix|>", "<|tools_suffix|>", name="", listed=True),
    "command-r": JsonForm(
        "<|START_ACTION|>", "<|END_ACTION|>", "tool_name", "parameters", listed=True
    ),
    "gigachat": JsonForm("<|function_call|>"),
    "gemma": GemmaForm("<start_function_call>", "<end_function_call>", "<escape>"),
    "gemma4": GemmaForm("<|tool_call>", "<tool_call|>", '<|"|>'),
    "lfm2": PythonForm("<|tool_call_start|>", "<|tool_call_end|>"),
    "kimi": NamedForm(
        begin="<|tool_call_begin|>",
        middle="<|tool_call_argument_begin|>",
        end="<|tool_call_end|>",
        outer_begin="<|tool_calls_section_begin|>",
        outer_end="<|tool_calls_section_end|>",
        name=r"\s*(?:functions\.)?([\w.-]+?)(?::\d+)?\s*$",
        prefix="functions.",
    ),
    "deepseek": NamedForm(
        begin="<｜tool▁call▁begin｜>",
        middle="<｜tool▁sep｜>",
        end="<｜tool▁call▁end｜>",
        outer_begin="<｜tool▁calls▁begin｜>",
        outer_end="<｜tool▁calls▁end｜>",
    ),
    "deepseek-r1": NamedForm(
        begin="<｜tool▁call▁begin｜>",
        middle="\n```json\n",
        end="\n```<｜tool▁call▁end｜>",
        outer_begin="<｜tool▁calls▁begin｜>",
        outer_end="<｜tool▁calls▁end｜>",
        name=r"\s*(?:function<｜tool▁sep｜>)?([\w.-]+)\s*$",
        prefix="function<｜tool▁sep｜>",
        between="\n",
        tokens=("<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    ),
    "harmony": NamedForm(
        begin=" to=functions.",
        middle="<|message|>",
        end="<|call|>",
        name=r"([\w.-]+?)(?:\s|<\||$)",
        suffix="<|channel|>commentary json",
        between="<|start|>assistant",
        other_begins=(
            "<|start|>assistant to=functions.",
            "<|channel|>commentary to=functions.",
            "<|channel|>analysis to=functions.",
            "<|start|>assistant<|channel|>commentary to=functions.",
            "<|start|>assistant<|channel|>analysis to=functions.",
        ),
        tokens=("<|start|>", "<|channel|>", "<|constrain|>", "<|end|>", "<|return|>"),
    ),
    "solar": NamedForm(
        begin="<|tool_call:begin|>",
        middle="<|tool_call:args|>",
        end="<|tool_call:end|>",
        outer_begin="<|tool_calls|>",
        name=r".*<\|tool_call:name\|>([\w.-]+)",
        prefix="call<|tool_call:name|>",
    ),
}

# Regular expressions that identify a family's templates, and its form. The first match counts, so
# specific ones come first.
FAMILIES: tuple[tuple[str, str], ...] = (
    (r"<\|channel\|>commentary", "harmony"),  # gpt-oss
    (r"｜DSML｜[\s\S]*function_calls", "deepseek-v3.2"),  # DeepSeek V3.2
    (r"｜DSML｜", "deepseek-v4"),  # DeepSeek V4
    (r"<｜tool▁sep｜>[\s\S]*```json", "deepseek-r1"),  # DeepSeek V3, R1 and its distillations
    (r"<｜tool▁sep｜>", "deepseek"),  # DeepSeek V3.1
    (r"hy_Assistant", "hunyuan"),  # Hunyuan 3
    (r"<arg_key>", "glm"),  # GLM 4.5 and later, Ling, Laguna
    (r"<seed:tool_call>", "seed"),  # Seed-OSS
    (r"<minimax:tool_call>", "minimax"),  # MiniMax M2
    (r"<tool_call>[\s\S]*<function=", "qwen3-coder"),  # Qwen3-Coder, Qwen 3.5, Nemotron 3
    (r"<function name=", "minicpm"),  # MiniCPM 5
    (r"\[TOOL_CALLS\][\s\S]*\[ARGS\]", "mistral-args"),  # Mistral Small 3.2, Devstral
    (r"\[TOOL_CALLS\]", "mistral"),  # Mistral 7B v0.3, Nemo
    (r"<start_function_call>", "gemma"),  # FunctionGemma
    (r"<\|tool_call>", "gemma4"),  # Gemma 4
    (r"<\|tool_(?:call|list)_start\|>", "lfm2"),  # LFM 2
    (r"<\|tool_call_begin\|>", "kimi"),  # Kimi K2
    (r"<\|tool_call:begin\|>", "solar"),  # Solar Open
    (r"<\|tool_call\|>", "granite"),  # Granite 3
    (r"<\|tools_prefix\|>", "apertus"),  # Apertus
    (r"<\|START_ACTION\|>", "command-r"),  # Command R7B, Command A
    (r"<\|function_call\|>", "gigachat"),  # GigaChat 3.1
    (r"<TOOLCALL>", "nemotron"),  # Nemotron Nano 2
    (r"<tool_calls>", "apriel"),  # Apriel, MiniMax M1
    (r"<tool_call>", "hermes"),  # Hermes 2 and 3, Qwen 2.5 and 3, SmolLM3, Granite 4
    (r"<function=", "functionary"),  # Functionary 3.1
    (r'"name"[\s\S]*"parameters"|<\|python_tag\|>', "llama3"),  # Llama 3.1 and later
)


def tool_form(template: str) -> str | None:
    """The form of calls of a chat template's models, a key of FORMS; None if it is not known."""
    return next((form for mark, form in FAMILIES if re.search(mark, template)), None)
