"""The tokenizer of CLIP's text tower (Radford et al., 2021), without torch.

    tokenizer = ClipTokenizer(merges, context=77)
    tokenizer.encode(["a dog"])             # int64 [1, 77], zeros after the end

It is a byte pair encoding of lower-case text with an end-of-word mark. `merges` has a merge on each
line, in the order of priority: two parts with a space between them.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

WORD_END = "</w>"
START, END = "<start_of_text>", "<end_of_text>"
# A word before BPE: an ending after an apostrophe, letters, a single digit, or other characters.
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def bpe_merges(tokenizer: Any) -> str:
    """The merges of an open_clip tokenizer; "" for one other than CLIP's own."""
    from open_clip.tokenizer import SimpleTokenizer

    if type(tokenizer) is not SimpleTokenizer or tokenizer.all_special_ids[1:] != [
        tokenizer.vocab_size - 1
    ]:
        return ""
    return "\n".join(" ".join(pair) for pair in tokenizer.bpe_ranks)


class ClipTokenizer:
    """CLIP's tokenizer for texts of at most `context` tokens. merges: from `bpe_merges`."""

    def __init__(self, merges: str, context: int) -> None:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

        pairs = [(a, b) for a, _, b in (line.partition(" ") for line in merges.split("\n"))]
        letters = _byte_letters()
        words = [*letters, *(letter + WORD_END for letter in letters), *map("".join, pairs)]
        vocabulary = {word: number for number, word in enumerate([*words, START, END])}
        self._start, self._end, self._context = len(words), len(words) + 1, context
        self._tokenizer = Tokenizer(
            models.BPE(vocab=vocabulary, merges=pairs, end_of_word_suffix=WORD_END)
        )
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Lowercase()]
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids int64 `[texts, context]`; long texts are truncated."""
        rows = np.zeros((len(texts), self._context), np.int64)
        for row, text in zip(rows, texts, strict=True):
            words = self._tokenizer.encode(html.unescape(text)).ids[: self._context - 2]
            row[: len(words) + 2] = [self._start, *words, self._end]
        return rows


def _byte_letters() -> list[str]:
    """The character that stands for each byte, in the order of CLIP's vocabulary: printable bytes
    first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    n_others = 0x100 - len(printable)
    return [chr(byte) for byte in printable] + [chr(0x100 + n) for n in range(n_others)]
