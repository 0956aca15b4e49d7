"""Training the tower: what a cell shows, what a still is called, and what is learned and kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reellama.models.synthetic.assets.backgrounds import Background
from reellama.models.synthetic.assets.picture_pool import PicturePool
from reellama.models.synthetic.assets.pictures import load_pictures
from reellama.models.synthetic.dataset import SyntheticClips, SyntheticConfig
from reellama.models.synthetic.scenarios.stills import STILL_SCENARIOS
from reellama.models.synthetic.scene import Actor, Scene
from reellama.models.training import distributed
from reellama.models.training.phases.contrastive import ContrastiveConfig
from reellama.models.training.phases.tower import (
    BACKGROUND,
    IGNORED_WORD,
    StillCollator,
    TowerPhase,
    objects_in_cells,
    still_caption,
)
from reellama.models.training.trainer import TrainerConfig
from reellama.models.vision.encoder import Tower

pytestmark = pytest.mark.numeric

SHAPES = load_pictures(("shapes",))
GROUND = Background("flat", 0)
SIDE = 64  # pixels: two cells a side


def still(x: float, y: float, size: float) -> Actor:
    return Actor(SHAPES[0], "stays still", x, y, size)


def test_a_cell_shows_the_thing_whose_middle_it_holds() -> None:
    scene = Scene((still(0.1, 0.1, 0.1), still(0.9, 0.9, 0.1)), GROUND, (200, 200))
    found = objects_in_cells(scene, 6).reshape(6, 6)
    assert found[0, 0] == 1 and found[5, 5] == 2
    assert (found[2:4, 2:4] == BACKGROUND).all()


def test_what_lies_on_top_is_what_a_cell_shows() -> None:
    scene = Scene((still(0.5, 0.5, 0.2), still(0.5, 0.5, 0.8)), GROUND, (200, 200))
    found = objects_in_cells(scene, 5).reshape(5, 5)
    assert found[2, 2] == 1
    assert found[2, 0] in (2, IGNORED_WORD) and found[0, 0] == IGNORED_WORD


def test_a_large_thing_is_in_several_cells_and_its_rim_is_left_open() -> None:
    found = objects_in_cells(Scene((still(0.5, 0.5, 0.6),), GROUND, (200, 200)), 6)
    assert (found == 1).sum() == 4
    assert (found == IGNORED_WORD).sum() >= 8


def drawn_stills(split: str = "train") -> SyntheticClips:
    config = SyntheticConfig(styles=("shapes",), style_weights=(1.0,))
    return SyntheticClips(config, SIDE, Path(), split=split, stills=True)


def small_tower_phase(folder: Path, report: Callable[[str], None] = print) -> TowerPhase:
    config = ContrastiveConfig(image_size=SIDE, embed_dim=16, text_width=32, text_layers=1)
    return TowerPhase(
        drawn_stills(), drawn_stills("validation"), config, folder, layers=[-2, -1], validated=8,
        device=torch.device("cpu"), report=report,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stills() -> SyntheticClips:
    return drawn_stills()


def test_the_words_of_a_name_are_those_of_its_cells(stills: SyntheticClips) -> None:
    collator = StillCollator(stills, 2, 24)
    sample = stills[0]
    cells = collator.cells(sample["clip"].scene)
    assert cells.shape[0] == 4
    (picture, *_) = (actor.picture for actor in sample["clip"].scene.actors)
    named = [
        [collator.words[n] for n in row if n != IGNORED_WORD]
        for row in cells
        if row[0] > BACKGROUND
    ]
    assert picture.kind.split() in named


def test_a_still_is_captioned_with_what_it_shows() -> None:
    pool = PicturePool(SHAPES, [picture.kind for picture in SHAPES])
    clip = STILL_SCENARIOS["pair"][0](np.random.default_rng(0), pool)
    said = still_caption(clip, 1)
    assert all(actor.picture.kind in said for actor in clip.scene.actors)
    assert still_caption(replace(clip, is_photograph=True)) == "a photograph"


def test_the_phase_leaves_a_tower_that_can_be_loaded_and_goes_on_after_a_stop(
    tmp_path: Path,
) -> None:
    lines: list[str] = []
    for steps in (1, 2):
        tower_phase = small_tower_phase(tmp_path / "work", lines.append)
        config = TrainerConfig(
            steps=steps, batch=4, accumulate=2, checkpoint_every=1, learning_rate=1e-4
        )
        tower_phase.run(config, tmp_path / "t")
    assert any("tower: going on at step 1" in line for line in lines)
    assert any("kept" in line for line in lines)
    tower = Tower.load(tmp_path / "t", fine_layers=1)
    frames = [np.zeros((SIDE, SIDE, 3), np.uint8)]
    assert tower.grid(frames).shape == (1, 4, 768)
    assert tower.embed_images(frames).shape == (1, 16)
    assert tower.embed_texts(["a red ball"]).shape == (1, 16)


def take_a_step(folder: Path) -> None:
    """The first step of as many processes as there are: its gradient, then a tower."""
    distributed.init_processes()
    tower_phase = small_tower_phase(folder / "work")
    assert tower_phase.workers * distributed.world_size() < (os.cpu_count() or 2), (
        "for all of them together"
    )
    tower_phase.network.train()
    tower_phase.loss(next(tower_phase._batches(tower_phase.stills, 8, 0, 1))).backward()
    distributed.average_gradients(tower_phase.network.parameters())
    gradients = {
        name: p.grad for name, p in tower_phase.network.named_parameters() if p.grad is not None
    }
    torch.save(gradients, folder / f"{distributed.rank()}.pt")
    tower_phase.run(TrainerConfig(steps=1, batch=8), folder / "tower")
    distributed.barrier()
    distributed.shut_down()


@pytest.mark.slow  # test_distributed.py compares gradients
def test_two_processes_take_the_step_that_one_would_take(tmp_path: Path) -> None:
    """Also where a still must find its caption among all, and where fewer cells are of a thing."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder in (alone, shared):
        folder.mkdir()
    take_a_step(alone)
    distributed.spawn(take_a_step, 2, shared)
    wanted = torch.load(alone / "0.pt")
    for number in range(2):
        found = torch.load(shared / f"{number}.pt")
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-2, msg=name)
    frames = [np.zeros((SIDE, SIDE, 3), np.uint8)]
    assert Tower.load(shared / "tower", fine_layers=1).grid(frames).shape == (1, 4, 768)
