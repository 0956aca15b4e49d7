"""Tools: functions of the client that a model may call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reellama.gguf_tools.errors import ReellamaError

# OpenAI's rule, with the dots that others allow.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


@dataclass(frozen=True)
class Tool:
    """A tool: its name and the JSON schema of its arguments, an object.

    definition: what chat templates get: {"type": "function", "function": {...}}, as the client
    sent it. Raises ReellamaError for a name that some form of calls cannot represent.
    """

    name: str
    parameters: dict[str, Any]
    definition: dict[str, Any]

    @property
    def properties(self) -> dict[str, Any]:
        """The schemas of the tool's arguments by name."""
        return properties(self.parameters)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ReellamaError(
                f"a tool cannot be named {self.name!r}: letters, digits, _, - and . are possible"
            )
        if not isinstance(self.parameters, dict):
            raise ReellamaError(f"the parameters of the tool {self.name} are no JSON schema")


MAX_REFERENCES = 8  # length of a chain of references that is followed


def properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas of an object's members by name, with the definitions that they refer to."""
    members = schema.get("properties")
    if not isinstance(members, Mapping):
        return {}
    return {name: _complete(member, schema) for name, member in members.items()}


def _complete(inner: Any, outer: Mapping[str, Any]) -> Any:
    """A schema with the definitions of the outer one; if it is a reference, it is resolved."""
    sections = {name: outer[name] for name in ("$defs", "definitions") if name in outer}
    for _ in range(MAX_REFERENCES):
        reference = inner.get("$ref") if isinstance(inner, Mapping) else None
        section, _, name = str(reference).removeprefix("#/").partition("/")
        definitions = sections.get(section)
        if reference is None or not isinstance(definitions, Mapping) or name not in definitions:
            break
        inner = definitions[name]
    return {**sections, **inner} if isinstance(inner, Mapping) and sections else inner


def is_text(schema: Any) -> bool:
    """Whether a JSON schema allows only strings."""
    if not isinstance(schema, Mapping):
        return False
    choices = schema.get("enum")
    if "type" not in schema and isinstance(choices, list):
        return all(isinstance(choice, str) for choice in choices)
    return schema.get("type") == "string"
