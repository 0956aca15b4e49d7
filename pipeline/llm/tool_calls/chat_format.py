"""The chat format of a model: how its template and its answers write tool calls and reasoning."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from reellama.gguf_tools.text.template_traits import (
    PROBE_ARGUMENTS,
    PROBE_NAME,
    TemplateTraits,
    try_template,
)
from reellama.pipeline.llm.tool_calls.answer_events import CallCollector, CallDelta
from reellama.pipeline.llm.tool_calls.answer_parser import AnswerParser, parse_answer
from reellama.pipeline.llm.tool_calls.reasoning_tags import ReasoningTags, reasoning_tags
from reellama.pipeline.llm.tool_calls.tool_forms import FORMS, GENERIC, ToolForm, tool_form


@dataclass(frozen=True)
class ChatFormat:
    """How a model's template and answers write tool calls and reasoning.

    traits: what the template supports. tool_form_name: the form of the model's calls, a key of
    FORMS; GENERIC if it has none of its own. reasoning: the tags around reasoning, None if the
    model shows none.
    """

    traits: TemplateTraits
    tool_form_name: str
    reasoning: ReasoningTags | None

    @property
    def tool_form(self) -> ToolForm:
        """The form of the model's calls."""
        return FORMS[self.tool_form_name]

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that an answer is parsed by, which may be special tokens."""
        tags = self.reasoning
        return (*self.tool_form.markers, *((tags.begin, tags.end) if tags else ()))

    @property
    def knows_tools(self) -> bool:
        """Whether the model has a known form of calls of its own."""
        return self.tool_form_name != GENERIC

    @property
    def is_told_of_tools(self) -> bool:
        """Whether the template writes the definitions of tools."""
        return self.traits.definitions and self.knows_tools


def detect_chat_format(source: str, traits: TemplateTraits) -> ChatFormat:
    """The chat format of a template with these traits."""
    # Some templates write calls and results, but no definitions.
    form = tool_form(source) if traits.definitions or traits.calls else None
    if form is None or not _can_read(FORMS[form], traits.written_call):
        form = GENERIC
    return ChatFormat(traits, form, reasoning_tags(source))


def _can_read(form: ToolForm, written: str) -> bool:
    """Whether a form can read the probe's call as the template wrote it; True if it wrote none."""
    if not written:
        return True
    is_object = form.is_plain_json and not any(marker in written for marker in form.start_markers)
    begin = written.find("{") if is_object else 0
    calls = CallCollector()
    events = parse_answer(AnswerParser(form), [written[begin:]])
    read = [calls.add(event) for event in events if isinstance(event, CallDelta)]
    return any(
        call and (call.name, call.arguments) == (PROBE_NAME, PROBE_ARGUMENTS) for call in read
    )


@lru_cache(maxsize=64)
def chat_format_of(source: str, bos: str = "", eos: str = "") -> ChatFormat:
    """The chat format of a trusted template, which is run to detect it."""
    return detect_chat_format(source, try_template(source, bos, eos))
