"""Model names like Ollama's: "[[HOST/]NAMESPACE/]MODEL[:TAG]", not case-sensitive."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reellama.gguf_tools.errors import ReellamaError

# Defaults of the parts that a name may leave out.
DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"
# A part begins with a letter, a digit or "_", so none is "..", empty, hidden or holds a slash.
NAME_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", re.ASCII)
HOST = re.compile(rf"{NAME_PART.pattern}(:[0-9]{{1,5}})?", re.ASCII)
MAX_SHOWN_CHARACTERS = 200  # of a name that an error repeats


class ModelStoreError(ReellamaError):
    """A name, digest or model of the store that cannot be used; `status` is HTTP's.

    `code` is OpenAI's code of the error, if there is one.
    """

    def __init__(self, message: str, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def model_not_found(name: str) -> ModelStoreError:
    """The error for an unknown model."""
    shown = name if len(name) <= MAX_SHOWN_CHARACTERS else f"{name[:MAX_SHOWN_CHARACTERS]}..."
    return ModelStoreError(f"model '{shown}' not found", 404, "model_not_found")


@dataclass(frozen=True)
class ModelName:
    """A model's name with all of its parts."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Split a name into its parts. Raises ModelStoreError for an invalid name."""
        path, _, tag = (
            text.rpartition(":") if ":" in text.rpartition("/")[2] else (text, "", DEFAULT_TAG)
        )
        parts = path.split("/")
        whole = [*[DEFAULT_HOST, DEFAULT_NAMESPACE][: 3 - len(parts)], *parts]
        name = cls(whole[0], whole[1], whole[2], tag) if len(whole) == 3 else None
        if name is None or not (
            HOST.fullmatch(name.host) and all(map(NAME_PART.fullmatch, name.parts[1:]))
        ):
            raise ModelStoreError(f"{text!r:.100} is an invalid model name; write it as NAME:TAG")
        return name

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Host, namespace, model and tag."""
        return self.host, self.namespace, self.model, self.tag

    def __str__(self) -> str:
        """The name as Ollama shows it: with its tag, without default host and namespace.

        >>> str(ModelName.parse("mini")), str(ModelName.parse("hf.co/owner/Repo:Q4_0"))
        ('mini:latest', 'hf.co/owner/Repo:Q4_0')
        """
        prefix = [] if self.host == DEFAULT_HOST else [self.host]
        prefix += [] if not prefix and self.namespace == DEFAULT_NAMESPACE else [self.namespace]
        return "/".join([*prefix, f"{self.model}:{self.tag}"])


def short_name(text: str) -> str:
    """A name without default parts; other texts are returned unchanged.

    >>> short_name("library/mini:LATEST"), short_name("owner/mini"), short_name("not a name")
    ('mini', 'owner/mini', 'not a name')
    """
    try:
        name = ModelName.parse(text)
    except ModelStoreError:
        return text
    prefix = (name.host.lower(), name.namespace.lower())
    tag = "" if name.tag.lower() == DEFAULT_TAG else f":{name.tag}"
    if prefix == (DEFAULT_HOST, DEFAULT_NAMESPACE):
        return name.model + tag
    return text if tag else text.rpartition(":")[0] if text.lower().endswith(":latest") else text
