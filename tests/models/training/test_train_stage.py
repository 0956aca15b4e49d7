"""Whole stages on synthetic clips: after a stop, from another bundle, and in two processes."""

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

from reellama.models.bundle import Bundle
from reellama.models.synthetic.assets.downloads import ASSETS, EMOJI_PACKAGES
from reellama.models.synthetic.assets.pictures import load_pictures
from reellama.models.synthetic.dataset import SyntheticConfig, all_kinds
from reellama.models.synthetic.slot_targets import logit_biases
from reellama.models.training.config import (
    ProjectorSettings,
    StageConfig,
    VisionTowerSettings,
)
from reellama.models.training.frozen_llm import FrozenLLM
from reellama.models.training.phases.phase_config import ClipPhaseConfig, LoraConfig
from reellama.models.training.train_stage import train_stage
from reellama.pipeline.llm.engine import Engine
from tests.helpers.small_tower import write_small_tower

pytestmark = pytest.mark.numeric


def small_config(
    llm: Path, tower: Path, align: ClipPhaseConfig, joint: ClipPhaseConfig
) -> StageConfig:
    """Plain shapes in three frames, for a projector of one layer."""
    return StageConfig(
        name="first",
        llm=str(llm),
        vision_tower=VisionTowerSettings(name=str(tower)),
        projector=ProjectorSettings(tokens=60, words=64, width=16, layers=1, heads=2, encoder=1),
        synthetic=SyntheticConfig(
            styles=("shapes",), style_weights=(1.0,), frames=3, fewest_frames=2
        ),
        align=align,
        joint=joint,
        lora=LoraConfig(rank=2, kl_texts=2, kl_tokens=64, kl_batch=1, validation_clips=4),
    )


def test_a_stage_makes_a_bundle_and_goes_on_after_a_stop(tiny_llama: Path, tmp_path: Path) -> None:
    tower = write_small_tower(tmp_path / "tower")
    stage = ClipPhaseConfig(steps=2, batch=2, still_batch=2, checkpoint_every=1)
    config = small_config(tiny_llama, tower, stage, stage)
    lines: list[str] = []

    def train(config: StageConfig) -> Bundle:
        return train_stage(
            config, tmp_path / "out", work=tmp_path / "work", assets=ASSETS,
            report=lines.append,
        )  # fmt: skip

    train(dataclasses.replace(config, joint=dataclasses.replace(stage, steps=1)))
    bundle = train(config)
    assert any("joint: going on at step 1" in line for line in lines)
    assert [path.name for path, _ in bundle.lora] == ["adapter.gguf"]
    frames = [np.zeros((20, 20, 3), np.uint8)] * 3
    soft = bundle.encode(frames, np.arange(3.0)).array
    assert soft.shape == (60, bundle.n_embd)
    with Engine(tiny_llama, n_ctx=128, lora=bundle.lora) as engine:
        assert engine.prefill([soft]).n_read == 60


