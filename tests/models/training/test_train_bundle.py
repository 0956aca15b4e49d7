"""Whole runs of recipes with stories: after a stop, from another bundle, and in two processes."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch

from models.bundle import Bundle
from models.synthetic.assets.downloads import EMOJI_PACKAGES
from models.synthetic.assets.pictures import load_pictures
from models.synthetic.dataset import SyntheticConfig, all_kinds
from models.synthetic.slot_targets import logit_biases
from models.training.captions.train_captions import run
from models.training.config import ProjectorSettings, StoryRecipe, TowerSettings
from models.training.frozen_llm import FrozenLLM
from models.training.stages.instruction import DrawnConfig, LoraConfig
from pipeline.cli.commands.train import read_video
from pipeline.llm.engine import Engine
from tests.helpers.small_tower import write_small_tower


def small_recipe(llm: Path, tower: Path, see: DrawnConfig, tell: DrawnConfig) -> StoryRecipe:
    """Plain shapes in three frames, for a projector of one layer."""
    return StoryRecipe(
        name="first",
        llm=str(llm),
        tower=TowerSettings(name=str(tower)),
        projector=ProjectorSettings(tokens=60, words=64, width=16, layers=1, heads=2, encoder=1),
        stories=SyntheticConfig(
            styles=("shapes",), style_weights=(1.0,), frames=3, fewest_frames=2
        ),
        see=see,
        tell=tell,
        adapter=LoraConfig(rank=2, kept_texts=2, kept_tokens=64, kept_batch=1, validated=4),
    )


def test_a_recipe_with_stories_makes_a_bundle_and_goes_on_after_a_stop(
    tiny_llama: Path, tmp_path: Path
) -> None:
    tower = write_small_tower(tmp_path / "tower")
    stage = DrawnConfig(steps=2, batch=2, stills=2, every=1)
    recipe = small_recipe(tiny_llama, tower, stage, stage)
    lines: list[str] = []

    def train(recipe: StoryRecipe) -> Bundle:
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
    stage = DrawnConfig(steps=1, batch=2, learning_rate=0.0, weight_decay=0.0)
    learning = dataclasses.replace(stage, learning_rate=1e-2)
    first = small_recipe(tiny_llama, tower, learning, learning)

    def train(recipe: StoryRecipe) -> Bundle:
        folder = tmp_path / recipe.name
        return run(
            recipe, folder, work=tmp_path / f"{recipe.name}-work", read_video=read_video,
            report=lambda line: None,
        )  # fmt: skip

    begun = train(first)
    again = train(dataclasses.replace(
        first, name="again", tower=TowerSettings(), start=str(tmp_path / "first"),
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
        first, name="only", tower=TowerSettings(), start=str(tmp_path / "first"), see=stage,
        adapter=frozen,
    ))  # fmt: skip
    for name, wanted in begun.projector.state_dict().items():
        assert torch.equal(only.projector.state_dict()[name], wanted), name
    assert only.lora[0][0].read_bytes() != adapters[0]
    none = DrawnConfig(steps=0)
    studied = train(dataclasses.replace(
        first, name="studied", tower=TowerSettings(), start=str(tmp_path / "first"), see=none,
        study=dataclasses.replace(stage, learning_rate=1e-2), tell=none,
    ))  # fmt: skip
    for name, wanted in begun.projector.state_dict().items():
        assert torch.equal(studied.projector.state_dict()[name], wanted), name
    assert studied.lora[0][0].read_bytes() != adapters[0]
    learned, mean = (
        train(dataclasses.replace(
            first, name=f"kept-{kept}", tower=TowerSettings(), start=str(tmp_path / "first"),
            tell=none, kept=kept,
        )).projector.state_dict()
        for kept in (0.0, 0.25)
    )  # fmt: skip
    for name, wanted in begun.projector.state_dict().items():
        between = 0.25 * wanted + 0.75 * learned[name]
        assert torch.allclose(mean[name], between, atol=2e-3), name
    assert any(not torch.equal(learned[name], mean[name]) for name in mean)
    kept_of = train(dataclasses.replace(
        first, name="kept-of", tower=TowerSettings(), start=str(tmp_path / "kept-0.0"), see=stage,
        tell=none, kept=1.0, kept_of=str(tmp_path / "first"), sharpness=1.5,
    )).projector.state_dict()  # fmt: skip
    for name, wanted in begun.projector.state_dict().items():
        factor = 1.5 if name.startswith(("words.score.", "words.prior")) else 1.0
        assert torch.allclose(kept_of[name], factor * wanted, rtol=1e-3, atol=1e-6), name
    doubting = train(dataclasses.replace(
        first, name="doubting", tower=TowerSettings(), start=str(tmp_path / "first"), see=stage,
        tell=stage, doubt=2.0, camera_doubt=1.0, kept_adapter=1.0,
    ))  # fmt: skip
    prior = doubting.projector.state_dict()["words.prior"]
    encode = FrozenLLM(tiny_llama).tokenizer.encode
    raised = {(token, encode(f" {word}")[0]) for token, word, _ in logit_biases(2.0, 1.0)}
    assert len(prior.nonzero()) == len(raised)
    wanted = torch.zeros(len(prior))
    for token, _, more in logit_biases(2.0, 1.0):
        wanted[token] += more
    assert torch.allclose(prior.sum(1), wanted)
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
