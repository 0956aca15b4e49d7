"""The soft tokens of a slot are read together: as one of the texts that the slot may say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.models.projector import slots
from reellama.models.projector.interpretation import (
    SlotReading,
    SoftToken,
    best_texts,
    slot_readings,
)
from reellama.models.synthetic.slot_choices import slot_choices
from reellama.models.synthetic.slot_targets import slot_texts
from tests.models.projector.test_slots import MAKERS, drawn


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Tokenizer:
    return Tokenizer.from_path(smollm2)


class Mixtures:
    """Words of soft tokens as a bundle mixes them: each slot is filled with several texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        texts = {text for texts in slot_choices() for text in texts if text}
        ids = {token for text in texts for token in tokenizer.encode(f" {text}")}
        self.word_ids = [tokenizer.encode("\n")[0], *sorted(ids)]
        rows = {token: row for row, token in enumerate(self.word_ids)}
        self.shares = torch.zeros(slots.N_SLOT_TOKENS, len(self.word_ids))
        self.rows = rows

    def fill(self, slot: int, text: str, share: float = 1.0) -> None:
        start, end = slots.slot_spans()[slot]
        ids = self.tokenizer.encode(f" {text}")[: end - start] if text else []
        for place in range(end - start):
            row = self.rows[ids[place]] if place < len(ids) else 0
            self.shares[start + place, row] += share

    def word(self, row: int) -> str:
        return self.tokenizer.piece(self.word_ids[row]).decode()

    def read(self) -> list[SlotReading]:
        choices = best_texts(self.shares.numpy(), slot_choices(), self.word_ids, self.tokenizer)
        tokens = [
            SoftToken(number, ((self.word(row), float(share)),), None)
            for number, (share, row) in enumerate(zip(*self.shares.max(1), strict=True))
        ]
        return slot_readings(tokens, choices)


@pytest.mark.parametrize("name", MAKERS)
def test_whatever_fills_a_slot_is_read_from_it(name: str, tokenizer: Tokenizer) -> None:
    listed = slot_choices()
    for seed in range(3):
        filled = slot_texts(drawn(name, seed))
        mixtures = Mixtures(tokenizer)
        assert all(text in texts for text, texts in zip(filled, listed, strict=True))
        for slot, text in enumerate(filled):
            mixtures.fill(slot, text)
        assert [reading.text for reading in mixtures.read()] == filled


def test_two_motions_in_doubt_give_one_of_them_and_no_word_of_both(tokenizer: Tokenizer) -> None:
    """ "spins" ends where "bounces" has its second half."""
    mixtures = Mixtures(tokenizer)
    for slot in range(len(slots.SLOT_WIDTHS)):
        mixtures.fill(slot, "", 0.001)
    mixtures.fill(slots.MOTION_SLOT, "spins", 0.45)
    mixtures.fill(slots.MOTION_SLOT, "bounces", 0.4)
    start, _ = slots.slot_spans()[slots.MOTION_SLOT]
    mixtures.shares[start + 1] *= 0.5
    mixtures.fill(slots.MOTION_SLOT + 1, "left")
    ounces = mixtures.rows[tokenizer.encode(" bounces")[1]]
    mixtures.shares[start + 1, ounces] += 0.3  # one by one: " spins" and "ounces"
    reading = mixtures.read()[slots.MOTION_SLOT]
    assert reading.tokens[0].words[0][0] + reading.tokens[1].words[0][0] == " spinsounces"
    assert reading.text == "bounces"


def test_a_name_is_said_once(tokenizer: Tokenizer) -> None:
    mixtures = Mixtures(tokenizer)
    for slot in range(len(slots.SLOT_WIDTHS)):
        mixtures.fill(slot, "", 0.01)
    for slot in slots.NAME_SLOTS[:3]:
        mixtures.fill(slot, "red star", 0.6)
    mixtures.fill(slots.NAME_SLOTS[1], "alarm clock", 0.3)
    names = [mixtures.read()[slot].text for slot in slots.NAME_SLOTS]
    assert names == ["red star", "alarm clock", "", ""]


def test_how_sure_it_is_comes_from_the_words_that_are_said(tokenizer: Tokenizer) -> None:
    mixtures = Mixtures(tokenizer)
    for slot in range(len(slots.SLOT_WIDTHS)):
        mixtures.fill(slot, "", 0.2)
    mixtures.fill(slots.CAMERA_SLOT, "zooms in", 0.7)
    reading = mixtures.read()[slots.CAMERA_SLOT]
    assert reading.text == "zooms in" and reading.confidence == pytest.approx(0.7)
    assert np.isclose(mixtures.read()[0].confidence, 0.2)
