"""Convert text to token ids and back, with llama.cpp's own tokenizer."""

import ctypes
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import llama_cpp.llama_cpp as llama

from reellama.gguf_tools.closeable import Closeable
from reellama.gguf_tools.runtime.backend import Model, load_model

# Attributes of tokens, of enum llama_token_attr.
UNKNOWN, CONTROL, USER_DEFINED, LSTRIP, RSTRIP = 1, 8, 16, 128, 256
K = TypeVar("K")
V = TypeVar("V")
# Limits of a tokenizer's cache: texts, and characters of a text.
MAX_CACHED_TEXTS, MAX_CACHED_LENGTH = 1024, 500
AT_ONCE = 1 << 16  # tokens copied while other threads wait for the interpreter lock


def _cache(cache: dict[K, V], key: K, value: V, length: int) -> None:
    """Cache `value` for a text of `length` characters, unless the text is long."""
    if length <= MAX_CACHED_LENGTH:
        if len(cache) >= MAX_CACHED_TEXTS:
            cache.clear()
        cache[key] = value


class Tokenizer(Closeable):
    """The tokenizer of a loaded model, or of a GGUF file (`Tokenizer.from_path`).

    Attributes:
        bos, eos: the tokens that begin and end a text, or None.
        infill: the tokens before the text before a gap, before the text after the gap, and before
            the answer that fills the gap; None for a model not trained to fill gaps.
        add_bos: whether the model was trained with `bos` in front of each text.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._template = model.file.chat_template or ""
        # Caches, because llama.cpp's tokenizer is slow, each conversation has the same texts of the
        # template, and each turn repeats the earlier turns.
        self._special: dict[int, bool] = {}
        self._splits: dict[str, list[tuple[str, bool]]] = {}
        self._tokenized: dict[tuple[str, bool], list[int]] = {}
        self.n_vocab = int(llama.llama_vocab_n_tokens(model.vocab))
        self.bos = self._valid(llama.llama_vocab_bos(model.vocab))
        self.eos = self._valid(llama.llama_vocab_eos(model.vocab))
        infill = (llama.llama_vocab_fim_pre, llama.llama_vocab_fim_suf, llama.llama_vocab_fim_mid)
        pre, suf, mid = (self._valid(token_of(model.vocab)) for token_of in infill)
        self.infill: tuple[int, int, int] | None = None
        if pre is not None and suf is not None and mid is not None:
            self.infill = (pre, suf, mid)
        self.add_bos = self.bos is not None and bool(llama.llama_vocab_get_add_bos(model.vocab))

    @classmethod
    def from_path(cls, path: str | Path) -> "Tokenizer":
        """Load only the vocabulary of a GGUF file, which takes a fraction of a second."""
        return cls(load_model(path, vocab_only=True))

    def encode(self, text: str, *, special: bool = False, add_bos: bool = False) -> list[int]:
        """The token ids of `text`.

        Args:
            special: whether names of special tokens, such as `<|im_end|>`, become these tokens.
                Text that a person typed must be encoded without.
            add_bos: put `bos` first, if the vocabulary has it.
        """
        ids = self._tokenize(text, parse_special=True) if special else self._encode_plain(text)
        return [self.bos, *ids] if add_bos and self.bos is not None else ids

    def encode_parts(self, parts: Iterable[tuple[str, bool]]) -> list[int]:
        """The token ids of consecutive parts, given as pairs of text and `special`.

        Plain text on both sides of a boundary is joined, so that merges happen across the boundary
        and SentencePiece, which puts a space in front of each text, puts none in between. The text
        of a part that is not special never becomes a special token.
        """
        runs: list[tuple[str, bool]] = []
        for text, special in parts:
            for piece, is_special in self._split(text) if special else [(text, False)]:
                if runs and not is_special and not runs[-1][1]:
                    runs[-1] = (runs[-1][0] + piece, False)
                elif piece:
                    runs.append((piece, is_special))
        return [token for text, special in runs for token in self.encode(text, special=special)]

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of a token, which may be a part of a character.

        A special token has the bytes of its name with `special`, and none without.
        """
        self._check(token)
        vocab = self.model.vocab
        size = 32
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama.llama_token_to_piece(vocab, token, buffer, size, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids without special tokens; invalid UTF-8 becomes U+FFFD."""
        for token in ids:
            self._check(token)
        vocab = self.model.vocab
        tokens = (llama.llama_token * len(ids))(*ids)
        size = 8 * len(ids) + 32
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama.llama_detokenize(vocab, tokens, len(ids), buffer, size, False, False)
            if length >= 0:
                return buffer.raw[:length].decode("utf-8", "replace")
            size = -length

    def single_tokens(self, names: Iterable[str]) -> list[int]:
        """The token ids of those names, such as `<|im_end|>`, that are a single token."""
        encoded = (self.encode(name, special=True) for name in names)
        return [ids[0] for ids in encoded if len(ids) == 1]

    def is_eog(self, token: int) -> bool:
        """Whether a token ends the model's answer."""
        self._check(token)
        return bool(llama.llama_vocab_is_eog(self.model.vocab, token))

    def close(self) -> None:
        """Free the tokenizer's model."""
        self.model.close()

    def _tokenize(self, text: str, parse_special: bool) -> list[int]:
        """The token ids by `llama_tokenize`, without special tokens at the beginning."""
        vocab = self.model.vocab  # first, as this raises for a closed model
        if (cached := self._tokenized.get((text, parse_special))) is not None:
            return cached.copy()
        data = text.encode("utf-8", "replace")  # a lone surrogate has no UTF-8
        size = len(data) + 8  # a token has at least one byte, except for a space in front
        tokens = (llama.llama_token * size)()
        count = llama.llama_tokenize(vocab, data, len(data), tokens, size, False, parse_special)
        if count < 0:
            size = -count
            tokens = (llama.llama_token * size)()
            count = llama.llama_tokenize(vocab, data, len(data), tokens, size, False, parse_special)
        ids: list[int] = []
        for i in range(0, count, AT_ONCE):
            ids += tokens[i : min(i + AT_ONCE, count)]
        _cache(self._tokenized, (text, parse_special), ids.copy(), len(text))
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        """Tokenize into plain tokens only.

        Even without `parse_special`, llama.cpp makes the special tokens that a vocabulary declares
        as user-defined, and those that SentencePiece's merges happen to spell. To avoid that, their
        names are cut in two and tokenized apart.
        """
        ids = self._tokenize(text, parse_special=False)
        special = next((token for token in ids if self._is_special(token)), None)
        if special is None:
            return ids
        name = self._name(special)
        if name not in text or len(name) < 2:  # spelled in another way: drop the token
            return [token for token in ids if not self._is_special(token)]
        first, *others = text.split(name)
        pieces = [first, *(name[1:] + piece for piece in others)]
        for i in range(len(others)):
            pieces[i] += name[0]
        return [token for piece in pieces for token in self._encode_plain(piece)]

    def _split(self, text: str) -> list[tuple[str, bool]]:
        """Split a template's text into plain text and names of special tokens (True), cached."""
        if (pieces := self._splits.get(text)) is None:
            pieces = list(self._split_uncached(text))
            _cache(self._splits, text, pieces, len(text))
        return pieces

    def _split_uncached(self, text: str) -> Iterator[tuple[str, bool]]:
        tokens = {token for token in self._tokenize(text, True) if self._is_special(token)}
        names = {self._name(token): self._attributes(token) for token in tokens}
        if not names:
            yield text, False
            return
        longest_first = sorted(map(re.escape, names), key=len, reverse=True)
        before, *pieces = re.split(f"({'|'.join(longest_first)})", text)
        for name, after in zip(pieces[::2], pieces[1::2], strict=True):
            # Some tokens, such as Phi's, include the white space beside them.
            yield before.rstrip() if names[name] & LSTRIP else before, False
            yield name, True
            before = after.lstrip() if names[name] & RSTRIP else after
        yield before, False

    def _is_special(self, token: int) -> bool:
        """Whether a token is reserved for the template and the model, cached."""
        if (special := self._special.get(token)) is None:
            special = self._special[token] = self._is_special_uncached(token)
        return special

    def _is_special_uncached(self, token: int) -> bool:
        attributes = self._attributes(token)
        if attributes & (CONTROL | UNKNOWN) or self.is_eog(token):
            return True
        if not attributes & USER_DEFINED:
            return False
        # Some vocabularies declare newlines and HTML tags as user-defined too, which are text.
        name = self._name(token)
        return bool(name.strip()) and name in self._template

    def _attributes(self, token: int) -> int:
        return int(llama.llama_vocab_get_attr(self.model.vocab, token))

    def _name(self, token: int) -> str:
        return self.piece(token, special=True).decode("utf-8", "replace")

    def _valid(self, token: int) -> int | None:
        return token if 0 <= token < self.n_vocab else None

    def _check(self, token: int) -> None:
        """Raise IndexError for an id out of range, for which llama.cpp would abort the process."""
        if not 0 <= token < self.n_vocab:
            raise IndexError(f"token ids go from 0 to {self.n_vocab - 1}, not {token}")
