"""Slots: every fact of a clip has its own soft tokens."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from reellama.models.projector import slots
from reellama.models.synthetic import slot_targets
from reellama.models.synthetic.assets.picture_pool import PicturePool
from reellama.models.synthetic.assets.pictures import load_pictures
from reellama.models.synthetic.motions import SequentialMotion, WaypointMotion
from reellama.models.synthetic.questions import NUMBER_WORDS, description_order
from reellama.models.synthetic.scenarios.registry import SCENARIOS, random_clip
from reellama.models.synthetic.scenarios.stills import STILL_SCENARIOS
from reellama.models.synthetic.scene import Actor, Scene
from reellama.models.synthetic.synthetic_clip import SyntheticClip

SHAPES = load_pictures(("shapes",))
PHOTO = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
POOL = PicturePool(SHAPES, [picture.kind for picture in SHAPES], [PHOTO])
SEEDS = range(12)
MAKERS = {**{name: make for name, (make, _) in SCENARIOS.items()},
          **{name: make for name, (make, _) in STILL_SCENARIOS.items()}}  # fmt: skip


def drawn(name: str, seed: int) -> SyntheticClip:
    rng = np.random.default_rng([seed, len(name)])
    return random_clip(rng, POOL, name) if name in SCENARIOS else MAKERS[name](rng, POOL)


def thing(texts: list[str], number: int) -> list[str]:
    """Name, motion and place of a thing in filled slots."""
    start = slots.NAME_SLOT + 3 * number
    return texts[start : start + 3]


@pytest.mark.parametrize("name", MAKERS)
def test_every_scenario_fills_all_slots(name: str) -> None:
    for seed in SEEDS:
        assert len(slot_targets.slot_texts(drawn(name, seed))) == len(slots.SLOT_WIDTHS)


def test_the_spans_of_the_slots_follow_one_another() -> None:
    spans = slots.slot_spans()
    assert spans[0][0] == 0 and spans[-1][1] == slots.N_SLOT_TOKENS
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))


def test_one_thing_stands_with_its_name_motion_and_place() -> None:
    clip = drawn("place", 0)
    (actor,) = clip.scene.actors
    assert isinstance(actor, Actor)
    corner = Scene((replace(actor, x=0.1, y=0.9),), clip.scene.background)
    texts = slot_targets.slot_texts(replace(clip, scene=corner))
    assert texts[:3] == ["one", "none", "stays still"]
    assert thing(texts, 0) == [actor.picture.kind, "stays still", "bottom left"]
    assert thing(texts, 1) == ["", "", ""]


def test_what_comes_first_and_what_then_have_slots_of_their_own() -> None:
    for seed in SEEDS:
        clip = drawn("order", seed)
        (actor,) = clip.scene.actors
        assert isinstance(actor, SequentialMotion)
        texts = slot_targets.slot_texts(clip)
        assert texts[slots.MOTION_SLOT] == actor.first.motion
        assert texts[-1] == actor.second.motion


def test_several_things_are_listed_as_they_are_described() -> None:
    for seed in SEEDS:
        clip = drawn("mover", seed)
        texts = slot_targets.slot_texts(clip)
        names = [thing(texts, number)[0] for number in range(len(clip.scene.actors))]
        assert names == [actor.picture.kind for actor in description_order(clip.scene.actors)]
        places = [clip.caption.lower().index(name) for name in names]
        assert places == sorted(places)


def test_copies_are_listed_once_and_counted() -> None:
    for seed in SEEDS:
        clip = drawn("count", seed)
        texts = slot_targets.slot_texts(clip)
        moving = sum(actor.motion != "stays still" for actor in clip.scene.actors)
        assert texts[:2] == [NUMBER_WORDS[len(clip.scene.actors)], NUMBER_WORDS[moving]]
        assert thing(texts, 1) == ["", "", ""]


def test_of_two_that_move_the_slow_one_is_said_to_be_slow() -> None:
    for seed in SEEDS:
        clip = drawn("race", seed)
        texts = slot_targets.slot_texts(clip)
        slow = min(clip.scene.actors, key=lambda actor: getattr(actor, "amount", 0.0))
        motions = {thing(texts, n)[0]: thing(texts, n)[1] for n in range(2)}
        assert [kind for kind, does in motions.items() if does.endswith("slowly")] == [
            slow.picture.kind
        ]


def test_things_that_change_places_have_the_place_where_they_end() -> None:
    for seed in SEEDS:
        clip = drawn("shuffle", seed)
        texts = slot_targets.slot_texts(clip)
        for number, actor in enumerate(description_order(clip.scene.actors)):
            assert isinstance(actor, WaypointMotion)
            start, end = (
                ("left", "middle", "right")[min(2, int(actor.pose(u).x * 3))] for u in (0.0, 1.0)
            )
            assert thing(texts, number)[1:] == [f"{start} ends {end}", end]


def test_what_moves_about_is_said_to_do_so() -> None:
    for seed in SEEDS:
        texts = slot_targets.slot_texts(drawn("about", seed))
        assert texts[:2] == ["one", "one"] and texts[slots.MOTION_SLOT] == "moves about"


def test_both_scenes_of_a_cut_are_there() -> None:
    clip = drawn("cut", 1)
    assert clip.scene.second_shot
    texts = slot_targets.slot_texts(clip)
    assert texts[2] == "cut"
    kinds = [shot.actors[0].picture.kind for shot in (clip.scene, clip.scene.second_shot)]
    assert [thing(texts, n)[0] for n in range(2)] == kinds


def test_unsure_slots_of_names_and_the_camera_say_so() -> None:
    starts = [start for start, _ in slots.slot_spans()]
    biases = list(slot_targets.logit_biases(2.0, 1.0))
    names = [token for token, word, bias in biases if (word, bias) == ("something", 2.0)]
    assert names == starts[slots.NAME_SLOT : slots.NAME_SLOT + 3 * slots.MAX_OBJECTS : 3]
    assert (starts[slots.NAME_SLOT], "photograph", 2.0) in biases
    camera = starts[slots.CAMERA_SLOT]
    assert biases[-2:] == [(camera, "moves", 1.0), (camera + 1, "about", 1.0)]


def test_a_photograph_is_called_one_whatever_it_shows() -> None:
    clip = drawn("photograph", 0)
    assert clip.is_photograph
    texts = slot_targets.slot_texts(clip)
    assert texts[slots.NAME_SLOT] == "photograph" and not any(texts[slots.MOTION_SLOT :])


def test_a_moving_camera_has_its_slot_and_places_are_left_open() -> None:
    cameras = [clip for seed in SEEDS if (clip := drawn("camera", seed)).scene.camera]
    for clip in cameras:
        texts = slot_targets.slot_texts(clip)
        assert clip.scene.camera and texts[2] in clip.scene.camera.move
        assert all(not thing(texts, n)[2] for n in range(slots.MAX_OBJECTS))
    assert any(isinstance(actor, Actor) for clip in cameras for actor in clip.scene.actors)
