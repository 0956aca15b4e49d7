"""Motions of things and of the camera: where they begin and end, and what they do not give away."""

from __future__ import annotations

import numpy as np
import pytest

from reellama.models.synthetic.assets.pictures import load_pictures
from reellama.models.synthetic.camera import CAMERA_MOVES, Camera
from reellama.models.synthetic.motions import (
    SequentialMotion,
    ShuffledMotion,
    WaypointMotion,
)

SHAPES = load_pictures(("shapes",))
SEEDS = range(12)


def test_the_second_motion_begins_where_the_first_one_ends() -> None:
    for seed in SEEDS:
        motion = SequentialMotion.random(np.random.default_rng(seed), SHAPES[0], 0.3, (192, 192))
        before, after = motion.pose(motion.switch_time - 1e-6), motion.pose(motion.switch_time)
        assert (before.x, before.y, before.size) == pytest.approx(
            (after.x, after.y, after.size), abs=0.02
        )


def test_waypoints_end_at_the_place_that_is_returned() -> None:
    for seed in SEEDS:
        places, routes = WaypointMotion.swapping_places(
            np.random.default_rng(seed), SHAPES[:3], 0.2, 2
        )
        assert sorted(places) == [0, 1, 2]
        order = np.argsort([route.pose(1.0).x for route in routes])
        assert [places[i] for i in order] == [0, 1, 2]


def test_where_and_how_large_things_are_does_not_tell_which_motion_came_first() -> None:
    begins, ends = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        motion = SequentialMotion.random(rng, SHAPES[seed % len(SHAPES)], 0.3, (256, 192))
        begins.append(motion.pose(0.0))
        ends.append(motion.pose(1.0 - 1e-9))
    for measure in (lambda pose: np.hypot(pose.x - 0.5, pose.y - 0.5), lambda pose: pose.size):
        more = np.array([measure(b) - measure(e) for b, e in zip(begins, ends, strict=True)])
        assert abs(more.mean()) < 3 * more.std() / np.sqrt(len(more))


def test_two_motions_stay_inside_the_picture_at_the_size_that_was_asked_for() -> None:
    for seed in SEEDS:
        motion = SequentialMotion.random(np.random.default_rng(seed), SHAPES[seed], 0.3, (256, 192))
        poses = [motion.pose(u) for u in np.linspace(0, 1, 33)]
        assert max(pose.size for pose in poses) == pytest.approx(0.3)
        for pose in poses:
            wide, tall = pose.size / 2 * 192 / 256, pose.size / 2
            assert wide - 1e-6 <= pose.x <= 1 - wide + 1e-6
            assert tall - 1e-6 <= pose.y <= 1 - tall + 1e-6


def test_hops_and_swings_before_or_after_another_motion_end_where_they_began() -> None:
    found = 0
    for seed in range(100):
        motion = SequentialMotion.random(np.random.default_rng(seed), SHAPES[0], 0.3, (192, 192))
        for actor in (motion.first, motion.second):
            if actor.motion in ("bounces", "shakes"):
                begin, end = actor.pose(0.0), actor.pose(1.0)
                assert (begin.x, begin.y) == pytest.approx((end.x, end.y))
                found += 1
    assert found


def test_a_shuffled_motion_shows_every_moment_of_it_once_and_none_of_its_order() -> None:
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        actor = ShuffledMotion.random(rng, SequentialMotion.random(rng, SHAPES[0], 0.3, (192, 192)))
        count = len(actor.frame_times)
        shown = [actor.pose((number + 0.5) / count).x for number in range(count)]
        ordered = [actor.ordered.pose(number / (count - 1)).x for number in range(count)]
        assert sorted(shown) == pytest.approx(sorted(ordered))
        assert sorted(actor.frame_times) != list(actor.frame_times)


@pytest.mark.parametrize("move", CAMERA_MOVES)
def test_a_camera_does_what_its_name_says_and_stays_inside_the_world(move: str) -> None:
    camera = Camera.random(np.random.default_rng(1), move)
    views = [camera.view(u) for u in (0.0, 0.5, 1.0)]
    assert all(0 <= edge <= 1 for view in views for edge in view)
    (left, top, right, bottom), *_, (left1, top1, right1, bottom1) = views
    grown = (right1 - left1) / (right - left)
    change = {
        "right": left1 - left,
        "left": left - left1,
        "up": top - top1,
        "down": bottom1 - bottom,
        "in": 1 - grown,
        "out": grown - 1,
    }
    assert change[move.rpartition(" ")[2]] > 0.1
