"""Grammars of the JSON schemas that clients send, made in the sandbox and kept by content."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

from reellama.pipeline.server.sandbox.sandbox import Sandbox, SandboxChild, SandboxError

MAX_KEPT = 256  # schemas, good ones and refused ones
MAX_KEPT_CHARACTERS = 16_000_000  # of their grammars


class GrammarCache:
    """GBNF by schema and model; the least recently used go first. Belongs to one event loop."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._kept: OrderedDict[str, str | SandboxError] = OrderedDict()

    async def get(self, arguments: dict[str, Any], model: Path) -> str:
        """The grammar of an answer for a model's GGUF; `arguments` are those of `answer_grammar`.

        Raises SandboxError, also by its memory.
        """
        # Not sorted: the order of properties is that of the answer.
        key = hashlib.sha256(
            f"{model}\n{json.dumps(arguments)}".encode(errors="replace")
        ).hexdigest()
        if key not in self._kept:
            self._kept[key] = await self._make(arguments, model)
        self._kept.move_to_end(key)
        grammar = self._kept[key]
        while len(self._kept) > MAX_KEPT or self._size > MAX_KEPT_CHARACTERS:
            self._kept.popitem(last=False)
        if isinstance(grammar, SandboxError):
            raise SandboxError(str(grammar))
        return grammar

    async def _make(self, arguments: dict[str, Any], model: Path) -> str | SandboxError:
        def ask(child: SandboxChild) -> str:
            return str(child.ask("grammar", arguments=arguments, model=str(model))["gbnf"])

        try:
            return await self._sandbox.call(ask)
        except SandboxError as error:
            return SandboxError(str(error))  # without the frames that it came through

    @property
    def _size(self) -> int:
        return sum(len(grammar) for grammar in self._kept.values() if isinstance(grammar, str))
