"""Read a SentencePiece `tokenizer.model` without the sentencepiece package.

The file is a protocol buffer, a sequence of numbered fields:
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto and
https://protobuf.dev/programming-guides/encoding/

The sentencepiece package does not serve here. Its `SentencePieceProcessor` reports neither the kind
of model, nor the dummy prefix, nor which pieces a user defined. Its protobuf classes do, but each
release needs a recent protobuf (0.2.3 needs 7.36.1), which often conflicts with other packages, and
they accept texts that are not UTF-8 and unknown types.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType

from reellama.gguf_tools.errors import ReellamaError

Value = int | float | bytes

PIECES, TRAINER, NORMALIZER = 1, 2, 3  # of ModelProto
PIECE, SCORE, TYPE = 1, 2, 3  # of SentencePiece; its types are numbered as llama.cpp's
MODEL_TYPE, BPE = 3, 2  # of TrainerSpec
ADD_DUMMY_PREFIX = 3  # of NormalizerSpec
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5  # wire types


@dataclass(frozen=True)
class SentencePieceVocabulary:
    """A SentencePiece vocabulary: texts, scores and types by token id."""

    texts: list[str]
    scores: list[float]
    types: list[TokenType]
    add_dummy_prefix: bool  # a space in front of every text


def read(path: Path) -> SentencePieceVocabulary:
    """Read a tokenizer.model. Raises ReellamaError if it is damaged or not a BPE model."""
    texts, scores, types = [], [], []
    dummy = True  # the format's default, as is the next
    kind: Value = 1  # Unigram
    try:
        for number, value in _fields(path.read_bytes()):
            if number == PIECES and isinstance(value, bytes):
                piece: dict[int, Any] = dict(_fields(value))
                texts.append(piece[PIECE].decode())
                scores.append(float(piece.get(SCORE, 0.0)))
                types.append(TokenType(piece.get(TYPE, TokenType.NORMAL)))
            elif number == TRAINER and isinstance(value, bytes):
                kind = next((v for n, v in _fields(value) if n == MODEL_TYPE), kind)
            elif number == NORMALIZER and isinstance(value, bytes):
                dummy = bool(dict(_fields(value)).get(ADD_DUMMY_PREFIX, True))
    except (AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise ReellamaError(f"{path} is damaged; download it again") from error
    if kind != BPE or not texts:
        raise ReellamaError(f"{path}: only SentencePiece models of the kind BPE are known")
    return SentencePieceVocabulary(texts, scores, types, dummy)


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """The fields of a message: their numbers and values."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        value: Value
        if kind == VARINT:
            value, position = _varint(data, position)
        elif kind == FOUR_BYTES:
            (value,) = struct.unpack_from("<f", data, position)
            position += 4
        elif kind in (LENGTH, EIGHT_BYTES):
            size, position = _varint(data, position) if kind == LENGTH else (8, position)
            value = data[position : position + size]
            if len(value) < size:
                raise ValueError("cut off")
            position += size
        else:
            raise ValueError("no such wire type")
        yield key >> 3, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
        if shift > 63:
            raise ValueError("a number is too long")
