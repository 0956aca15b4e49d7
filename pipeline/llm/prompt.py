"""What a prompt is made of, and how it becomes positions in the KV cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Text:
    """A piece of text; neighbouring pieces are tokenized as one text would be.

    `special` says whether `<|im_end|>` and the like in it act as special tokens: true for what a
    chat template writes, false for anything that a person typed.
    """

    text: str
    special: bool = False


# Soft tokens are a float32 array [n, n_embd].
PromptPart = Text | np.ndarray
Prompt = list[PromptPart]

# What one position of the KV cache holds: a token id, or the hash of a soft token's values.
PositionKey = int | bytes


@dataclass(frozen=True)
class GeneratedText:
    """Tokens that the model generated, and the text that they make."""

    ids: list[int]
    text: str


@dataclass
class TokenSpan:
    """Neighbouring positions of one kind: token ids, or soft tokens `[n, n_embd]`."""

    keys: Sequence[PositionKey]
    rows: np.ndarray | None = None

    @property
    def inputs(self) -> np.ndarray:
        """What llama.cpp decodes: token ids int32 `[n]`, or the soft tokens."""
        return np.array(self.keys, np.int32) if self.rows is None else self.rows

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, part: slice) -> TokenSpan:
        return TokenSpan(self.keys[part], None if self.rows is None else self.rows[part])


@dataclass
class TokenizedPrompt:
    """A prompt laid out position by position: `keys` for all of it, `runs` to decode it by."""

    keys: list[PositionKey] = field(default_factory=list)
    spans: list[TokenSpan] = field(default_factory=list)

    def add_ids(self, ids: list[int]) -> None:
        """Append token ids; they join the run of ids before them."""
        if not ids:
            return
        self.keys += ids
        if self.spans and self.spans[-1].rows is None:
            self.spans[-1] = TokenSpan([*self.spans[-1].keys, *ids])
        else:
            self.spans.append(TokenSpan(ids))

    def add_rows(self, rows: np.ndarray) -> None:
        """Append soft tokens [n, n_embd]."""
        if not len(rows):
            return
        hashes = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
        self.keys += hashes
        self.spans.append(TokenSpan(hashes, rows))

    def spans_after(self, n: int) -> list[TokenSpan]:
        """The runs that hold the positions from `n` on."""
        left = []
        for run in self.spans:
            if n < len(run):
                left.append(run[n:] if n else run)
            n = max(0, n - len(run))
        return left


def tokenize_prompt(
    prompt: Sequence[PromptPart],
    tokenizer: Tokenizer,
    n_embd: int,
    *,
    cached: Sequence[PositionKey] = (),
    answers: Mapping[int, GeneratedText] = MappingProxyType({}),
) -> TokenizedPrompt:
    """Tokenize a prompt and check its soft tokens, `n_embd` wide.

    The token that a model wants in front of a text is put there unless the prompt has it; a prompt
    that begins with soft tokens is taken as it is. `answers`
    are what the model generated itself, by the position in `cached` where each starts: a prompt
    that repeats such an answer at its place gets the tokens that the model chose, which need not
    be the ones that the tokenizer makes of the same text, so that the KV cache can be used on.
    Raises ReellamaError for a part that is neither text nor soft tokens.
    """
    bos = tokenizer.bos if tokenizer.add_bos else None
    layout = TokenizedPrompt()
    texts: list[Text] = []  # neighbours, which are tokenized together

    def ids() -> list[int]:
        found = tokenizer.encode_parts((text.text, text.special) for text in texts)
        if layout.keys or not texts or bos is None or found[:1] == [bos]:
            return found
        return [bos, *found]

    for i, part in enumerate(prompt):
        if isinstance(part, Text):
            if any(answer.text == part.text for answer in answers.values()):
                before = [*layout.keys, *ids()]
                answer = answers.get(len(before))
                if answer and answer.text == part.text and before == list(cached[: len(before)]):
                    layout.add_ids(ids())
                    layout.add_ids(answer.ids)
                    texts.clear()
                    continue
            texts.append(part)
        elif isinstance(part, np.ndarray):
            layout.add_ids(ids())
            layout.add_rows(check_soft_tokens(part, n_embd))
            texts.clear()
        else:
            kind = type(part).__name__
            raise ReellamaError(f"part {i} of the prompt is {kind}, not Text or a float32 array")
    layout.add_ids(ids())
    return layout


def check_soft_tokens(array: np.ndarray, n_embd: int) -> np.ndarray:
    """`array` as contiguous float32 [n, n_embd]. Raises ReellamaError when it cannot be one."""
    if array.ndim != 2 or array.shape[1] != n_embd:
        raise ReellamaError(
            f"soft tokens have shape {list(array.shape)}, but this model takes [n, {n_embd}]: "
            "were they made for another model?"
        )
    if array.dtype != np.float32:
        raise ReellamaError(f"soft tokens are {array.dtype}, not float32: convert them first")
    if not np.isfinite(array).all():
        raise ReellamaError("soft tokens hold NaN or infinity: the projector's weights are broken")
    return np.ascontiguousarray(array)
