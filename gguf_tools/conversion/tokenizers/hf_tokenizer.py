"""Convert a Hugging Face tokenizer for llama.cpp.

These models use two of llama.cpp's kinds of tokenizer: byte-level BPE ("gpt2"), which needs the
merges and the name of a pre-tokenizer, and SentencePiece ("llama"), which needs a score for each
token. Both come from tokenizer.json, the format of https://github.com/huggingface/tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from reellama.gguf_tools.conversion.hf_folder import read_json, read_json_if_there, reporting_damage
from reellama.gguf_tools.conversion.tokenizers import sentencepiece_model
from reellama.gguf_tools.conversion.tokenizers.pre_tokenizers import (
    UnsupportedTokenizerError,
    is_byte_level,
    pre_tokenizer_name,
)
from reellama.gguf_tools.conversion.tokenizers.sentencepiece_scores import (
    SPACE,
    add_space_prefix,
    scores_from_merges,
    uses_metaspace,
)
from reellama.gguf_tools.conversion.tokenizers.special_tokens import (
    SpecialTokens,
    read_special_tokens,
)
from reellama.gguf_tools.errors import ReellamaError

Section = Mapping[str, Any]


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in llama.cpp's form."""

    model: str  # "gpt2": byte-level BPE, or "llama": SentencePiece
    pre: str
    tokens: list[str]
    types: list[TokenType]
    special: SpecialTokens
    merges: list[str] = field(default_factory=list)  # of "gpt2"
    scores: list[float] = field(default_factory=list)  # of "llama"
    space_prefix: bool = False
    notes: list[str] = field(default_factory=list)  # where llama.cpp will tokenize differently


