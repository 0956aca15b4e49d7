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
AT_ONCE = 1 << 16  # tokens that are taken over before other threads may go on


def _remember(memory: dict[K, V], key: K, value: V, length: int) -> None:
    """Cache `value` for a text of `length` characters, unless that is long."""
    if length <= MAX_CACHED_LENGTH:
        if len(memory) >= MAX_CACHED_TEXTS:
            memory.clear()
        memory[key] = value


class Tokenizer(Closeable):
    """The tokenizer of a loaded model, or of a GGUF file alone (`Tokenizer.from_path`)."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._template = model.file.chat_template or ""
        # Caches: a template repeats the same texts in every conversation, and every turn repeats
        # the earlier turns, while llama.cpp's tokenizer is slow.
        self._special: dict[int, bool] = {}
        self._splits: dict[str, list[tuple[str, bool]]] = {}
        self._tokenized: dict[tuple[str, bool], list[int]] = {}
        self.n_vocab = int(llama.llama_vocab_n_tokens(model.vocab))
        self.bos = self._named(llama.llama_vocab_bos(model.vocab))  # begins a text
        self.eos = self._named(llama.llama_vocab_eos(model.vocab))  # ends a text
        # The tokens before the text before a gap, before the text after it, and before the answer
        # that fills the gap; None where the model was not trained for that.
        infill = (llama.llama_vocab_fim_pre, llama.llama_vocab_fim_suf, llama.llama_vocab_fim_mid)
        pre, suf, mid = (self._named(find(model.vocab)) for find in infill)
        self.infill: tuple[int, int, int] | None = None
        if pre is not None and suf is not None and mid is not None:
            self.infill = (pre, suf, mid)
        # Whether the model was trained with the token `bos` in front of every text.
        self.add_bos = self.bos is not None and bool(llama.llama_vocab_get_add_bos(model.vocab))

    @classmethod
    def from_path(cls, path: str | Path) -> "Tokenizer":
        """Load only the vocabulary of a GGUF file, which takes a fraction of a second."""
        return cls(load_model(path, vocab_only=True))

    def encode(self, text: str, *, special: bool = False, add_bos: bool = False) -> list[int]:
        """Return the token ids of `text`.

        With `special`, the names of special tokens in it (`<|im_end|>`) become these tokens;
        without, they are text like any other, which is how what a person typed must be encoded.
        With `add_bos`, the token `bos` comes first where the vocabulary has one.
        """
        ids = self._tokenize(text, parse_special=True) if special else self._encode_plain(text)
        return [self.bos, *ids] if add_bos and self.bos is not None else ids

    def encode_parts(self, parts: Iterable[tuple[str, bool]]) -> list[int]:
        """Return the token ids of parts (text, special) that follow one another without a gap.

        They are tokenized as one text would be: plain text on both sides of a boundary is joined,
        so that no space is put in between (SentencePiece puts one in front of every text) and
        merges happen across it. The text of a part that is not special still never becomes a
        special token.
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
        """Return the bytes of a token, which may be part of a character.

        Those of a special token are its name with `special`, and none without.
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
        """Return the text of token ids, special ones left out; broken UTF-8 becomes U+FFFD."""
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
        """Return the ids of the texts that are one token each, as `<|im_end|>` is in many."""
        found = (self.encode(name, special=True) for name in names)
        return [ids[0] for ids in found if len(ids) == 1]

    def is_eog(self, token: int) -> bool:
        """Whether this token ends a model's answer."""
        self._check(token)
        return bool(llama.llama_vocab_is_eog(self.model.vocab, token))

    def close(self) -> None:
        """Free the tokenizer's model."""
        self.model.close()

    def _tokenize(self, text: str, parse_special: bool) -> list[int]:
        """llama.cpp's tokenizer as it is, without the special tokens that a model begins with."""
        vocab = self.model.vocab  # first, since it raises for a closed model
        if (known := self._tokenized.get((text, parse_special))) is not None:
            return known.copy()
        data = text.encode("utf-8", "replace")  # a lone surrogate has no UTF-8
        size = len(data) + 8  # a token is a byte at least, but for the space in front
        tokens = (llama.llama_token * size)()
        count = llama.llama_tokenize(vocab, data, len(data), tokens, size, False, parse_special)
        if count < 0:
            size = -count
            tokens = (llama.llama_token * size)()
            count = llama.llama_tokenize(vocab, data, len(data), tokens, size, False, parse_special)
        ids: list[int] = []
        for i in range(0, count, AT_ONCE):
            ids += tokens[i : min(i + AT_ONCE, count)]
        _remember(self._tokenized, (text, parse_special), ids.copy(), len(text))
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        """Tokenize so that no special token comes out, even where llama.cpp would make one.

        Without `parse_special`, llama.cpp still makes those that a vocabulary calls user-defined,
        and those that SentencePiece's merges happen to spell. Their names are cut in two.
        """
        ids = self._tokenize(text, parse_special=False)
        special = next((token for token in ids if self._is_special(token)), None)
        if special is None:
            return ids
        name = self._name(special)
        if name not in text or len(name) < 2:  # it was written in another way: drop it
            return [token for token in ids if not self._is_special(token)]
        first, *rest = text.split(name)
        pieces = [first, *(name[1:] + piece for piece in rest)]
        for i in range(len(rest)):
            pieces[i] += name[0]
        return [token for piece in pieces for token in self._encode_plain(piece)]

    def _split(self, text: str) -> list[tuple[str, bool]]:
        """Split a template's text into the names of special tokens and what is between them."""
        if (pieces := self._splits.get(text)) is None:
            pieces = list(self._split_anew(text))
            _remember(self._splits, text, pieces, len(text))
        return pieces

    def _split_anew(self, text: str) -> Iterator[tuple[str, bool]]:
        """`_split` without its cache."""
        tokens = {token for token in self._tokenize(text, True) if self._is_special(token)}
        names = {self._name(token): self._attributes(token) for token in tokens}
        if not names:
            yield text, False
            return
        longest_first = sorted(map(re.escape, names), key=len, reverse=True)
        before, *rest = re.split(f"({'|'.join(longest_first)})", text)
        for name, after in zip(rest[::2], rest[1::2], strict=True):
            # Some tokens take the white space beside them with them, as Phi's do.
            yield before.rstrip() if names[name] & LSTRIP else before, False
            yield name, True
            before = after.lstrip() if names[name] & RSTRIP else after
        yield before, False

    def _is_special(self, token: int) -> bool:
        """Whether a token steers the model: it must come from the template or the model alone."""
        if (special := self._special.get(token)) is None:
            special = self._special[token] = self._steers(token)
        return special

    def _steers(self, token: int) -> bool:
        """`_is_special` without its cache."""
        attributes = self._attributes(token)
        if attributes & (CONTROL | UNKNOWN) or self.is_eog(token):
            return True
        if not attributes & USER_DEFINED:
            return False
        # Vocabularies call runs of newlines and HTML tags user-defined as well, and these are text.
        name = self._name(token)
        return bool(name.strip()) and name in self._template

    def _attributes(self, token: int) -> int:
        return int(llama.llama_vocab_get_attr(self.model.vocab, token))

    def _name(self, token: int) -> str:
        return self.piece(token, special=True).decode("utf-8", "replace")

    def _named(self, token: int) -> int | None:
        return token if 0 <= token < self.n_vocab else None

    def _check(self, token: int) -> None:
        """Keep ids that are out of range from llama.cpp, which would abort the process."""
        if not 0 <= token < self.n_vocab:
            raise IndexError(f"token ids go from 0 to {self.n_vocab - 1}, not {token}")
