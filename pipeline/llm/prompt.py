"""Tokenizes prompts: parts in, keys and spans of KV cache cells out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.text.prompt_parts import (
    Prompt,
    PromptPart,
    SoftTokens,
    Text,
    TokenIds,
    soft_tokens_of,
)
from reellama.gguf_tools.text.tokenizer import Tokenizer

__all__ = ["Prompt", "PromptPart", "SoftTokens", "Text", "TokenIds"]

# Identifies the token in one cell of the KV cache: a token id, or the hash of a soft token.
CellKey = int | bytes


@dataclass(frozen=True)
class GeneratedText:
    """Token ids that the model has generated, and their text."""

    ids: list[int]
    text: str


@dataclass
class TokenSpan:
    """Neighbouring cells of one kind, token ids or soft tokens. `start`: the first position."""

    keys: Sequence[CellKey]
    start: int
    soft: SoftTokens | None = None

    @property
    def inputs(self) -> np.ndarray:
        """The input of llama.cpp: token ids int32 `[n]`, or soft tokens float32 `[n, n_embd]`."""
        return np.array(self.keys, np.int32) if self.soft is None else self.soft.rows

    @property
    def offsets(self) -> np.ndarray | None:
        """M-RoPE offsets of the tokens from `start`, int32 `[3, n]`, or None."""
        return None if self.soft is None else self.soft.offsets

    @property
    def causal(self) -> bool:
        """Whether the mask is causal: each token attends only to those before it."""
        return self.soft is None or self.soft.causal

    @property
    def divisible(self) -> bool:
        """Whether the KV cache can be cut between two tokens."""
        return self.soft is None or self.soft.divisible

    @property
    def end(self) -> int:
        """The first position after the span."""
        return self.start + (len(self) if self.soft is None else self.soft.n_positions)

    def cut_positions(self) -> list[int]:
        """For each token, where the KV cache is cut to remove it and what follows."""
        if not self.divisible:
            return [self.start] * len(self)
        return list(range(self.start, self.start + len(self)))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, part: slice) -> TokenSpan:
        first = range(len(self))[part.start or 0 :].start if self.divisible else 0
        soft = None if self.soft is None else self.soft[part]
        return TokenSpan(self.keys[part], self.start + first, soft)


@dataclass
class TokenizedPrompt:
    """A prompt as cells of the KV cache: `keys` identifies them, `spans` is what is decoded."""

    keys: list[CellKey] = field(default_factory=list)
    spans: list[TokenSpan] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The first position after the prompt."""
        return self.spans[-1].end if self.spans else 0

    def add_ids(self, ids: Sequence[int]) -> None:
        """Append token ids to the last span if it is one of ids, else as a new span."""
        if not ids:
            return
        self.keys += ids
        if self.spans and self.spans[-1].soft is None:
            last = self.spans[-1]
            self.spans[-1] = replace(last, keys=[*last.keys, *ids])
        else:
            self.spans.append(TokenSpan(list(ids), self.end))

    def add_soft(self, soft: SoftTokens) -> None:
        """Append soft tokens."""
        if not len(soft):
            return
        keys = _hashes(soft)
        self.spans.append(TokenSpan(keys, self.end, soft))
        self.keys += keys

    def preceded_by(self, ids: Sequence[int]) -> TokenizedPrompt:
        """This prompt with token ids before it."""
        prompt = TokenizedPrompt()
        prompt.add_ids(ids)
        for span in self.spans:
            if span.soft is None:
                prompt.add_ids([key for key in span.keys if isinstance(key, int)])
            else:
                prompt.add_soft(span.soft)
        return prompt

    def followed_by(self, ids: Sequence[int]) -> TokenizedPrompt:
        """This prompt with token ids after it."""
        prompt = TokenizedPrompt([*self.keys], [*self.spans])
        prompt.add_ids(ids)
        return prompt

    def without_first(self, token: int | None) -> TokenizedPrompt:
        """This prompt without its first token if that is `token`."""
        if not self.keys or token is None or self.keys[0] != token:
            return self
        return TokenizedPrompt(self.keys[1:], [*self.spans_after(1)]).preceded_by(())

    def reusable(self, n: int) -> int:
        """How many of the first `n` cells can be reused; indivisible spans only as a whole."""
        begin = 0
        for span in self.spans:
            if n < begin + len(span):
                return n if span.divisible else begin
            begin += len(span)
        return begin

    def spans_after(self, n: int) -> list[TokenSpan]:
        """The spans of the cells from `n` on."""
        spans = []
        for span in self.spans:
            if n < len(span):
                spans.append(span[n:] if n else span)
            n = max(0, n - len(span))
        return spans