def read_vocabulary(folder: Path, n_rows: int) -> Vocabulary:
    """Return the tokenizer of a folder for a model with `n_rows` token embeddings.

    Embeddings without a token get an unused one. Raises ReellamaError if there is no tokenizer, or
    one that llama.cpp does not support.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            with reporting_damage(path):
                return _from_json(folder, read_json(path), n_rows)
        except UnsupportedTokenizerError as error:
            raise ReellamaError(f"{path}: {error}") from error
    if (folder / "tokenizer.model").is_file():
        with reporting_damage(folder / "tokenizer_config.json"):
            return _from_sentencepiece(folder, n_rows)
    raise ReellamaError(
        f"{folder} has no tokenizer.json; download it, or save it with "
        "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    )


def add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Add a tokenizer and its chat template to a GGUF's metadata."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    special = vocabulary.special
    for kind, token in special.ids.items():
        getattr(writer, f"add_{kind}_token_id")(token)
    writer.add_add_bos_token(special.add_bos)
    writer.add_add_eos_token(special.add_eos)
    writer.add_add_space_prefix(vocabulary.space_prefix)
    if special.chat_template is not None:
        writer.add_chat_template(special.chat_template)


def _from_json(folder: Path, tokenizer: Section, n_rows: int) -> Vocabulary:
    model = tokenizer["model"]
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise UnsupportedTokenizerError(f"tokenizers of the kind {model.get('type')} are not known")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise UnsupportedTokenizerError("llama.cpp has no marks inside or at the end of words")
    added = {int(token["id"]): token for token in tokenizer.get("added_tokens") or ()}
    texts = {int(number): text for text, number in model["vocab"].items()}
    texts |= {number: str(token["content"]) for number, token in added.items()}
    texts, notes = _with_rows(texts, n_rows)
    ids = {text: number for number, text in texts.items()}
    special = read_special_tokens(folder, ids, tokenizer.get("post_processor"))
    merges = [
        pair.split(" ", 1) if isinstance(pair, str) else list(pair) for pair in model["merges"]
    ]
    notes += _strip_notes(added) + _single_word_notes(added)
    if is_byte_level(tokenizer.get("pre_tokenizer")):
        name, differences = pre_tokenizer_name(
            tokenizer.get("pre_tokenizer"), bool(model.get("ignore_merges"))
        )
        notes += differences + _normalizer_notes(tokenizer.get("normalizer"))
        tokens, types = _tokens_and_types(texts, added, n_rows, unknown=None, spaces=False)
        return Vocabulary(
            "gpt2",
            name,
            tokens,
            types,
            special,
            merges=[f"{a} {b}" for a, b in merges],
            notes=notes,
        )
    if not uses_metaspace(tokenizer) or not model.get("byte_fallback"):
        raise UnsupportedTokenizerError(
            "llama.cpp knows byte-level BPE, and BPE with byte_fallback that writes spaces as "
            f"{SPACE}; this is neither"
        )
    unknown = model.get("unk_token") or ""
    tokens, types = _tokens_and_types(texts, added, n_rows, ids.get(unknown), spaces=True)
    scores, score_notes = scores_from_merges(texts, types, merges)
    words = [texts[i] for i in texts if i not in added]
    prefix, prefix_notes = add_space_prefix(tokenizer, words)
    return Vocabulary(
        "llama",
        "default",
        tokens,
        types,
        special,
        scores=scores,
        space_prefix=prefix,
        notes=notes + score_notes + prefix_notes,
    )


def _from_sentencepiece(folder: Path, n_rows: int) -> Vocabulary:
    path = folder / "tokenizer.model"
    pieces = sentencepiece_model.read(path)
    settings = read_json_if_there(folder / "tokenizer_config.json")
    added = {
        int(number): token for number, token in (settings.get("added_tokens_decoder") or {}).items()
    }
    texts = dict(enumerate(pieces.texts)) | {i: str(t["content"]) for i, t in added.items()}
    texts, notes = _with_rows(texts, n_rows)
    tokens, types = _tokens_and_types(texts, added, n_rows, unknown=None, spaces=True)
    for number, kind in enumerate(pieces.types[:n_rows]):
        if number not in added or kind == TokenType.UNKNOWN:
            types[number] = kind
    scores = [*pieces.scores, *[0.0] * n_rows][:n_rows]
    ids = {text: number for number, text in texts.items()}
    special = read_special_tokens(folder, ids, None)
    # By default, transformers' tokenizers of these files put <s> in front.
    special = SpecialTokens(
        special.ids,
        bool(settings.get("add_bos_token", True)) and "bos" in special.ids,
        special.add_eos,
        special.chat_template,
    )
    return Vocabulary(
        "llama",
        "default",
        tokens,
        types,
        special,
        scores=scores,
        space_prefix=pieces.add_dummy_prefix,
        notes=notes + _strip_notes(added) + _single_word_notes(added),
    )


def _with_rows(texts: Mapping[int, str], n_rows: int) -> tuple[dict[int, str], list[str]]:
    """The tokens that have a row in the embeddings, and a note about those that have none."""
    with_rows = {number: text for number, text in texts.items() if number < n_rows}
    without = [text for number, text in texts.items() if number >= n_rows]
    if not without:
        return with_rows, []
    note = (
        f"{len(without):,} tokens of its tokenizer, {_some(without)}, are left out: the model has "
        f"embeddings for {n_rows:,}"
    )
    return with_rows, [note]


def _tokens_and_types(
    texts: Mapping[int, str],
    added: Mapping[int, Section],
    n_rows: int,
    unknown: int | None,
    spaces: bool,
) -> tuple[list[str], list[TokenType]]:
    """Return the text and the type of the token of each row of the embeddings.

    Args:
        texts: by token id.
        added: entries of `added_tokens` by token id.
        n_rows: of the embeddings.
        unknown: id of the unknown token.
        spaces: whether the tokenizer is SentencePiece, which writes spaces as a character of its
            own.

    Raises:
        ValueError: two tokens have the same text, which makes llama.cpp abort, or a byte has no
            token.
    """
    tokens, types = [], []
    for number in range(n_rows):
        text, kind = texts.get(number), TokenType.NORMAL
        if text is None:
            text, kind = f"[PAD{number}]", TokenType.UNUSED
        elif number == unknown:
            kind = TokenType.UNKNOWN
        elif number in added:
            special = added[number].get("special") or _looks_special(text)
            kind = TokenType.CONTROL if special else TokenType.USER_DEFINED
            if spaces and not special:
                text = text.replace(SPACE, " ")  # llama.cpp searches for them in the raw text
        elif spaces and _is_byte(text):
            kind = TokenType.BYTE
        tokens.append(text)
        types.append(kind)
    numbers: dict[str, int] = {}
    for number, text in enumerate(tokens):
        if numbers.setdefault(text, number) != number:
            raise ValueError(f"tokens {numbers[text]} and {number} are both {text!r}")
    if spaces and types.count(TokenType.BYTE) != 256:
        raise ValueError("it has no token for some of the 256 bytes")
    return tokens, types


def _looks_special(text: str) -> bool:
    """Whether a token looks like a special one, even if its tokenizer does not mark it so.

    Qwen and Gemma have such tokens. They become special, so that text typed by users never encodes
    to them.
    """
    bars = ("|", "\uff5c")  # DeepSeek's are wide
    return (
        (text.startswith("<") and text.endswith(">") and text[1:2] in bars and text[-2] in bars)
        or (text.startswith("<unused") and text.endswith(">"))
        or text in ("<pad>", "<mask>", "[@BOS@]", "<2mass>")
    )


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _strip_notes(added: Mapping[int, Section]) -> list[str]:
    stripping = [t["content"] for t in added.values() if t.get("lstrip") or t.get("rstrip")]
    if not stripping:
        return []
    return [f"llama.cpp leaves the white space beside {_some(stripping)}, which is taken off"]


def _single_word_notes(added: Mapping[int, Section]) -> list[str]:
    words = [t["content"] for t in added.values() if t.get("single_word")]
    return [f"llama.cpp finds {_some(words)} inside of words too"] if words else []


def _normalizer_notes(normalizer: Section | None) -> list[str]:
    """Notes on a normalizer: llama.cpp does not normalize byte-level text."""
    if normalizer is None:
        return []
    parts = normalizer.get("normalizers", [normalizer])
    kinds = [str(part.get("type")) for part in parts]
    if not kinds:
        return []
    if any(kind not in ("NFC", "NFKC", "NFD", "NFKD") for kind in kinds):
        raise UnsupportedTokenizerError(f"llama.cpp has no normalizer {' and '.join(kinds)}")
    return [f"llama.cpp does not normalize text ({', '.join(kinds)}); composed characters are fine"]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if names[3:] else "")
