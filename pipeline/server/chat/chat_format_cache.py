"""A cache of the chat formats of templates."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from reellama.gguf_tools.format.reader import GGUFFile
from reellama.gguf_tools.text.template_traits import TemplateTraits
from reellama.pipeline.llm.tool_calls.chat_format import (
    ChatFormat,
    chat_format_of,
    detect_chat_format,
)
from reellama.pipeline.server.model_registry.registered_model import RegisteredModel
from reellama.pipeline.server.sandbox.sandbox import Sandbox, SandboxError
from reellama.pipeline.server.sandbox.sandboxed_template import MAX_TEMPLATE_CHARACTERS

MAX_ENTRIES = 256


class ChatFormatCache:
    """Chat formats by template. One that may be a client's is probed in the sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._entries: OrderedDict[tuple[str, str, str], ChatFormat] = OrderedDict()

    async def get(self, registered: RegisteredModel, template: str | None = None) -> ChatFormat:
        """The chat format of a model, or of a template that replaces the model's own."""
        file: GGUFFile = registered.gguf
        source = template or registered.manifest.template or file.chat_template or ""
        key = (source, file.token("bos"), file.token("eos"))
        if registered.is_trusted and not (template or registered.manifest.template):
            return await asyncio.to_thread(chat_format_of, *key)
        if key not in self._entries:
            self._entries[key] = detect_chat_format(source, await self._probe(*key))
        self._entries.move_to_end(key)
        if len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)
        return self._entries[key]

    async def _probe(self, source: str, bos: str, eos: str) -> TemplateTraits:
        """The traits of a template; none for a template that takes too much."""
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            return TemplateTraits()
        try:
            traits = await self._sandbox.call(
                lambda child: child.ask("traits", source=source, bos=bos, eos=eos)
            )
        except SandboxError:
            return TemplateTraits()
        return TemplateTraits(**traits)
