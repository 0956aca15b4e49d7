"""Token scores of SentencePiece's BPE for llama.cpp, from the merges of tokenizer.json.

SentencePiece joins the two neighbours that make the token with the best score. A tokenizer.json
that was converted from such a model has all pairs that make a token as its merges, best tokens
first. So the rank of a token's first merge is its score. llama.cpp tokenizes the same only if no
pair is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gguf import TokenType

Section = Mapping[str, Any]
SPACE = "▁"  # how SentencePiece writes a space


def scores_from_merges(
    texts: Mapping[int, str], types: Sequence[TokenType], merges: Sequence[Sequence[str]]
) -> tuple[list[float], list[str]]:
    """Return the score of each token, and notes about texts that llama.cpp will tokenize
    differently.

    As in SentencePiece, the first merged token has the score 0, the next -1, and so on, followed by
    tokens that are not merged: single characters.
    """
    normal = [i for i, kind in enumerate(types) if kind == TokenType.NORMAL]
    ranks: dict[str, int] = {}
    for left, right in merges:
        ranks.setdefault(left + right, len(ranks))
    scores = [0.0] * len(types)
    n_merged, n_characters = len(ranks), 0
    for number in normal:
        rank = ranks.get(texts[number])
        if rank is None:
            rank = n_merged + n_characters
            n_characters += 1
        scores[number] = -float(rank)
    tokens = {texts[number] for number in normal}
    pairs = {(left, right) for left, right in merges}
    n_other = sum(1 for text in tokens if any(pair not in pairs for pair in _splits(text, tokens)))
    if not n_other:
        return scores, []
    note = (
        f"llama.cpp can put {n_other:,} of {len(tokens):,} tokens together in ways that the merges "
        "of this tokenizer do not have: some texts will get other tokens"
    )
    return scores, [note]


def uses_metaspace(tokenizer: Section) -> bool:
    """Whether spaces are written as SentencePiece does."""
    return any(
        part.get("replacement") == SPACE
        or (part.get("type") == "Replace" and part.get("content") == SPACE)
        for part in _parts(tokenizer)
    )


def add_space_prefix(tokenizer: Section, texts: Sequence[str]) -> tuple[bool, list[str]]:
    """Return whether a tokenizer puts a space in front of a text, and notes about where llama.cpp
    differs. texts: of the tokens that were not added."""
    notes = []
    prefix = False
    for part in _parts(tokenizer):
        kind = part.get("type")
        if kind == "Prepend":
            prefix = True
        elif kind == "Metaspace":
            scheme = part.get("prepend_scheme") or (
                "always" if part.get("add_prefix_space", True) else "never"
            )
            prefix = scheme != "never"
            if prefix:
                # llama.cpp does as SentencePiece and the older `Prepend`: always one more space.
                notes.append(
                    "llama.cpp puts a space also in front of a text that begins with one"
                    + (" and of text after a special token" if scheme == "first" else "")
                )
            if part.get("split", True) and any(SPACE in text[1:].lstrip(SPACE) for text in texts):
                notes.append("llama.cpp joins words to tokens, which this tokenizer never does")
        elif kind not in ("Replace", "Split"):
            notes.append(f"llama.cpp has no {kind}: some texts will get other tokens")
    return prefix, notes


def _splits(text: str, tokens: set[str]) -> Iterator[tuple[str, str]]:
    """All pairs of tokens that make a text."""
    for i in range(1, len(text)):
        if text[:i] in tokens and text[i:] in tokens:
            yield text[:i], text[i:]


def _parts(tokenizer: Section) -> Iterator[Section]:
    """The normalizers and pre-tokenizers of a tokenizer, sequences taken apart."""
    for section in (tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")):
        if section is not None:
            parts = section.get("normalizers") or section.get("pretokenizers")
            yield from [section] if parts is None else parts
