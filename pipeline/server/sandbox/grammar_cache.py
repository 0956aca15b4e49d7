"""A cache of the grammars of clients' JSON schemas, which the sandbox makes."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

from reellama.pipeline.server.sandbox.sandbox import Sandbox, SandboxChild, SandboxError

MAX_ENTRIES = 256  # grammars, and errors of schemas that have none
MAX_CHARACTERS = 16_000_000  # of all grammars


class GrammarCache:
    """An LRU cache of GBNF by schema and model. Belongs to one event loop."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._entries: OrderedDict[str, str | SandboxError] = OrderedDict()

    async def get(self, arguments: dict[str, Any], model: Path) -> str:
        """The grammar of an answer for a model's GGUF; `arguments` are those of `answer_grammar`.

        Raises SandboxError; errors are cached too.
        """
        # Keys are not sorted: properties are answered in the order of the schema.
        key = hashlib.sha256(
            f"{model}\n{json.dumps(arguments)}".encode(errors="replace")
        ).hexdigest()
        if key not in self._entries:
            self._entries[key] = await self._make(arguments, model)
        self._entries.move_to_end(key)
        grammar = self._entries[key]
        while len(self._entries) > MAX_ENTRIES or self._n_characters > MAX_CHARACTERS:
            self._entries.popitem(last=False)
        if isinstance(grammar, SandboxError):
            raise SandboxError(str(grammar))
        return grammar

    async def _make(self, arguments: dict[str, Any], model: Path) -> str | SandboxError:
        def ask(child: SandboxChild) -> str:
            return str(child.ask("grammar", arguments=arguments, model=str(model))["gbnf"])

        try:
            return await self._sandbox.call(ask)
        except SandboxError as error:
            return SandboxError(str(error))  # a new one, without the traceback and its frames

    @property
    def _n_characters(self) -> int:
        return sum(len(grammar) for grammar in self._entries.values() if isinstance(grammar, str))
