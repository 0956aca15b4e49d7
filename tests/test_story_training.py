"""Training on stories: the adapter that llama.cpp gets is the one that was learned in PyTorch."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gguf_tools.errors import ReellamaError
from gguf_tools.find import resolve
from models import form
from models.bundle import Bundle
from models.labels import NAME_TOKENS, NAMED, TOKENS, Labels, class_names, name_ids
from models.llm import FrozenLLM
from models.material import EMOJI_PACKAGES
from models.optimise import StageConfig
from models.pictures import load_pictures
from models.projector import Projector, ProjectorConfig
from models.recipe import ProjectorChoice, Recipe, TowerChoice
from models.stream import Conversations, Stories, StoryConfig, all_kinds
from models.teach import IGNORED, Teacher, frequent_words
from models.tell import StoryTraining, TellConfig
from models.tower import Tower
from models.train import run
from pipeline.cli.train import read_video
from pipeline.engine import Engine
from tests.small_tower import write_small_tower


@pytest.fixture(scope="module")
def llm() -> FrozenLLM:
    return FrozenLLM(resolve("mini-llm"))


@pytest.fixture(scope="module")
def teacher(llm: FrozenLLM) -> Teacher:
    config = StoryConfig(styles=("shapes",), style_weights=(1.0,))
    words = frequent_words(Stories(config, 32, Path()), llm.tokenizer, 300, sampled=20)
    return Teacher(
        llm.tokenizer, llm.template, "You watch.", tokens=form.TOKENS + 3, words=words
    )  # fmt: skip


def test_only_answers_and_the_ends_of_their_turns_are_learned(
    teacher: Teacher, llm: FrozenLLM
) -> None:
    turns = [("What is it?", "A red ball."), ("Which way?", "It moves left.")]
    ids, labels = teacher.conversation(turns)
    said = [token for token in labels if token != IGNORED]
    end = llm.tokenizer.eos
    wanted = [*llm.tokenizer.encode("A red ball."), end]
    assert said == [*wanted, *llm.tokenizer.encode("It moves left."), end]
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))


def test_every_fact_of_a_story_has_its_own_soft_tokens(teacher: Teacher) -> None:
    fields = ["one", "one", "stays still", "red ball", "moves down and left", "top left"]
    row = teacher.targets([*fields, *[""] * (len(form.WIDTHS) - len(fields))])
    assert len(row) == form.TOKENS + 3
    words = [teacher.words[number] if number != IGNORED else None for number in row]
    said = teacher.tokenizer.encode
    for text, (start, end) in zip(fields, form.spans(), strict=False):
        ids = said(f" {text}")[: end - start]
        found = [word for word in words[start : start + len(ids)] if word is not None]
        assert found == [token for token in ids if token in teacher.words]
        assert row[start + len(ids) : end] == [0] * (end - start - len(ids))
    assert row[form.TOKENS :] == [IGNORED] * 3


def test_a_projector_with_too_few_soft_tokens_for_stories_is_refused(llm: FrozenLLM) -> None:
    with pytest.raises(ReellamaError, match=f"need {form.TOKENS} soft tokens"):
        Teacher(llm.tokenizer, llm.template, "", tokens=8, words=[0])


def story_training(
    llm: FrozenLLM, stories: Stories, folder: Path, *, apart: bool = False
) -> StoryTraining:
    words = frequent_words(stories, llm.tokenizer, 64, sampled=8)
    teacher = Teacher(
        llm.tokenizer, llm.template, "", tokens=form.TOKENS, words=words, apart=apart
    )  # fmt: skip
    projector = Projector(ProjectorConfig(
        tokens=form.TOKENS, n_embd=llm.n_embd, words=len(words), width=16, heads=2, layers=1
    ))  # fmt: skip
    tower = Tower.load(str(write_small_tower(folder / "tower")))
    config = TellConfig(rank=2, apart=apart)
    return StoryTraining(
        stories, stories, tower, llm, teacher, projector, config, folder, workers=0
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_loss_in_parts_is_the_loss_of_the_whole(
    size: int, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, config = FrozenLLM(tiny_llama), StoryConfig(styles=("shapes",), style_weights=(1.0,))
    stories = Stories(config, 32, Path())
    training = story_training(llm, stories, tmp_path)
    batch = training.teacher([stories[number] for number in range(5)])
    soft = torch.randn(5, form.TOKENS, llm.n_embd)
    losses = []
    for rows in (5, size):
        monkeypatch.setattr("models.tell.SIDE_BY_SIDE", rows)
        losses.append(training._answer_loss(soft, batch).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_studied_form_is_the_one_that_a_perfect_projector_would_fill(
    tiny_llama: Path, tmp_path: Path
) -> None:
    llm, config = FrozenLLM(tiny_llama), StoryConfig(styles=("shapes",), style_weights=(1.0,))
    stories = Stories(config, 32, Path())
    training = story_training(llm, stories, tmp_path)
    unseen, drawn = stories.unseen(3), stories[3]
    assert unseen["form"] == drawn["form"] and unseen["story"].caption == drawn["story"].caption
    assert unseen["frames"].numel() == 3, "nothing is drawn"
    batch = training.teacher([unseen])
    soft = training._ideal(batch)
    known = batch.targets[0] >= 0
    words = training.projector.words.embeddings[batch.targets[0][known]]
    assert torch.equal(soft[0, : form.TOKENS][known], words)


@pytest.mark.parametrize("faultless", [0.0, 1.0])
def test_a_frozen_projector_gives_way_to_faultless_forms_as_often_as_told(
    faultless: float, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stories = Stories(StoryConfig(styles=("shapes",), style_weights=(1.0,)), 32, Path())
    training = story_training(FrozenLLM(tiny_llama), stories, tmp_path)
    training.config = dataclasses.replace(training.config, frozen=True, faultless=faultless)
    batch = training.teacher([stories[number] for number in range(4)])
    real, ideal = (torch.full((4, form.TOKENS, training.llm.n_embd), x) for x in (0.01, 0.02))
    monkeypatch.setattr(training, "hidden", lambda batch: None)
    monkeypatch.setattr(training, "_soft", lambda hidden, batch: real)
    monkeypatch.setattr(training, "_ideal", lambda batch: ideal)
    wanted = training._answer_loss(ideal if faultless else real, batch)
    assert training._told_loss(batch).item() == wanted.item()


@pytest.mark.parametrize(
    ("weight", "fields"),
    [("count_weight", (0, 1)), ("motion_weight", (form.MOTION, form.THEN))],
)
def test_some_fields_weigh_as_much_as_told_among_the_words(
    weight: str, fields: tuple[int, int], tiny_llama: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    stories = Stories(StoryConfig(styles=("shapes",), style_weights=(1.0,)), 32, Path())
    training = story_training(FrozenLLM(tiny_llama), stories, tmp_path)
    batch = training.teacher([stories[number] for number in range(4)])
    hidden = torch.randn(4, batch.targets.shape[1], training.projector.config.width)
    monkeypatch.setattr(training, "hidden", lambda batch: hidden)

    def loss(share: float) -> float:
        changed: dict[str, Any] = {weight: share}
        training.config = dataclasses.replace(training.config, **changed)
        return training._word_loss(batch)[0].item()

    wanted = batch.targets
    logits = training.projector.words.logits(hidden).float()
    plain = F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
    assert loss(1.0) == pytest.approx(plain.item(), rel=1e-5)
    places = [place for field in fields for place in range(*form.spans()[field])]
    chosen = F.cross_entropy(logits[:, places].flatten(0, 1), wanted[:, places].flatten())
    share = (wanted[:, places] >= 0).sum().item() / (wanted >= 0).sum().item()
    assert loss(6.0) - loss(1.0) == pytest.approx(5 * chosen.item() * share, rel=1e-4)


def test_a_file_that_pytorch_would_read_wrongly_is_refused(
    tiny_llama: Path, tmp_path: Path
) -> None:
    name = b"llama.attention.head_count_kv"
    data = tiny_llama.read_bytes()
    other = tmp_path / "without.gguf"
    other.write_bytes(data.replace(name, name[:-2] + b"xx"))
    with pytest.raises(ReellamaError, match="lacks llama.attention.head_count_kv"):
        FrozenLLM(other)


def test_labels_are_the_names_of_the_likeliest_classes(llm: FrozenLLM, tmp_path: Path) -> None:
    ids = name_ids(llm.tokenizer.encode, llm.tokenizer.encode("\n")[0])
    Labels.of_imagenet(ids, llm.embed).save(tmp_path / "labels.safetensors")
    labels = Labels.load(tmp_path / "labels.safetensors", resolve("mini-llm"))
    features = np.random.default_rng(0).random((2, 36, 320), np.float32) * 3
    probabilities = labels.probabilities(features)
    assert probabilities.shape == (1000,)
    assert probabilities.sum() == pytest.approx(1, abs=1e-4)
    best = np.argsort(-probabilities)[:NAMED]
    rows = labels.tokens(features)
    assert rows.shape == (TOKENS, llm.n_embd)
    wanted = llm.embed([token for number in best for token in ids[number]]).numpy()
    assert np.abs(rows - wanted).max() < 1e-6
    assert len(class_names()) == 1000 and NAME_TOKENS * NAMED == TOKENS


def test_a_recipe_with_stories_makes_a_bundle_and_goes_on_after_a_stop(
    tiny_llama: Path, tmp_path: Path
) -> None:
    tower = write_small_tower(tmp_path / "tower")
    stage = StageConfig(steps=2, batch=2, stills=2, every=1)
    recipe = Recipe(
        name="told",
        llm=str(tiny_llama),
        tower=TowerChoice(name=str(tower)),
        projector=ProjectorChoice(tokens=60, words=64, width=16, layers=1, heads=2, encoder=1),
        stories=StoryConfig(styles=("shapes",), style_weights=(1.0,), frames=3, fewest_frames=2),
        see=stage,
        tell=stage,
        adapter=TellConfig(rank=2, kept_texts=2, kept_tokens=64, kept_batch=1, validated=8),
    )
    lines: list[str] = []

    def train(recipe: Recipe) -> Bundle:
        return run(
            recipe, tmp_path / "out", work=tmp_path / "work", read_video=read_video,
            report=lines.append,
        )  # fmt: skip

    train(dataclasses.replace(recipe, tell=dataclasses.replace(stage, steps=1)))
    bundle = train(recipe)
    assert any("tell: going on at step 1" in line for line in lines)
    assert [path.name for path, _ in bundle.lora] == ["adapter.gguf"]
    frames = [np.zeros((20, 20, 3), np.uint8)] * 3
    soft = bundle.encode(frames, np.arange(3.0))
    assert soft.shape == (60, bundle.n_embd)
    with Engine(tiny_llama, n_ctx=128, lora=bundle.lora) as engine:
        assert engine.prefill([soft]).n_read == 60


def test_training_begins_with_the_bundle_that_a_recipe_names(
    tiny_llama: Path, tmp_path: Path
) -> None:
    tower = write_small_tower(tmp_path / "tower")
    stage = StageConfig(steps=1, batch=2, learning_rate=0.0, weight_decay=0.0)
    first = Recipe(
        name="first",
        llm=str(tiny_llama),
        tower=TowerChoice(name=str(tower)),
        projector=ProjectorChoice(tokens=60, words=64, width=16, layers=1, heads=2),
        stories=StoryConfig(styles=("shapes",), style_weights=(1.0,), frames=3, fewest_frames=2),
        see=dataclasses.replace(stage, learning_rate=1e-2),
        tell=dataclasses.replace(stage, learning_rate=1e-2),
        adapter=TellConfig(rank=2, kept_texts=2, kept_tokens=64, kept_batch=1, validated=4),
    )

    def train(recipe: Recipe) -> Bundle:
        folder = tmp_path / recipe.name
        return run(
            recipe, folder, work=tmp_path / f"{recipe.name}-work", read_video=read_video,
            report=lambda line: None,
        )  # fmt: skip

    begun = train(first)
    again = train(dataclasses.replace(
        first, name="again", tower=TowerChoice(), start=str(tmp_path / "first"),
        see=stage, tell=stage, seed=7,
    ))  # fmt: skip
    for name, wanted in begun.projector.state_dict().items():
        assert torch.equal(again.projector.state_dict()[name], wanted), name
    adapters = [bundle.lora[0][0].read_bytes() for bundle in (begun, again)]
    assert adapters[0] == adapters[1]
    weights = [bundle.folder / "tower" / "open_clip_model.safetensors" for bundle in (begun, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes(), "the tower is taken over"
    assert again.config.training["before"] == begun.config.training
    frozen = dataclasses.replace(first.adapter, frozen=True, apart=True)
    only = train(dataclasses.replace(
        first, name="only", tower=TowerChoice(), start=str(tmp_path / "first"), see=stage,
        adapter=frozen,
    ))  # fmt: skip
    for name, wanted in begun.projector.state_dict().items():
        assert torch.equal(only.projector.state_dict()[name], wanted), name
    assert only.lora[0][0].read_bytes() != adapters[0]
    none = StageConfig(steps=0)
    studied = train(dataclasses.replace(
        first, name="studied", tower=TowerChoice(), start=str(tmp_path / "first"), see=none,
        study=dataclasses.replace(stage, learning_rate=1e-2), tell=none,
    ))  # fmt: skip
    for name, wanted in begun.projector.state_dict().items():
        assert torch.equal(studied.projector.state_dict()[name], wanted), name
    assert studied.lora[0][0].read_bytes() != adapters[0]
    learned, mean = (
        train(dataclasses.replace(
            first, name=f"kept-{kept}", tower=TowerChoice(), start=str(tmp_path / "first"),
            tell=none, kept=kept,
        )).projector.state_dict()
        for kept in (0.0, 0.25)
    )  # fmt: skip
    for name, wanted in begun.projector.state_dict().items():
        between = 0.25 * wanted + 0.75 * learned[name]
        assert torch.allclose(mean[name], between, atol=2e-3), name
    assert any(not torch.equal(learned[name], mean[name]) for name in mean)
    kept_of = train(dataclasses.replace(
        first, name="kept-of", tower=TowerChoice(), start=str(tmp_path / "kept-0.0"), see=stage,
        tell=none, kept=1.0, kept_of=str(tmp_path / "first"), sharpness=1.5,
    )).projector.state_dict()  # fmt: skip
    for name, wanted in begun.projector.state_dict().items():
        factor = 1.5 if name.startswith("words.score.") else 1.0
        assert torch.allclose(kept_of[name], factor * wanted, rtol=1e-3, atol=1e-6), name
    doubting = train(dataclasses.replace(
        first, name="doubting", tower=TowerChoice(), start=str(tmp_path / "first"), see=stage,
        tell=stage, doubt=2.0, kept_adapter=1.0,
    ))  # fmt: skip
    bias = doubting.projector.state_dict()["words.score.bias"]
    more = bias - begun.projector.state_dict()["words.score.bias"]
    encode = FrozenLLM(tiny_llama).tokenizer.encode
    raised = len({encode(f" {word}")[0] for word in ("something", "photograph")})
    assert sorted(more.tolist())[-raised - 1 :] == pytest.approx([0.0, *[2.0] * raised], abs=2e-3)
    assert doubting.lora[0][0].read_bytes() == adapters[0], "the whole of the former is kept"


def npm_of_noto(folder: Path) -> Path:
    """A folder with an `npm` in it that packs pictures as Noto's package, and notes each time."""
    load_pictures(["openmoji"], folder / "drawn", [kind.name for kind in all_kinds()])
    pictures = EMOJI_PACKAGES["noto"][2]
    with tarfile.open(folder / "set.tgz", "w:gz") as archive:
        archive.add(folder / "drawn" / "openmoji", f"package/{pictures}")
    npm = folder / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\ncp '{folder}/set.tgz' set.tgz\necho packed >> '{folder}/log'\n")
    npm.chmod(0o755)
    return npm.parent


