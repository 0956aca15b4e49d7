"""Render a GGUF's chat template so that message contents cannot act as special tokens."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.text.tagged_strings import TaggedString, TaggedStrings, to_json

# ChatML, which most instruct models understand, for a GGUF without a working template.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# "role" and "content", and what else a template may ask for: the "tool_calls" of an assistant, each
# {"id", "type": "function", "function": {"name", "arguments"}}, its "reasoning_content", and the
# "tool_call_id" and "name" of a tool's result.
Message = Mapping[str, Any]
OTHER = -1  # the origin of typed text that is no message's content


@dataclass(frozen=True)
class Segment:
    """A stretch of a rendered prompt.

    Names of special tokens become these tokens only where it is `special`, that is in the
    template's own text. `content` is the index of the message whose content `text` is, trimmed as
    the template trims it; it is None for the template's own text, and for what else was typed:
    definitions of tools, calls of them.
    """

    text: str
    special: bool
    content: int | None


class ChatTemplate:
    """A chat template. `bos` and `eos` are the texts of these tokens.

    `problem` says in a few words why the ChatML template is in use in place of `source`; it is
    empty as long as `source` works.
    """

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        self.source = source
        self.bos = bos
        self.eos = eos
        self.problem = "" if source.strip() else "there is no chat template"

    @classmethod
    def from_gguf(cls, file: GGUFFile | str | Path) -> "ChatTemplate":
        """Take the template of a GGUF. Raises GGUFError for a file that cannot be read."""
        file = file if isinstance(file, GGUFFile) else read_gguf(file)
        return cls(file.chat_template or "", file.token("bos"), file.token("eos"))

    def compile(self) -> None:
        """Compile the template ahead of the first rendering, of which this is the longest part."""
        with suppress(Exception):  # rendering says what is wrong with it
            _compile(self.source)

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] = (),
        **variables: Any,
    ) -> list[Segment]:
        """Render a conversation, messages of "role" and "content", into segments.

        Every content appears as a segment of its own, where and as often as the template puts it;
        one that is empty too, so that soft tokens have a place. `tools` are definitions in OpenAI's
        form. `variables` go to the template, as `enable_thinking=False` does for models that know
        it. A template that refuses system messages gets them in front of the first user message.
        One that fails, or loses the last message, is replaced by ChatML, and `problem` says why.
        """
        variables |= {"add_generation_prompt": add_generation_prompt, "tools": list(tools)}
        if not self.problem:
            try:
                return self._render_own(messages, variables)
            # Any exception here is a fault of the template.
            except Exception as error:  # noqa: BLE001
                reason = " ".join(str(error).split()) or type(error).__name__
                self.problem = f"the chat template failed: {reason}"
        spoken = [{**message, "content": message["content"] or ""} for message in messages]
        return self._render(CHATML, spoken, variables)

    def _render_own(
        self, messages: Sequence[Message], variables: Mapping[str, Any]
    ) -> list[Segment]:
        try:
            return self._render(self.source, messages, variables)
        except Exception:
            if len(messages) < 2 or messages[0]["role"] != "system":
                raise
            return self._render(self.source, messages, variables, merge_system=True)

    def _render(
        self,
        source: str,
        messages: Sequence[Message],
        variables: Mapping[str, Any],
        merge_system: bool = False,
    ) -> list[Segment]:
        roles = [message["role"] for message in messages]
        contents = TaggedStrings([source, self.bos, self.eos, *roles])
        try:
            return self._render_tagged(source, messages, variables, merge_system, contents)
        finally:
            contents.forget()

    def _render_tagged(
        self,
        source: str,
        messages: Sequence[Message],
        variables: Mapping[str, Any],
        merge_system: bool,
        contents: TaggedStrings,
    ) -> list[Segment]:
        given: list[dict[str, Any]] = [
            _tagged(message, index, contents) for index, message in enumerate(messages)
        ]
        if merge_system:
            system, first, *rest = given
            joined = system["content"] + "\n\n" + first["content"]
            given = [{**first, "content": joined}, *rest]
        tools = contents.tag_all(variables["tools"], OTHER) or None
        rendered = _compile(source).render(
            **{
                "messages": given,
                "bos_token": self.bos,
                "eos_token": self.eos,
                "documents": None,
                "xml_tools": tools,  # the name that SmolLM3 has for them
                **variables,
                "tools": tools,
            }
        )
        segments = [
            Segment(
                piece.text,
                special=piece.origin is None,
                content=None if piece.origin == OTHER else piece.origin,
            )
            for piece in contents.split(rendered)
        ]
        shown = {segment.content for segment in segments}
        last = given[-1]["content"] if given else ""
        if isinstance(last, TaggedString) and len(messages) - 1 not in shown:
            raise TemplateError("it leaves out the last message")
        return segments


def _tagged(message: Message, index: int, contents: TaggedStrings) -> dict[str, Any]:
    """A message whose every text is tagged but the role: with `index` the content's.

    An assistant that said nothing has no videos that need a place: templates ask whether it did.
    """
    role, content = message["role"], message["content"]
    if content or role != "assistant":
        content = contents.tag(content, index)
    rest = {key: contents.tag_all(value, OTHER) for key, value in message.items()}
    return {**rest, "role": role, "content": content}


class _Generation(Extension):
    """The tag `{% generation %}`, which marks assistant text for training and prints nothing."""

    tags = {"generation"}  # noqa: RUF012  Jinja's own class declares it without ClassVar

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Parse to the end of the block and return what is in it."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=16)
def _compile(source: str) -> Template:
    """Compile a template, once: this takes far longer than to render it.

    A compiled template keeps no state of a rendering, so it can be shared.
    """
    return _environment().from_string(source)


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja with the settings of Hugging Face's tokenizers, for which templates are written."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = to_json
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)
