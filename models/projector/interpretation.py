"""Interpret the soft tokens of a video: their words, and their attention over cells of frames.

    bundle = Bundle.load("mini")
    features = bundle.features(clip.frames)
    for reading in bundle.interpret(features, clip.times):
        print(reading.label, reading.text, reading.confidence)

A soft token is a mixture of the LLM's word embeddings, so its words can be read. Its attention is
that of its query, averaged over heads and blocks. Attention need not explain a decision (Jain and
Wallace, 2019), and before it the encoder mixes the cells. Still, of two objects the token of a name
attends to its own (tests/models/projector/test_interpretation.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.models.projector import slots

TOP_WORDS = 5  # how many of a soft token's most likely words are reported
FREE_SLOT, IMAGENET = "free", "ImageNet"  # labels of soft tokens outside of slots


@dataclass(frozen=True, eq=False)
class SoftToken:
    """One soft token of a video.

    Attributes:
        number: index of the token in the prompt's order, from 0.
        words: its most likely words and their shares of the mixture, in descending order.
        attention: float32 `[T, cells]` with the sum 1; None for tokens of ImageNet labels.
    """

    number: int
    words: tuple[tuple[str, float], ...]
    attention: np.ndarray | None

    @property
    def is_blank(self) -> bool:
        """Whether it is padding: a line break, which fills up a slot."""
        return not self.words[0][0].strip()


@dataclass(frozen=True, eq=False)
class SlotReading:
    """The soft tokens of one slot, read by their most likely words.

    Attributes:
        label: the slot's name; "free" for tokens after the slots, "ImageNet" for a label of the
            classifier, and "" in a bundle without slots, where every soft token is a reading.
        tokens: the soft tokens of the slot.
        name: the whole ImageNet label, of which the tokens may be only the beginning; else "".
        choice: of the texts that the slot may hold, the one that fits its tokens best, and the
            share of each of its words. None where the texts are unknown. The most likely words one
            by one may mix several such texts.
    """

    label: str
    tokens: tuple[SoftToken, ...]
    name: str = ""
    choice: tuple[str, tuple[float, ...]] | None = None

    @property
    def word_tokens(self) -> tuple[SoftToken, ...]:
        """The tokens before the first blank one."""
        if self.choice is not None:
            return self.tokens[: len(self.choice[1])] if self.choice[0] else ()
        blank = [token.is_blank for token in self.tokens]
        return self.tokens[: blank.index(True) if any(blank) else None]

    @property
    def text(self) -> str:
        """The most likely words as text; "" for an empty slot."""
        if self.choice is not None:
            return self.choice[0]
        return self.name or "".join(token.words[0][0] for token in self.word_tokens).strip(" ,")

    @property
    def token_range(self) -> str:
        """The numbers of its soft tokens: `5-9`."""
        first, last = self.tokens[0].number, self.tokens[-1].number
        return f"{first}-{last}" if first < last else str(first)

    @property
    def confidence(self) -> float:
        """The share of the least likely word."""
        if self.choice is not None:
            return min(self.choice[1])
        return min(token.words[0][1] for token in self.word_tokens or self.tokens)

    @property
    def attention(self) -> np.ndarray | None:
        """The mean attention of the tokens that are not blank, float32 [T, cells]."""
        maps = [
            token.attention
            for token in self.word_tokens or self.tokens
            if token.attention is not None
        ]
        return np.mean(maps, axis=0) if maps else None

    def to_json(self) -> dict[str, Any]:
        """JSON values for `inspect --json`."""
        return {
            "slot": self.label,
            "text": self.text,
            "confidence": round(self.confidence, 4),
            "tokens": [
                {
                    "number": token.number,
                    "words": [[word, round(share, 4)] for word, share in token.words],
                    "attention": (
                        None if token.attention is None else token.attention.round(5).tolist()
                    ),
                }
                for token in self.tokens
            ],
        }


def top_words(probabilities: np.ndarray) -> list[list[tuple[int, float]]]:
    """Probabilities `[tokens, words]` -> for each token, its most likely words by number and their
    probabilities, in descending order."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP_WORDS]  # [tokens, TOP_WORDS]
    shares = np.take_along_axis(probabilities, order, axis=1)
    return [
        [*zip(words, word_shares, strict=True)]
        for words, word_shares in zip(order.tolist(), shares.tolist(), strict=True)
    ]