@pytest.mark.slow  # test_train_stages.py goes from stage to stage in a moment
def test_training_begins_with_the_bundle_that_a_config_names(
    tiny_llama: Path, tmp_path: Path
) -> None:
    tower = write_small_tower(tmp_path / "tower")
    stage = ClipPhaseConfig(steps=1, batch=2, learning_rate=0.0, weight_decay=0.0)
    learning = dataclasses.replace(stage, learning_rate=1e-2)
    first = small_config(tiny_llama, tower, learning, learning)
    none = ClipPhaseConfig(steps=0)

    def train(config: StageConfig) -> Bundle:
        return train_stage(
            config, tmp_path / config.name, work=tmp_path / f"{config.name}-work", assets=ASSETS,
            report=lambda line: None,
        )  # fmt: skip

    def upon(name: str, init_from: str = "first", **changes: Any) -> Bundle:
        return train(dataclasses.replace(
            first, name=name, vision_tower=VisionTowerSettings(),
            init_from=str(tmp_path / init_from), **changes,
        ))  # fmt: skip

    begun = train(first)
    again = upon("again", align=stage, joint=stage, seed=7)
    for name, wanted in begun.projector.state_dict().items():
        assert torch.equal(again.projector.state_dict()[name], wanted), name
    adapters = [bundle.lora[0][0].read_bytes() for bundle in (begun, again)]
    assert adapters[0] == adapters[1]
    weights = [bundle.folder / "tower" / "open_clip_model.safetensors" for bundle in (begun, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes(), "the tower is taken over"
    assert again.config.stages[:-1] == begun.config.stages
    assert again.config.stages[-1]["init_from"] == str(tmp_path / "first")
    only = upon("only", align=stage, lora=dataclasses.replace(
        first.lora, freeze_projector=True, separate_turns=True
    ))  # fmt: skip
    for name, wanted in begun.projector.state_dict().items():
        assert torch.equal(only.projector.state_dict()[name], wanted), name
    assert only.lora[0][0].read_bytes() != adapters[0]
    text_only = dataclasses.replace(stage, learning_rate=1e-2)
    studied = upon("text-only", align=none, text_only=text_only, joint=none)
    for name, wanted in begun.projector.state_dict().items():
        assert torch.equal(studied.projector.state_dict()[name], wanted), name
    assert studied.lora[0][0].read_bytes() != adapters[0]
    learned, mean = (
        upon(f"average-{share}", joint=none, weight_average=share).projector.state_dict()
        for share in (0.0, 0.25)
    )
    for name, wanted in begun.projector.state_dict().items():
        between = 0.25 * wanted + 0.75 * learned[name]
        assert torch.allclose(mean[name], between, atol=2e-3), name
    assert any(not torch.equal(learned[name], mean[name]) for name in mean)
    averaged = upon(
        "average-with", "average-0.0", align=stage, joint=none, weight_average=1.0,
        average_with=str(tmp_path / "first"), inverse_temperature=1.5,
    ).projector.state_dict()  # fmt: skip
    for name, wanted in begun.projector.state_dict().items():
        factor = 1.5 if name.startswith(("word_mixture.score.", "word_mixture.logit_bias")) else 1.0
        assert torch.allclose(averaged[name], factor * wanted, rtol=1e-3, atol=1e-6), name
    biased = upon(
        "biased", align=stage, joint=stage, name_logit_bias=2.0, camera_logit_bias=1.0,
        lora_weight_average=1.0,
    )  # fmt: skip
    logit_bias = biased.projector.state_dict()["word_mixture.logit_bias"]
    encode = FrozenLLM(tiny_llama).tokenizer.encode
    raised = {(token, encode(f" {word}")[0]) for token, word, _ in logit_biases(2.0, 1.0)}
    assert len(logit_bias.nonzero()) == len(raised)
    wanted = torch.zeros(len(logit_bias))
    for token, _, more in logit_biases(2.0, 1.0):
        wanted[token] += more
    assert torch.allclose(logit_bias.sum(1), wanted)
    assert biased.lora[0][0].read_bytes() == adapters[0], "the whole of the former is kept"


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


@pytest.mark.slow  # test_distributed.py shares steps in a moment
def test_two_processes_that_share_the_steps_make_a_bundle_and_say_things_once(
    tiny_llama: Path, tmp_path: Path
) -> None:
    path = f"{npm_of_noto(tmp_path)}{os.pathsep}{os.environ['PATH']}"
    config = tmp_path / "config.toml"
    config.write_text(f"""
        name = "shared"
        llm = "{tiny_llama}"
        [synthetic]
        styles = ["noto", "shapes"]
        style_weights = [0.5, 0.5]
        frames = 3
        fewest_frames = 2
        [[stages]]
        name = "only"
        [stages.vision_tower]
        name = "{write_small_tower(tmp_path / "tower")}"
        [stages.projector]
        tokens = 60
        words = 64
        width = 16
        layers = 1
        heads = 2
        [stages.align]
        steps = 2
        batch = 4
        [stages.joint]
        steps = 1
        batch = 2
        [stages.lora]
        rank = 2
        kl_texts = 2
        kl_tokens = 64
        kl_batch = 1
        validation_clips = 4
    """)
    command = [sys.executable, "-m", "reellama", "train", str(config), "--out"]
    done = subprocess.run(
        [*command, str(tmp_path / "out"), "--processes", "2", "--assets", str(tmp_path / "new")],
        capture_output=True, text=True, check=False, env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text().count("packed") == 1, "one of them downloads for both"
    assert done.stderr.count("align: step 2/2, loss") == 1, done.stderr
    assert Bundle.load(tmp_path / "out" / "only").lora
    done = subprocess.run(
        [*command, str(tmp_path / "other"), "--processes", "3"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "a batch of 4 cannot be shared by 3 processes" in done.stderr
    assert "Traceback" not in done.stderr
