"""A function that a model may ask its caller to run."""

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

    `definition` is what chat templates are given: {"type": "function", "function": {...}}, as the
    client sent it. Raises ReellamaError for a name that families' forms could not hold.
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


MAX_REFERENCES = 8  # links of a chain of references that are followed


def properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas of an object's members by name, each with the definitions that it refers to."""
    members = schema.get("properties")
    if not isinstance(members, Mapping):
        return {}
    return {name: _complete(member, schema) for name, member in members.items()}


def _complete(inner: Any, outer: Mapping[str, Any]) -> Any:
    """A schema with the definitions of the outer one; a reference to one of them is replaced."""
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
    """Whether a JSON schema allows text alone."""
    if not isinstance(schema, Mapping):
        return False
    choices = schema.get("enum")
    if "type" not in schema and isinstance(choices, list):
        return all(isinstance(each, str) for each in choices)
    return schema.get("type") == "string"
