"""What a prompt is made of, and how it becomes positions in the KV cache."""

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

# What one cell of the KV cache holds: a token id, or the hash of a soft token.
CellKey = int | bytes


@dataclass(frozen=True)
class GeneratedText:
    """Tokens that the model generated, and the text that they make."""

    ids: list[int]
    text: str


@dataclass
class TokenSpan:
    """Neighbouring cells of one kind: token ids, or soft tokens. `start`: position of the first."""

    keys: Sequence[CellKey]
    start: int
    soft: SoftTokens | None = None

    @property
    def inputs(self) -> np.ndarray:
        """What llama.cpp decodes: token ids int32 `[n]`, or soft tokens float32 `[n, n_embd]`."""
        return np.array(self.keys, np.int32) if self.soft is None else self.soft.rows

    @property
    def offsets(self) -> np.ndarray | None:
        """How far its tokens lie from `start` in a model with M-RoPE, int32 `[3, n]`, or None."""
        return None if self.soft is None else self.soft.offsets

    @property
    def causal(self) -> bool:
        """Whether its tokens see only those before them."""
        return self.soft is None or self.soft.causal

    @property
    def divisible(self) -> bool:
        """Whether the KV cache can be cut between two of its tokens."""
        return self.soft is None or self.soft.divisible

    @property
    def end(self) -> int:
        """The first position after it."""
        return self.start + (len(self) if self.soft is None else self.soft.n_positions)

    def cut_positions(self) -> list[int]:
        """The position from which the KV cache is cut to forget each token and what follows."""
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
    """A prompt laid out cell by cell: `keys` for all of it, `spans` to decode it by."""

    keys: list[CellKey] = field(default_factory=list)
    spans: list[TokenSpan] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The first position after the prompt."""
        return self.spans[-1].end if self.spans else 0

    def add_ids(self, ids: Sequence[int]) -> None:
        """Append token ids; they join the span of ids before them."""
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
        """This prompt without `token`, where that comes first."""
        if not self.keys or token is None or self.keys[0] != token:
            return self
        return TokenizedPrompt(self.keys[1:], [*self.spans_after(1)]).preceded_by(())

    def reusable(self, n: int) -> int:
        """How many of the first `n` cells can be reused: indivisible spans only as a whole."""
        begin = 0
        for span in self.spans:
            if n < begin + len(span):
                return n if span.divisible else begin
            begin += len(span)
        return begin

    def spans_after(self, n: int) -> list[TokenSpan]:
        """The spans that hold the cells from `n` on."""
        spans = []
        for span in self.spans:
            if n < len(span):
                spans.append(span[n:] if n else span)
            n = max(0, n - len(span))
        return spans


def split_spans(
    spans: Sequence[TokenSpan], first: int, size: int
) -> Iterator[tuple[int, TokenSpan]]:
    """Spans in pieces of at most `size`, each with its cell's number; `first` is the first cell's.

    Tokens that see each other stay together.
    """
    for span in spans:
        step = size if span.causal else len(span)
        for i in range(0, len(span), step):
            piece = span[i : i + step]
            yield first, piece
            first += len(piece)


def _hashes(soft: SoftTokens) -> list[bytes]:
    """A key for each soft token. Where they belong together, each key holds all of them."""
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

    The token that a model wants in front of a text is put there unless the prompt has it; a prompt
    that begins with soft tokens is taken as it is. `answers` are texts that the model generated, by
    the position in `cached` where each starts: a prompt that repeats such an answer at its place
    gets the tokens that the model chose, so that their part of the KV cache is reused. The
    tokenizer may cut the same text into others. Raises ReellamaError for a part that is neither
    text nor soft tokens.
    """
    bos = tokenizer.bos if tokenizer.add_bos else None
    tokenized = TokenizedPrompt()
    texts: list[Text] = []  # neighbours, which are tokenized together

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
    """Token ids from outside, as a part. Raises ReellamaError for ids of no token."""
    wrong = next((i for i in ids if not 0 <= i < n_vocab), None)
    if wrong is not None:
        raise ReellamaError(f"there is no token {wrong}: ids go from 0 to {n_vocab - 1}")
    return TokenIds(tuple(ids))


def check_soft_tokens(soft: SoftTokens, n_embd: int) -> SoftTokens:
    """`soft` with contiguous rows. Raises ReellamaError when it does not fit the width `n_embd`."""
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
