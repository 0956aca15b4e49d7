"""Scenarios: what is said of a clip is true of it, and every question has one right answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reellama.models.synthetic.assets.picture_pool import UNNAMED, PicturePool
from reellama.models.synthetic.assets.picture_variants import photo_patch, tint
from reellama.models.synthetic.assets.pictures import load_pictures
from reellama.models.synthetic.assets.shapes import COLOURS
from reellama.models.synthetic.motions import (
    MOVES_ABOUT,
    SequentialMotion,
    ShuffledMotion,
)
from reellama.models.synthetic.questions import NUMBER_WORDS
from reellama.models.synthetic.render import frame_times, render
from reellama.models.synthetic.scenarios.motion import ROW
from reellama.models.synthetic.scenarios.registry import SCENARIOS, random_clip
from reellama.models.synthetic.scenarios.stills import STILL_SCENARIOS
from reellama.models.synthetic.scene import Actor, reversed_motion
from reellama.models.synthetic.synthetic_clip import SyntheticClip

SHAPES = load_pictures(("shapes",))
PHOTO = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
POOL = PicturePool(SHAPES, [picture.kind for picture in SHAPES], [PHOTO])
SEEDS = range(12)


def drawn(name: str, seed: int) -> SyntheticClip:
    return random_clip(np.random.default_rng([seed, len(name)]), POOL, name)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_question_has_its_answer_among_different_choices(name: str) -> None:
    for seed in SEEDS:
        for asked in drawn(name, seed).questions:
            if asked.choices:
                assert asked.answer in asked.choices
                assert len(set(asked.choices)) == len(asked.choices)
            assert asked.sentence.endswith(".")


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_clip_is_the_same_each_time_and_can_be_drawn(name: str) -> None:
    first, again = drawn(name, 3), drawn(name, 3)
    assert first.caption == again.caption
    times = frame_times(first.scene.duration, 3)
    frames = render(first.scene, times)
    assert frames.shape == (3, first.scene.size[1], first.scene.size[0], 3)
    assert np.array_equal(frames, render(again.scene, times))


def test_the_numbers_are_those_of_the_actors() -> None:
    for seed in SEEDS:
        clip = drawn("count", seed)
        actors = clip.scene.actors
        answers = {asked.task: asked.answer for asked in clip.questions}
        moving = sum(actor.motion != "stays still" for actor in actors)
        assert answers["count"] == NUMBER_WORDS[len(actors)]
        assert answers["moving count"] == NUMBER_WORDS[moving]


def test_after_a_shuffle_each_thing_is_where_it_is_said_to_be() -> None:
    for seed in SEEDS:
        clip = drawn("shuffle", seed)
        question = next(asked for asked in clip.questions if asked.task == "object shuffle")
        ends = {f"the {a.picture.kind}": a.pose(1.0).x for a in clip.scene.actors}
        asked_for = question.question.removeprefix("Where is ").removesuffix(" at the end?")
        rank = sorted(ends.values()).index(ends[asked_for])
        assert question.answer == ROW[rank]


def test_the_faster_one_goes_further_in_the_same_time() -> None:
    for seed in SEEDS:
        clip = drawn("race", seed)
        ways = {
            f"the {actor.picture.kind}": abs(actor.pose(1.0).x - actor.pose(0.0).x)
            for actor in clip.scene.actors
        }
        question = next(asked for asked in clip.questions if asked.task == "speed")
        best = max if "faster" in question.question else min
        assert question.answer == best(ways, key=ways.__getitem__)


def test_the_choices_for_an_order_are_what_the_same_moments_could_show_in_another_order() -> None:
    for seed in SEEDS:
        clip = drawn("order", seed)
        (doing,) = clip.scene.actors
        assert isinstance(doing, SequentialMotion)
        for asked in clip.questions:
            if asked.task == "action order":
                choices = {choice.removeprefix("it ") for choice in asked.choices}
                assert {doing.first.motion, doing.second.motion} < choices and len(choices) == 4
                assert {reversed_motion(motion) for motion in choices} == choices


def test_a_clip_without_a_direction_has_each_choice_as_an_answer_once() -> None:
    for seed in SEEDS:
        clip = drawn("about", seed)
        asked = [question for question in clip.questions if question.task == ""]
        assert len(asked) == 4 and len({question.question for question in asked}) == 1
        assert {question.answer for question in asked} == set(asked[0].choices)
        assert {question.sentence for question in asked} == {"It moves about."}


def test_the_choices_for_a_direction_are_both_ways_along_two_lines() -> None:
    for seed in SEEDS:
        for asked in drawn("one", seed).questions:
            if asked.task == "moving direction":
                moves = {f"moves {way}" for way in asked.choices}
                assert len(moves) == 4 and {reversed_motion(motion) for motion in moves} == moves


def test_what_moves_about_keeps_no_direction_and_stays_in_the_picture() -> None:
    clips = [drawn("about", seed) for seed in range(20)]
    assert any(isinstance(clip.scene.actors[0], ShuffledMotion) for clip in clips)
    for clip in clips:
        (actor,) = clip.scene.actors
        assert actor.motion == MOVES_ABOUT
        assert all(question.task != "moving direction" for question in clip.questions)
        if isinstance(actor, ShuffledMotion):
            continue
        xs, ys = np.array([(p.x, p.y) for u in np.linspace(0, 1, 65) for p in [actor.pose(u)]]).T
        turns = sum(np.count_nonzero(np.diff(np.sign(np.diff(way)))) for way in (xs, ys))
        assert turns >= 3
        assert min(xs.min(), ys.min()) > 0.1 and max(xs.max(), ys.max()) < 0.9


def test_a_cut_shows_another_scene_from_its_time_on() -> None:
    clip = drawn("cut", 2)
    scene = clip.scene
    times = np.array([scene.cut_time - 0.05, scene.cut_time + 0.05]) * scene.duration
    before, after = render(scene, times).astype(int)
    assert abs(before - after).mean() > 5


def test_a_tinted_picture_is_named_after_its_colour() -> None:
    ball = next(picture for picture in SHAPES if picture.kind == "red ball")
    blue = tint(ball, "blue")
    assert blue.kind == "blue ball"
    red, green, strong = blue.rgba[blue.rgba[..., 3] == 255][:, :3].mean(0)
    assert strong > red and strong > green
    assert "blue" in COLOURS


def test_a_patch_of_a_photograph_has_no_name() -> None:
    unnamed = photo_patch(np.random.default_rng(0), PHOTO, "something")
    assert unnamed.kind == "something"
    assert 0 < (unnamed.rgba[..., 3] > 128).mean() < 1
    for seed in SEEDS:
        clip = drawn("unknown", seed)
        camera = clip.scene.camera
        assert (camera.move if camera else "the camera stays still") in clip.caption.lower()
        moving = [actor for actor in clip.scene.actors if actor.motion != "stays still"]
        if len(clip.scene.actors) > 1:
            wanted = ("Nothing moves.", "Something moves.", "Several things move.")
            assert clip.caption.startswith(wanted[min(2, len(moving))])


def test_all_actors_of_the_simple_scenarios_stay_in_the_picture() -> None:
    for name in ("one", "place", "race", "mover"):
        for seed in SEEDS:
            for actor in drawn(name, seed).scene.actors:
                assert isinstance(actor, Actor)
                for u in (0.0, 0.5, 1.0):
                    pose = actor.pose(u)
                    assert -0.1 < pose.x < 1.1 and -0.1 < pose.y < 1.1


@pytest.mark.parametrize("name", STILL_SCENARIOS)
def test_a_still_shows_what_its_caption_says_and_nothing_moves(name: str) -> None:
    for seed in SEEDS:
        clip = STILL_SCENARIOS[name][0](np.random.default_rng([seed, len(name)]), POOL)
        assert all(actor.motion == "stays still" for actor in clip.scene.actors)
        kinds = {actor.picture.kind for actor in clip.scene.actors} - {UNNAMED}
        assert all(kind in clip.caption.lower() for kind in kinds)
        for asked in clip.questions:
            assert not asked.choices or asked.answer in asked.choices
            assert asked.task not in ("moving direction", "action order", "camera")


@pytest.mark.parametrize("name", ["group", "mover", "camera"])
def test_several_things_that_stand_still_are_named_from_left_to_right(name: str) -> None:
    makers = {"group": STILL_SCENARIOS["group"][0], "mover": SCENARIOS["mover"][0]}
    make = makers.get(name, SCENARIOS["camera"][0])
    for seed in SEEDS:
        clip = make(np.random.default_rng(seed), POOL)
        actors = [actor for actor in clip.scene.actors if isinstance(actor, Actor)]
        still = [a for a in actors if a.motion == "stays still" and a.picture.kind != UNNAMED]
        places = {clip.caption.lower().index(actor.picture.kind): actor.x for actor in still}
        across = [places[position] for position in sorted(places)]
        assert across == sorted(across)


def test_what_is_counted_need_not_have_a_name() -> None:
    unnamed = replace(SHAPES[0], kind=UNNAMED)
    pool = replace(POOL, cut_outs=[unnamed])
    clip = [random_clip(np.random.default_rng(seed), pool, "count") for seed in range(60)]
    nameless = [s for s in clip if s.scene.actors[0].picture.kind == UNNAMED]
    assert 0 < len(nameless) < 30
    for s in nameless:
        moving = sum(actor.motion != "stays still" for actor in s.scene.actors)
        hedged = ("Nothing moves.", "Something moves.", "Several things move.")
        assert s.caption == hedged[min(2, moving)]
        assert all(asked.task in ("count", "moving count") for asked in s.questions)
    # Where there is nothing nameless, as in tests of a bundle, everything has a name.
    assert all(
        random_clip(np.random.default_rng(seed), POOL, "count").scene.actors[0].picture.kind
        != UNNAMED
        for seed in range(20)
    )