def interpret(
    word_probabilities: np.ndarray,
    attention: np.ndarray,
    *,
    word_ids: Sequence[int],
    llm: Path,
    slot_texts: Sequence[Sequence[str]] | None,
    top_classes: Sequence[tuple[str, float, Sequence[int]]] = (),
) -> list[SlotReading]:
    """Read the soft tokens of one video.

    Args:
        word_probabilities, attention: of the soft tokens, `[tokens, words]` and
            `[tokens, T, cells]`.
        word_ids: the LLM's token id of each row of the word mixture.
        llm: the GGUF whose tokenizer has the words.
        slot_texts: the texts that each slot of `reellama.models.projector.slots` may hold; None in
            a bundle without slots.
        top_classes: name, share and token ids of each ImageNet label that follows.
    """
    with Tokenizer.from_path(llm) as tokenizer:
        tokens = [
            SoftToken(
                number,
                tuple((_text(tokenizer, word_ids[word]), share) for word, share in row),
                attention[number],
            )
            for number, row in enumerate(top_words(word_probabilities))
        ]
        if slot_texts is None:
            readings = [SlotReading("", (token,)) for token in tokens]
        else:
            choices = best_texts(word_probabilities, slot_texts, word_ids, tokenizer)
            readings = slot_readings(tokens, choices)
        return [*readings, *imagenet_readings(top_classes, len(tokens), tokenizer)]


def nearest_rows(embeddings: np.ndarray, vocabulary: np.ndarray) -> list[int]:
    """For each of `embeddings [N, n_embd]`, the nearest row of `vocabulary [V, n_embd]` by
    cosine."""
    lengths = np.linalg.norm(vocabulary, axis=1, keepdims=True)
    similarity = embeddings @ (vocabulary / np.maximum(lengths, 1e-12)).T  # [N, V]
    return [int(row) for row in similarity.argmax(1)]


def _text(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.piece(token).decode("utf-8", "replace")


def slot_readings(
    tokens: Sequence[SoftToken], choices: Sequence[tuple[str, tuple[float, ...]]]
) -> list[SlotReading]:
    """One reading for each slot, then one for each free token.

    choices: text and word shares of each slot, from `best_texts`.
    """
    spans = zip(slots.slot_names(), slots.slot_spans(), choices, strict=True)
    readings = [
        SlotReading(name, tuple(tokens[start:end]), choice=choice)
        for name, (start, end), choice in spans
    ]
    free = tokens[slots.N_SLOT_TOKENS :]
    return [*readings, *(SlotReading(FREE_SLOT, (token,)) for token in free)]


def best_texts(
    probabilities: np.ndarray,
    slot_texts: Sequence[Sequence[str]],
    word_ids: Sequence[int],
    tokenizer: Tokenizer,
) -> list[tuple[str, tuple[float, ...]]]:
    """For each slot, the text that fits its soft tokens best, and the share of each of its words.

    The fit is the product of the probabilities of the text's words, padded with line breaks. A
    name is used only once, because of equal objects only one is described.

    Args:
        probabilities: of the words in the soft tokens, `[tokens, words]`.
        slot_texts: the texts that each slot may hold.
        word_ids: the LLM's token id of each word.
        tokenizer: the LLM's.
    """
    rows = {token: row for row, token in enumerate(word_ids)}
    blank = rows[tokenizer.encode("\n")[0]]
    choices: list[tuple[str, tuple[float, ...]]] = []
    names: set[str] = set()
    spans = zip(slot_texts, slots.slot_spans(), strict=True)
    for slot, (texts, (start, end)) in enumerate(spans):
        shares = probabilities[start:end]  # [width, words]
        best, best_fit = "", -np.inf
        best_shares: tuple[float, ...] = (0.0,)
        for text in texts:
            ids = tokenizer.encode(f" {text}")[: end - start] if text else []
            if text in names or not all(token in rows for token in ids):
                continue
            words = [rows[token] for token in ids] + [blank] * (end - start - len(ids))
            word_shares = shares[np.arange(end - start), words]
            fit = float(np.log(np.maximum(word_shares, 1e-30)).sum())
            if fit > best_fit:
                best, best_fit = text, fit
                best_shares = tuple(map(float, word_shares[: max(1, len(ids))]))
        if slot in slots.NAME_SLOTS and best:
            names.add(best)
        choices.append((best, best_shares))
    return choices


def imagenet_readings(
    top_classes: Sequence[tuple[str, float, Sequence[int]]], first: int, tokenizer: Tokenizer
) -> list[SlotReading]:
    """One reading for each ImageNet label.

    top_classes: name, share and token ids of each label. first: number of the first token.
    """
    readings = []
    for name, share, ids in top_classes:
        tokens = [
            SoftToken(first + number, ((_text(tokenizer, token), share),), None)
            for number, token in enumerate(ids)
        ]
        readings.append(SlotReading(IMAGENET, tuple(tokens), name))
        first += len(ids)
    return readings
