"""Special tokens and the chat template, from the config files of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reellama.gguf_tools.conversion.hf_folder import read_json_if_there
from reellama.gguf_tools.errors import ReellamaError

KINDS = ("bos", "eos", "unk", "sep", "pad", "mask")
Section = Mapping[str, Any]


@dataclass(frozen=True)
class SpecialTokens:
    """Ids by kind ("bos", "eos", "eot", ...), and whether they are added to every text."""

    ids: dict[str, int]
    add_bos: bool
    add_eos: bool
    # Jinja source; more than one template is a list of {"name": ..., "template": ...}.
    chat_template: str | list[dict[str, str]] | None


def read_special_tokens(
    folder: Path, tokens: Mapping[str, int], post_processor: Section | None
) -> SpecialTokens:
    """Collect the special tokens of a folder.

    tokenizer_config.json takes precedence over special_tokens_map.json, and both over the ids in
    config.json.

    Args:
        folder: the Hugging Face folder.
        tokens: the vocabulary, ids by text.
        post_processor: section of tokenizer.json.

    Raises:
        ReellamaError: the BOS or EOS token is not in the vocabulary.
    """
    config = read_json_if_there(folder / "tokenizer_config.json")
    names = read_json_if_there(folder / "special_tokens_map.json")
    model = read_json_if_there(folder / "config.json")
    model = model | (model.get("text_config") or {})
    generation = read_json_if_there(folder / "generation_config.json")
    ids: dict[str, int] = {}
    known = set(tokens.values())
    for kind in KINDS:
        name = _text(config.get(f"{kind}_token")) or _text(names.get(f"{kind}_token"))
        if name and name not in tokens and kind in ("bos", "eos"):
            raise ReellamaError(
                f"{folder}: its {kind} token {name!r:.40} has no row in the model's embeddings; "
                "save the model again after resize_token_embeddings, or mend tokenizer_config.json"
            )
        for candidate in (
            tokens.get(name or ""),
            *_ids(model.get(f"{kind}_token_id")),
            *_ids(generation.get(f"{kind}_token_id")),
        ):
            if candidate in known:
                ids.setdefault(kind, candidate)
    around = _around(post_processor, tokens)
    if around is None:  # older tokenizers have two settings instead of a template
        add_bos, add_eos = bool(config.get("add_bos_token")), bool(config.get("add_eos_token"))
    else:
        add_bos, add_eos = around[0] is not None, around[1] is not None
        if around[0] is not None:
            ids["bos"] = around[0]
    template = _chat_template(folder, config)
    ends = [*_ids(generation.get("eos_token_id")), *_ids(model.get("eos_token_id"))]
    if (end := _end_of_turn(ids.get("eos"), ends, tokens, template)) is not None:
        ids["eot"] = end
    return SpecialTokens(ids, add_bos and "bos" in ids, add_eos and "eos" in ids, template)


def _text(token: object) -> str | None:
    """The text of a token, which is written as a string or as an object."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _ids(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if type(item) is int]


def _around(
    post_processor: Section | None, tokens: Mapping[str, int]
) -> tuple[int | None, int | None] | None:
    """Return the tokens that a template puts before and after every text; None without one."""
    for part in _parts(post_processor):
        pieces = part.get("single") or ()
        names = [(piece.get("SpecialToken") or {}).get("id") for piece in pieces]
        if part.get("type") == "TemplateProcessing" and names:
            return tokens.get(names[0] or ""), tokens.get(names[-1] or "")
    return None


def _parts(section: Section | None) -> Iterator[Section]:
    if section is not None and section.get("type") == "Sequence":
        for part in section.get("processors", ()):
            yield from _parts(part)
    elif section is not None:
        yield section


def _chat_template(folder: Path, config: Section) -> str | list[dict[str, str]] | None:
    """The chat template; files of its own have precedence over tokenizer_config.json."""
    main = folder / "chat_template.jinja"
    older = read_json_if_there(folder / "chat_template.json").get("chat_template")
    template = _read(main) if main.is_file() else older or config.get("chat_template")
    template = template if isinstance(template, (str, list)) and template else None
    additional = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    if not additional:
        return template
    default = [{"name": "default", "template": template}] if isinstance(template, str) else template
    return [*(default or ()), *({"name": p.stem, "template": _read(p)} for p in additional)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ReellamaError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReellamaError(f"{path} is not text in UTF-8; save it so, or download it again") from (
            error
        )


def _end_of_turn(
    eos: int | None, ends: list[int], tokens: Mapping[str, int], template: object
) -> int | None:
    """Return the token that ends a turn: the end-of-generation token that the template writes."""
    candidates = [token for token in dict.fromkeys([eos, *ends]) if token is not None]
    texts = {number: text for text, number in tokens.items() if number in candidates}
    for token in candidates:
        if token in texts and texts[token] in str(template or ""):
            return token
    return None
