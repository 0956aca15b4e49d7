"""The chat formats of the models that are asked for, each found out once."""

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

MAX_KEPT = 256


class ChatFormatCache:
    """Chat formats by template. Templates that clients sent are tried in the sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._kept: OrderedDict[tuple[str, str, str], ChatFormat] = OrderedDict()

    async def get(self, registered: RegisteredModel, template: str | None = None) -> ChatFormat:
        """The chat format of a model, or of the template that is used in place of its own."""
        file: GGUFFile = registered.gguf
        source = template or registered.manifest.template or file.chat_template or ""
        key = (source, file.token("bos"), file.token("eos"))
        if not (template or registered.manifest.template or registered.manifest.is_uploaded):
            return await asyncio.to_thread(chat_format_of, *key)
        if key not in self._kept:
            self._kept[key] = detect_chat_format(source, await self._try(*key))
        self._kept.move_to_end(key)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]

    async def _try(self, source: str, bos: str, eos: str) -> TemplateTraits:
        """What the template does with tools: nothing, where that takes too much."""
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            return TemplateTraits()
        try:
            traits = await self._sandbox.call(
                lambda child: child.ask("traits", source=source, bos=bos, eos=eos)
            )
        except SandboxError:
            return TemplateTraits()
        return TemplateTraits(**traits)
