"""Training a bundle: on one's own videos, resumed after a kill, with a bundle as the result."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.bundle import Bundle
from reellama.models.synthetic.rendered_clips import RenderedConfig
from reellama.models.training.captions.train_captions import CaptionTraining, train_captions
from reellama.models.training.config import CaptionConfig, ProjectorSettings, VisionTowerSettings
from reellama.models.training.trainer import Trainer, TrainerConfig, batch_rows
from reellama.pipeline.cli.commands.train import read_video
from tests.helpers.small_tower import write_small_tower

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def config(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> CaptionConfig:
    """A config that takes seconds: a small tower, a tiny LLM, shapes, a few steps."""
    tower = write_small_tower(tmp_path_factory.mktemp("train") / "tower")
    phase = TrainerConfig(steps=4, batch=3, checkpoint_every=2)
    return CaptionConfig(
        name="trained",
        llm=str(tiny_llama),
        frames=3,
        fewest_frames=2,
        vision_tower=VisionTowerSettings(name=str(tower)),
        rendered=RenderedConfig(
            styles=("shapes",), style_weights=(1.0,), frames=3, clips=6, validation=2
        ),
        projector=ProjectorSettings(tokens=8, words=64, width=16, layers=1, heads=2),
        align=phase,
        motion=dataclasses.replace(phase, steps=2),
        tail=3,
        answer=dataclasses.replace(phase, accumulate=2),
    )


def silent(line: str) -> None:
    """Report to nobody."""


def train(config: CaptionConfig, folder: Path, report: Callable[[str], None] = silent) -> Bundle:
    return train_captions(
        config, folder / "bundle", work=folder / "work", read_video=read_video, report=report
    )


def weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    return bundle.projector.state_dict()


def test_the_result_is_a_bundle_that_sees(config: CaptionConfig, tmp_path: Path) -> None:
    lines: list[str] = []
    train(config, tmp_path, lines.append)
    bundle = Bundle.load(tmp_path / "bundle")
    soft = bundle.encode([np.zeros((20, 30, 3), np.uint8)] * 5, np.arange(5) / 2).array
    assert soft.shape == (8, 64) and soft.dtype == np.float32 and np.isfinite(soft).all()
    assert bundle.config.stages[-1]["config"]["rendered"]["clips"] == 6
    assert any("left" in line and "loss" in line for line in lines)
    assert any(line.startswith("  ") and "wanted" in line for line in lines), "sampled answers"
    log = (tmp_path / "work" / "resampler" / "log.jsonl").read_text().splitlines()
    stages = {json.loads(line)["stage"] for line in log}
    assert stages == {"align", "motion", "answer"}


def test_a_killed_run_goes_on_and_ends_the_same(config: CaptionConfig, tmp_path: Path) -> None:
    whole = train(config, tmp_path / "whole")

    def killer(line: str) -> None:
        if line.startswith("answer: step 2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "killed", killer)
    lines: list[str] = []
    resumed = train(config, tmp_path / "killed", lines.append)
    assert "answer: going on at step 2" in lines
    assert not any(line.startswith("features:") for line in lines), "features are kept"
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], tensor, atol=1e-3, rtol=1e-2)


def test_the_frozen_parts_stay_and_the_projector_learns(
    config: CaptionConfig, tmp_path: Path
) -> None:
    training = CaptionTraining(config, tmp_path, read_video=read_video, report=silent)
    bundle = training.run(tmp_path / "bundle")
    log = [json.loads(line) for line in (tmp_path / "resampler" / "log.jsonl").open()]
    losses = [line["loss"] for line in log if line["stage"] == "align" and "loss" in line]
    assert np.isfinite(losses).all()
    assert bundle.projector.word_mixture.correction.weight.abs().max() > 0, "starts at zero"


@pytest.mark.parametrize("kind", ["mean", "frame"])
def test_baselines_are_trained_by_the_same_config(
    config: CaptionConfig, tmp_path: Path, kind: str
) -> None:
    changed = dataclasses.replace(
        config, projector=dataclasses.replace(config.projector, kind=kind)
    )
    assert train(changed, tmp_path).config.projector.kind == kind


def test_own_videos_and_captions_train_a_bundle(
    config: CaptionConfig, tmp_path: Path, square_video: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    data = tmp_path / "data.csv"
    data.write_text(
        f'video,caption\n{square_video},"A red square\nmoves right."\n{broken},Nothing.\n'
    )
    lines: list[str] = []
    bundle = train(dataclasses.replace(config, data=str(data)), tmp_path, lines.append)
    assert bundle.config.stages[-1]["config"]["data"] == str(data)
    assert any("left out" in line and "broken.mp4" in line for line in lines)


def test_nothing_that_can_be_read_is_an_error(config: CaptionConfig, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_text("no video")
    data = tmp_path / "data.csv"
    data.write_text("video,caption\nbroken.mp4,Nothing.\n")
    with pytest.raises(ReellamaError, match="none of the videos"):
        train(dataclasses.replace(config, data=str(data)), tmp_path)


def test_every_clip_is_seen_once_an_epoch() -> None:
    for count, batch in ((10, 3), (7, 7), (5, 12)):
        steps = -(-3 * count // batch)
        rows = [row for step in range(steps) for row in batch_rows(step, batch, count, seed=1)]
        assert len(rows) == steps * batch
        for epoch in range(len(rows) // count):
            assert sorted(rows[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_the_learning_rate_rises_then_falls_to_zero(tmp_path: Path) -> None:
    config = TrainerConfig(steps=100, warmup=0.1, learning_rate=1.0)
    trainer = Trainer("x", nn.Linear(1, 1), config, tmp_path, report=silent)
    rates = [trainer.learning_rate_at(step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and max(rates) == rates[9] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.01


def test_weight_decay_leaves_norms_and_biases_alone(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    trainer = Trainer("x", module, TrainerConfig(steps=1), tmp_path, report=silent)
    decayed = trainer.optimizer.param_groups[0]["params"]
    assert [p.ndim for p in decayed] == [2]
    assert trainer.optimizer.param_groups[1]["weight_decay"] == 0


def test_finer_grids_of_a_tower_are_learned_from_and_kept(
    config: CaptionConfig, tmp_path: Path
) -> None:
    none = TrainerConfig(steps=0)
    with_fine_layer = dataclasses.replace(config.vision_tower, fine_layers=1)
    bundle = train(
        dataclasses.replace(
            config, vision_tower=with_fine_layer, align=none, motion=none, answer=none
        ),
        tmp_path,
    )
    assert bundle.config.tower.fine_layers == 1
    frames = [np.zeros((20, 20, 3), np.uint8)] * 2
    assert bundle.encode(frames, np.arange(2.0)).array.shape == (8, bundle.n_embd)


def test_what_has_no_tower_and_nothing_to_train_one_from_is_refused(
    config: CaptionConfig, tmp_path: Path
) -> None:
    with pytest.raises(ReellamaError, match="name a tower, or give `stills`"):
        train(dataclasses.replace(config, vision_tower=VisionTowerSettings()), tmp_path)
