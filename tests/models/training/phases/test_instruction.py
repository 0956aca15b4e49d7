"""Training on clips: what is taught, and what counts in the losses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.projector import slots
from reellama.models.projector.config import ProjectorConfig
from reellama.models.projector.temporal_projector import Projector
from reellama.models.synthetic.dataset import SyntheticClips, SyntheticConfig
from reellama.models.training.batches import IGNORED, Conversations
from reellama.models.training.collate import ConversationCollator, slot_vocabulary
from reellama.models.training.frozen_llm import FrozenLLM
from reellama.models.training.phases.instruction import InstructionPhases
from reellama.models.training.phases.phase_config import (
    ClipPhaseConfig,
    LoraConfig,
    TextPhaseConfig,
)
from reellama.models.vision.encoder import Tower
from reellama.models.vision.imagenet_labels import (
    N_TOKENS,
    NAME_TOKENS,
    TOP_CLASSES,
    ImageNetClassifier,
    class_names,
    name_ids,
)
from tests.helpers.small_tower import write_small_tower

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def llm(small_llm: Path) -> FrozenLLM:
    return FrozenLLM(small_llm)


@pytest.fixture(scope="module")
def collator(llm: FrozenLLM) -> ConversationCollator:
    config = SyntheticConfig(styles=("shapes",), style_weights=(1.0,))
    words = slot_vocabulary(SyntheticClips(config, 32, Path()), llm.tokenizer, 300, sampled=20)
    return ConversationCollator(
        llm.tokenizer, llm.template, "You watch.", tokens=slots.N_SLOT_TOKENS + 3, words=words
    )  # fmt: skip


def test_only_answers_and_the_ends_of_their_turns_are_learned(
    collator: ConversationCollator, llm: FrozenLLM
) -> None:
    turns = [("What is it?", "A red ball."), ("Which way?", "It moves left.")]
    ids, labels = collator.conversation(turns)
    said = [token for token in labels if token != IGNORED]
    end = llm.tokenizer.eos
    wanted = [*llm.tokenizer.encode("A red ball."), end]
    assert said == [*wanted, *llm.tokenizer.encode("It moves left."), end]
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))


def test_every_fact_of_a_clip_has_its_own_soft_tokens(collator: ConversationCollator) -> None:
    texts = ["one", "one", "stays still", "red ball", "moves down and left", "top left"]
    row = collator.targets([*texts, *[""] * (len(slots.SLOT_WIDTHS) - len(texts))])
    assert len(row) == slots.N_SLOT_TOKENS + 3
    words = [collator.words[number] if number != IGNORED else None for number in row]
    encode = collator.tokenizer.encode
    for text, (start, end) in zip(texts, slots.slot_spans(), strict=False):
        ids = encode(f" {text}")[: end - start]
        found = [word for word in words[start : start + len(ids)] if word is not None]
        assert found == [token for token in ids if token in collator.words]
        assert row[start + len(ids) : end] == [0] * (end - start - len(ids))
    assert row[slots.N_SLOT_TOKENS :] == [IGNORED] * 3


def test_a_projector_with_too_few_soft_tokens_for_slots_is_refused(llm: FrozenLLM) -> None:
    with pytest.raises(ReellamaError, match=f"need {slots.N_SLOT_TOKENS} soft tokens"):
        ConversationCollator(llm.tokenizer, llm.template, "", tokens=8, words=[0])


def instruction_phases(
    llm: FrozenLLM, clips: SyntheticClips, folder: Path, *, separate_turns: bool = False
) -> InstructionPhases:
    words = slot_vocabulary(clips, llm.tokenizer, 64, sampled=8)
    collator = ConversationCollator(
        llm.tokenizer, llm.template, "", tokens=slots.N_SLOT_TOKENS, words=words,
        separate_turns=separate_turns,
    )  # fmt: skip
    projector = Projector(ProjectorConfig(
        tokens=slots.N_SLOT_TOKENS, n_embd=llm.n_embd, channels=32, cells=4, words=len(words),
        width=16, heads=2, layers=1,
    ))  # fmt: skip
    tower = Tower.load(str(write_small_tower(folder / "tower")))
    config = LoraConfig(rank=2, separate_turns=separate_turns)
    return InstructionPhases(
        clips, clips, tower, llm, collator, projector, config, folder, workers=0
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_loss_in_parts_is_the_loss_of_the_whole(
    size: int, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, config = FrozenLLM(tiny_llama), SyntheticConfig(styles=("shapes",), style_weights=(1.0,))
    clips = SyntheticClips(config, 32, Path())
    training = instruction_phases(llm, clips, tmp_path)
    batch = training.collator([clips[number] for number in range(5)])
    soft = torch.randn(5, slots.N_SLOT_TOKENS, llm.n_embd)
    losses = []
    for rows in (5, size):
        monkeypatch.setattr("reellama.models.training.objectives.LLM_BATCH", rows)
        losses.append(training.answers.loss(soft, batch.conversations).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_oracle_soft_tokens_are_those_of_a_perfect_projector(
    tiny_llama: Path, tmp_path: Path
) -> None:
    llm, config = FrozenLLM(tiny_llama), SyntheticConfig(styles=("shapes",), style_weights=(1.0,))
    clips = SyntheticClips(config, 32, Path())
    training = instruction_phases(llm, clips, tmp_path)
    unseen, drawn = clips.without_video(3), clips[3]
    assert unseen["slots"] == drawn["slots"] and unseen["clip"].caption == drawn["clip"].caption
    assert unseen["frames"].numel() == 3, "nothing is drawn"
    batch = training.collator([unseen])
    soft = training.oracle_soft_tokens(batch)
    known = batch.targets[0] >= 0
    words = training.projector.word_mixture.embeddings[batch.targets[0][known]]
    assert torch.equal(soft[0, : slots.N_SLOT_TOKENS][known], words)


@pytest.mark.parametrize("oracle_fraction", [0.0, 1.0])
def test_a_frozen_projector_gives_way_to_oracle_soft_tokens_as_often_as_told(
    oracle_fraction: float, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = SyntheticClips(SyntheticConfig(styles=("shapes",), style_weights=(1.0,)), 32, Path())
    training = instruction_phases(FrozenLLM(tiny_llama), clips, tmp_path)
    training.config = dataclasses.replace(
        training.config, freeze_projector=True, oracle_fraction=oracle_fraction
    )
    batch = training.collator([clips[number] for number in range(4)])
    real, ideal = (
        torch.full((4, slots.N_SLOT_TOKENS, training.llm.n_embd), x) for x in (0.01, 0.02)
    )
    monkeypatch.setattr(training, "hidden", lambda batch: None)
    monkeypatch.setattr(training, "soft_tokens", lambda hidden, batch: real)
    monkeypatch.setattr(training, "oracle_soft_tokens", lambda batch: ideal)
    wanted = training.answers.loss(ideal if oracle_fraction else real, batch.conversations)
    assert training.joint_loss(batch).item() == wanted.item()


@pytest.mark.parametrize(
    ("weight", "weighted"),
    [("count_weight", (0, 1)), ("motion_weight", (slots.MOTION_SLOT, slots.THEN_SLOT))],
)
def test_some_slots_weigh_as_much_as_told_among_the_words(
    weight: str, weighted: tuple[int, int], tiny_llama: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    clips = SyntheticClips(SyntheticConfig(styles=("shapes",), style_weights=(1.0,)), 32, Path())
    training = instruction_phases(FrozenLLM(tiny_llama), clips, tmp_path)
    batch = training.collator([clips[number] for number in range(4)])
    hidden = torch.randn(4, batch.targets.shape[1], training.projector.config.width)
    monkeypatch.setattr(training, "hidden", lambda batch: hidden)

    def loss(share: float) -> float:
        changed: dict[str, Any] = {weight: share}
        training.config = dataclasses.replace(training.config, **changed)
        return training.slot_loss(batch)[0].item()

    wanted = batch.targets
    logits = training.projector.word_mixture.logits(hidden).float()
    plain = F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
    assert loss(1.0) == pytest.approx(plain.item(), rel=1e-5)
    places = [place for slot in weighted for place in range(*slots.slot_spans()[slot])]
    chosen = F.cross_entropy(logits[:, places].flatten(0, 1), wanted[:, places].flatten())
    share = (wanted[:, places] >= 0).sum().item() / (wanted >= 0).sum().item()
    assert loss(6.0) - loss(1.0) == pytest.approx(5 * chosen.item() * share, rel=1e-4)


def test_a_validation_is_without_dropout_whatever_a_phase_trains(
    tiny_llama: Path, tmp_path: Path
) -> None:
    clips = SyntheticClips(SyntheticConfig(styles=("shapes",), style_weights=(1.0,)), 32, Path())
    training = instruction_phases(FrozenLLM(tiny_llama), clips, tmp_path)
    training.config = dataclasses.replace(
        training.config, validation_clips=4, kl_texts=2, kl_tokens=64, kl_batch=1
    )
    dropped: list[bool] = []
    training.projector.pooler.register_forward_hook(
        lambda body, *_: dropped.append(any(module.training for module in body.modules()))
    )
    training.align(ClipPhaseConfig(steps=0))
    training.text_only(TextPhaseConfig(steps=1, batch=1))
    assert dropped and not any(dropped)


def test_labels_are_the_names_of_the_likeliest_classes(
    llm: FrozenLLM, small_llm: Path, tmp_path: Path
) -> None:
    ids = name_ids(llm.tokenizer.encode, llm.tokenizer.encode("\n")[0])
    ImageNetClassifier.of_imagenet(ids, llm.embed).save(tmp_path / "labels.safetensors")
    labels = ImageNetClassifier.load(tmp_path / "labels.safetensors", small_llm)
    features = np.random.default_rng(0).random((2, 36, 320), np.float32) * 3
    probabilities = labels.probabilities(features)
    assert probabilities.shape == (1000,)
    assert probabilities.sum() == pytest.approx(1, abs=1e-4)
    with torch.autocast("cpu", torch.bfloat16):  # training asks in it, and gets the same
        assert np.array_equal(labels.probabilities(features), probabilities)
    best = np.argsort(-probabilities)[:TOP_CLASSES]
    rows = labels.tokens(features)
    assert rows.shape == (N_TOKENS, llm.n_embd)
    wanted = llm.embed([token for number in best for token in ids[number]]).numpy()
    assert np.abs(rows - wanted).max() < 1e-6
    assert len(class_names()) == 1000 and NAME_TOKENS * TOP_CLASSES == N_TOKENS


def test_separate_turns_know_nothing_of_each_other(tiny_llama: Path, tmp_path: Path) -> None:
    llm, config = FrozenLLM(tiny_llama), SyntheticConfig(styles=("shapes",), style_weights=(1.0,))
    clips = SyntheticClips(config, 32, Path())
    turns = [("What is it?", "A red ball."), ("Which way?", "It moves left."), ("Why?", "No.")]
    losses = []
    soft = torch.randn(1, slots.N_SLOT_TOKENS, llm.n_embd)
    for apart, talks in ((True, [turns]), (False, [[turn] for turn in turns])):
        training = instruction_phases(llm, clips, tmp_path / str(apart), separate_turns=apart)
        batch = training.collator([clips[0]])
        lines = []
        for talk in talks:
            one = Conversations(*([column] for column in training.collator.tokenize_turns(talk)))
            logits, wanted, _ = training.answers.logits(soft, one)
            lines.append(F.cross_entropy(logits, wanted, reduction="none"))
        losses.append(torch.cat(lines))
        assert len(batch.conversations.ids) == 1
    assert torch.allclose(losses[0], losses[1], atol=1e-4)
