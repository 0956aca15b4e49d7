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

# Used for a GGUF without a working template, as most instruct models understand ChatML.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# "role" and "content"; of an assistant also "tool_calls", each {"id", "type": "function",
# "function": {"name", "arguments"}}, and "reasoning_content"; of a tool's result also
# "tool_call_id" and "name".
Message = Mapping[str, Any]
OTHER = -1  # the origin of typed text that is no message's content, such as definitions of tools


@dataclass(frozen=True)
class Segment:
    """A piece of a rendered prompt.

    Attributes:
        text: the text, trimmed as the template trims it.
        special: whether names of special tokens in `text` become these tokens, which is true of the
            template's own text only.
        content: index of the message whose content `text` is; None for the template's own text, and
            for other typed text, such as definitions and calls of tools.
    """

    text: str
    special: bool
    content: int | None


class ChatTemplate:
    """A chat template, with the texts of the tokens `bos` and `eos`.

    `problem` is the reason why CHATML is used in place of `source`, or "" if `source` works.
    """

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        self.source = source
        self.bos = bos
        self.eos = eos
        self.problem = "" if source.strip() else "there is no chat template"

    @classmethod
    def from_gguf(cls, file: GGUFFile | str | Path) -> "ChatTemplate":
        """The template of a GGUF. Raises GGUFError for a file that cannot be read."""
        file = file if isinstance(file, GGUFFile) else read_gguf(file)
        return cls(file.chat_template or "", file.token("bos"), file.token("eos"))

    def compile(self) -> None:
        """Compile the template ahead of the first rendering, which would take most of its time."""
        with suppress(Exception):  # rendering sets `problem`
            _compile(self.source)

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] = (),
        **variables: Any,
    ) -> list[Segment]:
        """Render a conversation into segments.

        Each content becomes a segment, wherever and as often as the template writes it. That
        includes empty contents, so that soft tokens have a place. If the template refuses a system
        message, that message is merged into the first user message. If the template fails, or omits
        the last message, CHATML takes its place, and `problem` is set to the reason.

        Args:
            tools: definitions in OpenAI's format.
            variables: passed to the template, such as `enable_thinking=False`.
        """
        variables |= {"add_generation_prompt": add_generation_prompt, "tools": list(tools)}
        if not self.problem:
            try:
                return self._render_own(messages, variables)
            # A template can raise any exception.
            except Exception as error:  # noqa: BLE001
                reason = " ".join(str(error).split()) or type(error).__name__
                self.problem = f"the chat template failed: {reason}"
        # CHATML joins strings, and a message with tool calls may have None as its content.
        messages = [{**message, "content": message["content"] or ""} for message in messages]
        return self._render(CHATML, messages, variables)

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
        tagged: list[dict[str, Any]] = [
            _tagged(message, index, contents) for index, message in enumerate(messages)
        ]
        if merge_system:
            system, first, *others = tagged
            joined = system["content"] + "\n\n" + first["content"]
            tagged = [{**first, "content": joined}, *others]
        tools = contents.tag_all(variables["tools"], OTHER) or None
        rendered = _compile(source).render(
            **{
                "messages": tagged,
                "bos_token": self.bos,
                "eos_token": self.eos,
                "documents": None,
                "xml_tools": tools,  # SmolLM3's name for tools
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
        rendered_contents = {segment.content for segment in segments}
        last = tagged[-1]["content"] if tagged else ""
        if isinstance(last, TaggedString) and len(messages) - 1 not in rendered_contents:
            raise TemplateError("it leaves out the last message")
        return segments


def _tagged(message: Message, index: int, contents: TaggedStrings) -> dict[str, Any]:
    """A message with all texts tagged except the role; the origin of the content is `index`.

    An empty content of an assistant is not tagged: templates test whether it is empty, and unlike a
    user's empty content it has no videos that need a place.
    """
    role, content = message["role"], message["content"]
    if content or role != "assistant":
        content = contents.tag(content, index)
    tagged = {key: contents.tag_all(value, OTHER) for key, value in message.items()}
    return {**tagged, "role": role, "content": content}


class _Generation(Extension):
    """The tag `{% generation %}`, which marks assistant text for training and prints nothing."""

    tags = {"generation"}  # noqa: RUF012  Jinja's own class declares it without ClassVar

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The nodes of the block, which follow the tag up to `{% endgeneration %}`."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=16)
def _compile(source: str) -> Template:
    """A compiled template, cached because compiling takes far longer than rendering.

    Rendering leaves no state in a compiled template, so renderings can share it.
    """
    return _environment().from_string(source)


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja with the settings of Hugging Face transformers, for which templates are written."""
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
