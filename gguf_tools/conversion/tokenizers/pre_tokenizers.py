r"""llama.cpp's names for the pre-tokenizers of byte-level BPE.

A GGUF has no regular expressions: it names one of the pre-tokenizers that are compiled into
llama.cpp. To find the name, the section `pre_tokenizer` of a tokenizer.json is written as a list of
regular expressions, each of which splits the pieces of the one before it:

- `Split` cuts off what its expression matches;
- `Digits` is `Split` by `\p{N}`, or `\p{N}+` without `individual_digits`;
- `ByteLevel` with `use_regex` (the default) is `Split` by GPT-2's expression.

Expressions that mean the same to llama.cpp's splitter share a name, whatever model they came with.
The names and expressions are those of llm_tokenizer_bpe in llama.cpp's `src/llama-vocab.cpp`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Section = Mapping[str, Any]
Steps = tuple[str, ...]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # contractions
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
QWEN2 = _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
QWEN35 = (
    _SHORT + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SEED = (
    _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}"
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = r"[^\r\n\p{L}\p{N}]?{0}*{1}+{2}|[^\r\n\p{L}\p{N}]?{0}+{1}*{2}".replace(
    "{0}", _UPPER
).replace("{1}", _LOWER)
_SLASHES = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = _CASED.replace("{2}", "") + r"|\p{N}" + _SLASHES
GPT4O = _CASED.replace("{2}", _SHORT + "?") + r"|\p{N}{1,3}" + _SLASHES
_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_CHINESE_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    _CHINESE_AND_KANA,
    _PUNCTUATION
    + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
    + r"|\s+(?!\S)|\s+",
)
DEEPSEEK_CODER = (
    r"[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
    r"\p{N}",
)

# Names without and with `ignore_merges`, which makes a piece that is a token stay whole. None for a
# variant that llama.cpp lacks.
NAMES: dict[Steps, tuple[str | None, str | None]] = {
    (GPT2,): ("gpt-2", None),
    (r"\p{N}", GPT2): ("smollm", None),  # StarCoder, Command R, Granite and others as well
    (LLAMA3,): ("dbrx", "llama-bpe"),
    (QWEN2,): ("qwen2", None),
    (QWEN35,): ("qwen35", None),
    (SEED,): ("seed-coder", None),
    (TEKKEN,): (None, "tekken"),
    (GPT4O,): ("gpt-4o", None),
    DEEPSEEK3: ("deepseek-v3", None),
    DEEPSEEK_CODER: ("deepseek-coder", None),
}
# llama.cpp's splitter cuts words at combining marks here, unlike the expressions above.
WITHOUT_MARKS = frozenset({"tekken", "gpt-4o"})


class UnsupportedTokenizerError(Exception):
    """A tokenizer that llama.cpp does not support; the message says why."""


def is_byte_level(section: Section | None) -> bool:
    """Whether a pre-tokenizer maps bytes to GPT-2's 256 characters."""
    return any(part.get("type") == "ByteLevel" for part in _parts(section))


def steps(section: Section | None) -> Steps:
    """Return a pre-tokenizer as regular expressions. Raises UnsupportedTokenizerError."""
    return tuple(step for part in _parts(section) if (step := _step(part)) is not None)


def pre_tokenizer_name(section: Section | None, ignore_merges: bool) -> tuple[str, list[str]]:
    """Return llama.cpp's name, and notes about texts that it will tokenize differently.

    Raises UnsupportedTokenizerError if llama.cpp has no such pre-tokenizer.
    """
    expressions = steps(section)
    if expressions not in NAMES:
        known = ", ".join(sorted({name for names in NAMES.values() for name in names if name}))
        cuts = " then ".join(expressions) or "nothing"
        raise UnsupportedTokenizerError(
            f"llama.cpp's name for a pre-tokenizer that cuts by {cuts} is not known; "
            f"those of {known} are"
        )
    names = NAMES[expressions]
    name = names[ignore_merges] or names[not ignore_merges] or ""
    notes = []
    if names[ignore_merges] is None:
        notes.append(f"llama.cpp's {name} treats words that are tokens in another way")
    if name in WITHOUT_MARKS:
        notes.append(
            f"llama.cpp's {name} cuts words at combining marks, as Hindi and Thai have them"
        )
    return name, notes


def _parts(section: Section | None) -> Iterator[Section]:
    if section is None:
        return
    if section.get("type") == "Sequence":
        for part in section.get("pretokenizers", ()):
            yield from _parts(part)
    else:
        yield section


def _step(part: Section) -> str | None:
    kind = part.get("type")
    if kind == "ByteLevel":
        if part.get("add_prefix_space"):
            raise UnsupportedTokenizerError(
                "llama.cpp puts no space in front of a byte-level text (add_prefix_space)"
            )
        return GPT2 if part.get("use_regex", True) else None
    if kind == "Digits":
        return r"\p{N}" if part.get("individual_digits") else r"\p{N}+"
    if kind == "Split":
        expression = (part.get("pattern") or {}).get("Regex")
        behavior = part.get("behavior"), bool(part.get("invert"))
        # Both make each match a piece. They differ in the text between matches, but the expressions
        # above leave none.
        if expression and behavior in (("Isolated", False), ("Removed", True)):
            # Some files have line breaks themselves in place of their escapes.
            return str(expression).replace("\r", r"\r").replace("\n", r"\n")
    settings = ", ".join(f"{key}={value}" for key, value in part.items() if key != "type")
    raise UnsupportedTokenizerError(f"llama.cpp has no pre-tokenizer {kind}({settings})")