def split_spans(
    spans: Sequence[TokenSpan], first: int, size: int
) -> Iterator[tuple[int, TokenSpan]]:
    """Split spans into pieces of at most `size`, with the index of each piece's first cell.

    first: the index of the first cell. Spans with a non-causal mask are not split.
    """
    for span in spans:
        step = size if span.causal else len(span)
        for i in range(0, len(span), step):
            piece = span[i : i + step]
            yield first, piece
            first += len(piece)


def _hashes(soft: SoftTokens) -> list[bytes]:
    """A key for each soft token; in an indivisible group each key depends on all of them."""
    if soft.divisible:
        return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in soft.rows]
    digest = hashlib.blake2b(soft.rows.tobytes(), digest_size=16)
    digest.update(repr((soft.n_positions, soft.causal)).encode())
    if soft.offsets is not None:
        digest.update(soft.offsets.tobytes())
    whole = digest.digest()
    return [whole + i.to_bytes(4, "little") for i in range(len(soft))]


def tokenize_prompt(
    prompt: Sequence[PromptPart],
    tokenizer: Tokenizer,
    n_embd: int,
    *,
    cached: Sequence[CellKey] = (),
    answers: Mapping[int, GeneratedText] = MappingProxyType({}),
) -> TokenizedPrompt:
    """Tokenize a prompt and check its soft tokens, `n_embd` wide.

    If the model uses a BOS token, it is put before a prompt that begins with text and has none.
    `answers` are texts that the model has generated, by the index in `cached` where each starts. A
    prompt that repeats an answer at its place gets the generated ids, so that their cells are
    reused: the tokenizer may split the same text in another way. Raises ReellamaError for a part of
    another type.
    """
    bos = tokenizer.bos if tokenizer.add_bos else None
    tokenized = TokenizedPrompt()
    texts: list[Text] = []  # neighbouring texts, which are tokenized together

    def text_ids() -> list[int]:
        ids = tokenizer.encode_parts((text.text, text.special) for text in texts)
        if tokenized.keys or not texts or bos is None or ids[:1] == [bos]:
            return ids
        return [bos, *ids]

    for i, part in enumerate(prompt):
        if isinstance(part, Text):
            if any(answer.text == part.text for answer in answers.values()):
                before = [*tokenized.keys, *text_ids()]
                answer = answers.get(len(before))
                if answer and answer.text == part.text and before == list(cached[: len(before)]):
                    tokenized.add_ids(text_ids())
                    tokenized.add_ids(answer.ids)
                    texts.clear()
                    continue
            texts.append(part)
            continue
        tokenized.add_ids(text_ids())
        texts.clear()
        if isinstance(part, TokenIds):
            tokenized.add_ids(part.ids)
        elif isinstance(part, SoftTokens | np.ndarray):
            tokenized.add_soft(check_soft_tokens(soft_tokens_of(part), n_embd))
        else:
            kind = type(part).__name__
            raise ReellamaError(
                f"part {i} of the prompt is {kind}, not Text, TokenIds or soft tokens"
            )
    tokenized.add_ids(text_ids())
    return tokenized


def checked_token_ids(ids: Sequence[int], n_vocab: int) -> TokenIds:
    """Token ids of a client as a part. Raises ReellamaError for ids outside of the vocabulary."""
    wrong = next((i for i in ids if not 0 <= i < n_vocab), None)
    if wrong is not None:
        raise ReellamaError(f"there is no token {wrong}: ids go from 0 to {n_vocab - 1}")
    return TokenIds(tuple(ids))


def check_soft_tokens(soft: SoftTokens, n_embd: int) -> SoftTokens:
    """`soft` with contiguous rows. Raises ReellamaError for a wrong shape, type or value."""
    array = soft.rows
    if array.ndim != 2 or array.shape[1] != n_embd:
        raise ReellamaError(
            f"soft tokens have shape {list(array.shape)}, but this model takes [n, {n_embd}]: "
            "were they made for another model?"
        )
    if array.dtype != np.float32:
        raise ReellamaError(f"soft tokens are {array.dtype}, not float32: convert them first")
    if not np.isfinite(array).all():
        raise ReellamaError("soft tokens hold NaN or infinity: the projector's weights are broken")
    if soft.offsets is not None and soft.offsets.shape != (3, len(array)):
        raise ReellamaError(
            f"positions of {len(array)} soft tokens have shape {list(soft.offsets.shape)}, not "
            f"[3, {len(array)}]"
        )
    return replace(soft, rows=np.ascontiguousarray(array))
