"""Drawn stories: what is said of a clip is true of it, and every question has one right answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reellama.models.prompt_format import multiple_choice
from reellama.models.synthetic.assets.downloads import ASSETS
from reellama.models.synthetic.assets.picture_pool import UNNAMED, PicturePool
from reellama.models.synthetic.assets.picture_variants import photo_patch, tint
from reellama.models.synthetic.assets.pictures import load_pictures
from reellama.models.synthetic.assets.shapes import COLOURS
from reellama.models.synthetic.camera import CAMERA_MOVES, Camera
from reellama.models.synthetic.dataset import (
    MAX_TURNS,
    SyntheticClips,
    SyntheticConfig,
    conversation,
)
from reellama.models.synthetic.motions import (
    MOVES_ABOUT,
    SequentialMotion,
    ShuffledMotion,
    WaypointMotion,
)
from reellama.models.synthetic.questions import NUMBER_WORDS
from reellama.models.synthetic.render import frame_times, render
from reellama.models.synthetic.scenarios.motion import ROW
from reellama.models.synthetic.scenarios.registry import SCENARIOS, random_clip
from reellama.models.synthetic.scenarios.stills import STILL_SCENARIOS
from reellama.models.synthetic.scene import Actor, reversed_motion
from reellama.models.synthetic.synthetic_clip import SyntheticClip
from reellama.models.training.batches import pad_samples
from reellama.pipeline.evaluation.tasks import synthetic_benchmark
from reellama.pipeline.video.clip import read_frames

SHAPES = load_pictures(("shapes",))
PHOTO = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
CAST = PicturePool(SHAPES, [picture.kind for picture in SHAPES], [PHOTO])
SEEDS = range(12)


def story(name: str, seed: int) -> SyntheticClip:
    return random_clip(np.random.default_rng([seed, len(name)]), CAST, name)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_question_has_its_answer_among_different_choices(name: str) -> None:
    for seed in SEEDS:
        for asked in story(name, seed).questions:
            if asked.choices:
                assert asked.answer in asked.choices
                assert len(set(asked.choices)) == len(asked.choices)
            assert asked.sentence.endswith(".")


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_story_is_the_same_each_time_and_can_be_drawn(name: str) -> None:
    first, again = story(name, 3), story(name, 3)
    assert first.caption == again.caption
    times = frame_times(first.scene.duration, 3)
    frames = render(first.scene, times)
    assert frames.shape == (3, first.scene.size[1], first.scene.size[0], 3)
    assert np.array_equal(frames, render(again.scene, times))


def test_the_numbers_are_those_of_the_actors() -> None:
    for seed in SEEDS:
        told = story("count", seed)
        actors = told.scene.actors
        answers = {asked.task: asked.answer for asked in told.questions}
        moving = sum(actor.motion != "stays still" for actor in actors)
        assert answers["count"] == NUMBER_WORDS[len(actors)]
        assert answers["moving count"] == NUMBER_WORDS[moving]


def test_after_a_shuffle_each_thing_is_where_it_is_said_to_be() -> None:
    for seed in SEEDS:
        told = story("shuffle", seed)
        question = next(asked for asked in told.questions if asked.task == "object shuffle")
        ends = {f"the {a.picture.kind}": a.pose(1.0).x for a in told.scene.actors}
        asked_for = question.question.removeprefix("Where is ").removesuffix(" at the end?")
        rank = sorted(ends.values()).index(ends[asked_for])
        assert question.answer == ROW[rank]


def test_the_faster_one_goes_further_in_the_same_time() -> None:
    for seed in SEEDS:
        told = story("race", seed)
        ways = {
            f"the {actor.picture.kind}": abs(actor.pose(1.0).x - actor.pose(0.0).x)
            for actor in told.scene.actors
        }
        question = next(asked for asked in told.questions if asked.task == "speed")
        best = max if "faster" in question.question else min
        assert question.answer == best(ways, key=ways.__getitem__)


def test_what_happens_second_begins_where_the_first_thing_ended() -> None:
    for seed in SEEDS:
        doing = SequentialMotion.random(np.random.default_rng(seed), SHAPES[0], 0.3, (192, 192))
        before, after = doing.pose(doing.switch_time - 1e-6), doing.pose(doing.switch_time)
        assert (before.x, before.y, before.size) == pytest.approx(
            (after.x, after.y, after.size), abs=0.02
        )


def test_a_route_ends_at_the_place_that_is_told() -> None:
    for seed in SEEDS:
        places, routes = WaypointMotion.swapping_places(
            np.random.default_rng(seed), SHAPES[:3], 0.2, 2
        )
        assert sorted(places) == [0, 1, 2]
        order = np.argsort([route.pose(1.0).x for route in routes])
        assert [places[i] for i in order] == [0, 1, 2]


def test_the_choices_for_an_order_are_what_the_same_moments_could_show_in_another_order() -> None:
    for seed in SEEDS:
        told = story("order", seed)
        (doing,) = told.scene.actors
        assert isinstance(doing, SequentialMotion)
        for asked in told.questions:
            if asked.task == "action order":
                choices = {choice.removeprefix("it ") for choice in asked.choices}
                assert {doing.first.motion, doing.second.motion} < choices and len(choices) == 4
                assert {reversed_motion(motion) for motion in choices} == choices


def test_who_must_choose_where_there_is_no_direction_and_no_order_learns_to_prefer_none() -> None:
    for seed in SEEDS:
        told = story("about", seed)
        asked = [question for question in told.questions if question.task == ""]
        assert len(asked) == 4 and len({question.question for question in asked}) == 1
        assert {question.answer for question in asked} == set(asked[0].choices)
        assert {question.sentence for question in asked} == {"It moves about."}


def test_the_choices_for_a_direction_are_both_ways_along_two_lines() -> None:
    for seed in SEEDS:
        for asked in story("one", seed).questions:
            if asked.task == "moving direction":
                moves = {f"moves {way}" for way in asked.choices}
                assert len(moves) == 4 and {reversed_motion(motion) for motion in moves} == moves


def test_where_and_how_large_things_are_does_not_tell_which_motion_came_first() -> None:
    begins, ends = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        doing = SequentialMotion.random(rng, SHAPES[seed % len(SHAPES)], 0.3, (256, 192))
        begins.append(doing.pose(0.0))
        ends.append(doing.pose(1.0 - 1e-9))
    for measure in (lambda pose: np.hypot(pose.x - 0.5, pose.y - 0.5), lambda pose: pose.size):
        more = np.array([measure(b) - measure(e) for b, e in zip(begins, ends, strict=True)])
        assert abs(more.mean()) < 3 * more.std() / np.sqrt(len(more))


def test_two_motions_stay_inside_the_picture_at_the_size_that_was_asked_for() -> None:
    for seed in SEEDS:
        doing = SequentialMotion.random(np.random.default_rng(seed), SHAPES[seed], 0.3, (256, 192))
        poses = [doing.pose(u) for u in np.linspace(0, 1, 33)]
        assert max(pose.size for pose in poses) == pytest.approx(0.3)
        for pose in poses:
            wide, tall = pose.size / 2 * 192 / 256, pose.size / 2
            assert wide - 1e-6 <= pose.x <= 1 - wide + 1e-6
            assert tall - 1e-6 <= pose.y <= 1 - tall + 1e-6


def test_hops_and_swings_before_or_after_another_motion_end_where_they_began() -> None:
    found = 0
    for seed in range(100):
        doing = SequentialMotion.random(np.random.default_rng(seed), SHAPES[0], 0.3, (192, 192))
        for actor in (doing.first, doing.second):
            if actor.motion in ("bounces", "shakes"):
                begin, end = actor.pose(0.0), actor.pose(1.0)
                assert (begin.x, begin.y) == pytest.approx((end.x, end.y))
                found += 1
    assert found


def test_what_moves_about_keeps_no_direction_and_stays_in_the_picture() -> None:
    for seed in range(20):
        told = story("about", seed)
        (actor,) = told.scene.actors
        assert actor.motion == MOVES_ABOUT
        assert all(question.task != "moving direction" for question in told.questions)
        if isinstance(actor, ShuffledMotion):
            continue
        xs, ys = np.array([(p.x, p.y) for u in np.linspace(0, 1, 65) for p in [actor.pose(u)]]).T
        turns = sum(np.count_nonzero(np.diff(np.sign(np.diff(way)))) for way in (xs, ys))
        assert turns >= 3
        assert min(xs.min(), ys.min()) > 0.1 and max(xs.max(), ys.max()) < 0.9


def test_a_jumbled_motion_shows_every_moment_of_it_once_and_none_of_its_order() -> None:
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        actor = ShuffledMotion.random(rng, SequentialMotion.random(rng, SHAPES[0], 0.3, (192, 192)))
        count = len(actor.frame_times)
        shown = [actor.pose((number + 0.5) / count).x for number in range(count)]
        ordered = [actor.ordered.pose(number / (count - 1)).x for number in range(count)]
        assert sorted(shown) == pytest.approx(sorted(ordered))
        assert sorted(actor.frame_times) != list(actor.frame_times)
    assert any(
        isinstance(story("about", seed).scene.actors[0], ShuffledMotion) for seed in range(20)
    )


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


def test_a_cut_shows_another_scene_from_its_time_on() -> None:
    told = story("cut", 2)
    scene = told.scene
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


def test_a_patch_of_a_photograph_has_no_name_to_be_told() -> None:
    unnamed = photo_patch(np.random.default_rng(0), PHOTO, "something")
    assert unnamed.kind == "something"
    assert 0 < (unnamed.rgba[..., 3] > 128).mean() < 1
    for seed in SEEDS:
        told = story("unknown", seed)
        camera = told.scene.camera
        assert (camera.move if camera else "the camera stays still") in told.caption.lower()
        moving = [actor for actor in told.scene.actors if actor.motion != "stays still"]
        if len(told.scene.actors) > 1:
            wanted = ("Nothing moves.", "Something moves.", "Several things move.")
            assert told.caption.startswith(wanted[min(2, len(moving))])


@pytest.fixture(scope="module")
def stories() -> SyntheticClips:
    config = SyntheticConfig(styles=("shapes",), style_weights=(1.0,), frames=6, fewest_frames=3)
    return SyntheticClips(config, 48, ASSETS, photos=[PHOTO])


def test_samples_differ_by_number_and_never_by_time(stories: SyntheticClips) -> None:
    one, again, other = stories[5], stories[5], stories[6]
    assert np.array_equal(one["frames"], again["frames"])
    assert one["turns"] == again["turns"]
    assert one["slots"] != other["slots"] or one["turns"] != other["turns"]


def test_samples_stand_side_by_side_with_a_mask(stories: SyntheticClips) -> None:
    samples = [stories[number] for number in range(8)]
    frames, times, mask = pad_samples(samples)
    assert frames.shape[0] == 8 and frames.shape[2:] == (3, 48, 48)
    assert mask.sum(1).tolist() == [len(sample["times"]) for sample in samples]
    assert times.shape == mask.shape


def test_a_conversation_is_of_questions_of_the_story(stories: SyntheticClips) -> None:
    for number in range(30):
        told = stories.clip(number)
        sentences = {asked.sentence for asked in told.questions} | {told.caption}
        for question, answer in conversation(told, np.random.default_rng(number)):
            if "\nChoose one: " in question:
                assert answer in question.partition("\nChoose one: ")[2]
            else:
                assert answer in sentences


def test_a_whole_conversation_asks_all_that_a_story_has_to_ask(stories: SyntheticClips) -> None:
    for number in range(30):
        told = stories.clip(number)
        turns = conversation(told, np.random.default_rng(number), p_describe_first=0.0, whole=True)
        asked = [question.partition("\nChoose one: ")[0] for question, _ in turns]
        wanted = [question.question for question in told.questions]
        found = sum(question in wanted for question in asked)
        assert found == min(len(wanted), MAX_TURNS - 1)


def test_choices_are_named_in_one_line() -> None:
    asked = multiple_choice("Which way?", ["left", "right"])
    assert asked == "Which way?\nChoose one: left; right."


def test_the_benchmark_asks_every_task_about_files_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = synthetic_benchmark.BenchmarkSplit(("shapes",), "known")
    monkeypatch.setitem(synthetic_benchmark.BENCHMARK_SPLITS, "new-clips", split)
    asked = list(synthetic_benchmark.benchmark_items("new-clips", 1, 0, tmp_path))
    assert {item.task for item in asked} == set(synthetic_benchmark.TASKS)
    for item in asked:
        assert not item.choices or item.answer in item.choices
    clip = read_frames(asked[0].video, frames=4)
    assert len(clip.frames) == 4
    (tmp_path / "again").mkdir()
    (alone,) = synthetic_benchmark.benchmark_items(
        "new-clips", 1, 0, tmp_path / "again", tasks=["count"]
    )
    (among,) = [item for item in asked if item.task == "count"]
    assert (alone.question, alone.answer) == (among.question, among.answer)
    assert alone.video.read_bytes() == among.video.read_bytes()


def test_all_actors_of_the_simple_stories_stay_in_the_picture() -> None:
    for name in ("one", "place", "race", "mover"):
        for seed in SEEDS:
            for actor in story(name, seed).scene.actors:
                assert isinstance(actor, Actor)
                for u in (0.0, 0.5, 1.0):
                    pose = actor.pose(u)
                    assert -0.1 < pose.x < 1.1 and -0.1 < pose.y < 1.1


@pytest.mark.parametrize("name", STILL_SCENARIOS)
def test_a_still_shows_what_is_told_of_it_and_nothing_moves(name: str) -> None:
    for seed in SEEDS:
        told = STILL_SCENARIOS[name][0](np.random.default_rng([seed, len(name)]), CAST)
        assert all(actor.motion == "stays still" for actor in told.scene.actors)
        kinds = {actor.picture.kind for actor in told.scene.actors} - {UNNAMED}
        assert all(kind in told.caption.lower() for kind in kinds)
        for asked in told.questions:
            assert not asked.choices or asked.answer in asked.choices
            assert asked.task not in ("moving direction", "action order", "camera")


@pytest.mark.parametrize("name", ["group", "mover", "camera"])
def test_several_things_that_stand_still_are_told_from_left_to_right(name: str) -> None:
    makers = {"group": STILL_SCENARIOS["group"][0], "mover": SCENARIOS["mover"][0]}
    make = makers.get(name, SCENARIOS["camera"][0])
    for seed in SEEDS:
        told = make(np.random.default_rng(seed), CAST)
        actors = [actor for actor in told.scene.actors if isinstance(actor, Actor)]
        still = [a for a in actors if a.motion == "stays still" and a.picture.kind != UNNAMED]
        places = {told.caption.lower().index(actor.picture.kind): actor.x for actor in still}
        across = [places[position] for position in sorted(places)]
        assert across == sorted(across)


def test_a_sample_of_a_still_has_one_frame_and_never_comes_twice() -> None:
    config = SyntheticConfig(styles=("shapes",), style_weights=(1.0,))
    stills = SyntheticClips(config, 48, ASSETS, photos=[PHOTO]).as_stills()
    samples = [stills[number] for number in range(20)]
    assert all(sample["frames"].shape == (1, 3, 48, 48) for sample in samples)
    assert len({sample["frames"].numpy().tobytes() for sample in samples}) == 20
    assert all(sample["turns"] for sample in samples)


def test_stories_with_more_emphasis_are_told_more_often() -> None:
    rng = np.random.default_rng(0)
    names = [random_clip(rng, CAST, sampling_weights={"shuffle": 100.0}).name for _ in range(40)]
    assert names.count("shuffle") > 30
    silent = {name: 0.0 for name in SCENARIOS if name != "race"}
    assert {random_clip(rng, CAST, sampling_weights=silent).name for _ in range(5)} == {"race"}


def test_stills_with_more_emphasis_are_told_more_often() -> None:
    config = SyntheticConfig(styles=("shapes",), style_weights=(1.0,))
    clips = SyntheticClips(config, 48, ASSETS, photos=[PHOTO])
    stills = clips.as_stills().with_sampling_weights({"copies": 100.0})
    names = [stills.clip(number).name for number in range(40)]
    assert stills.stills and names.count("copies") > 30


def test_what_is_counted_need_not_have_a_name() -> None:
    unnamed = replace(SHAPES[0], kind=UNNAMED)
    cast = replace(CAST, cut_outs=[unnamed])
    told = [random_clip(np.random.default_rng(seed), cast, "count") for seed in range(60)]
    nameless = [s for s in told if s.scene.actors[0].picture.kind == UNNAMED]
    assert 0 < len(nameless) < 30
    for s in nameless:
        moving = sum(actor.motion != "stays still" for actor in s.scene.actors)
        hedged = ("Nothing moves.", "Something moves.", "Several things move.")
        assert s.caption == hedged[min(2, moving)]
        assert all(asked.task in ("count", "moving count") for asked in s.questions)
    # Where there is nothing nameless, as in tests of a bundle, everything has a name.
    assert all(
        random_clip(np.random.default_rng(seed), CAST, "count").scene.actors[0].picture.kind
        != UNNAMED
        for seed in range(20)
    )