def test_two_processes_that_share_the_steps_make_a_bundle_and_say_things_once(
    tiny_llama: Path, tmp_path: Path
) -> None:
    path = f"{npm_of_noto(tmp_path)}{os.pathsep}{os.environ['PATH']}"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"""
        name = "shared"
        llm = "{tiny_llama}"
        [tower]
        name = "{write_small_tower(tmp_path / "tower")}"
        [projector]
        tokens = 60
        words = 64
        width = 16
        layers = 1
        heads = 2
        [stories]
        styles = ["noto", "shapes"]
        style_weights = [0.5, 0.5]
        frames = 3
        fewest_frames = 2
        [see]
        steps = 2
        batch = 4
        [tell]
        steps = 1
        batch = 2
        [adapter]
        rank = 2
        kept_texts = 2
        kept_tokens = 64
        kept_batch = 1
        validated = 4
    """)
    command = [sys.executable, "-m", "pipeline.cli.main", "train", str(recipe), "--out"]
    done = subprocess.run(
        [*command, str(tmp_path / "out"), "--processes", "2", "--material", str(tmp_path / "new")],
        capture_output=True, text=True, check=False, env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text().count("packed") == 1, "one of them downloads for both"
    assert done.stderr.count("see: step 2/2, loss") == 1, done.stderr
    assert Bundle.load(tmp_path / "out").lora
    done = subprocess.run(
        [*command, str(tmp_path / "other"), "--processes", "3"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "a batch of 4 cannot be shared by 3 processes" in done.stderr
    assert "Traceback" not in done.stderr


def test_turns_that_are_told_apart_know_nothing_of_each_other(
    tiny_llama: Path, tmp_path: Path
) -> None:
    llm, config = FrozenLLM(tiny_llama), StoryConfig(styles=("shapes",), style_weights=(1.0,))
    stories = Stories(config, 32, Path())
    turns = [("What is it?", "A red ball."), ("Which way?", "It moves left."), ("Why?", "No.")]
    losses = []
    soft = torch.randn(1, form.TOKENS, llm.n_embd)
    for apart, talks in ((True, [turns]), (False, [[turn] for turn in turns])):
        training = story_training(llm, stories, tmp_path / str(apart), apart=apart)
        batch = training.teacher([stories[0]])
        lines = []
        for talk in talks:
            told = Conversations(*([column] for column in training.teacher._told(talk)))
            logits, wanted, _ = training._logits(soft, told)
            lines.append(F.cross_entropy(logits, wanted, reduction="none"))
        losses.append(torch.cat(lines))
        assert len(batch.told.ids) == 1
    assert torch.allclose(losses[0], losses[1], atol=1e-4)
