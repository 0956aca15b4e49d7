"""Rendered clips: what a scene says happens is what its frames show."""

from __future__ import annotations

import functools
import itertools
import os
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.synthetic.assets.backgrounds import Background
from reellama.models.synthetic.assets.downloads import EMOJI_PACKAGES
from reellama.models.synthetic.assets.pictures import (
    PICTURE_SIZE,
    Picture,
    load_kinds,
    load_pictures,
    shape_kinds,
)
from reellama.models.synthetic.render import frame_times, render
from reellama.models.synthetic.scene import MOTIONS, Actor, Scene
from reellama.models.synthetic.scene_captions import scene_caption, scene_questions
from reellama.models.synthetic.scene_generation import MIN_TURN_VISIBILITY, overlap, random_scene
from reellama.models.synthetic.video_writer import write_video

SHAPES = load_pictures(["shapes"])
SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=20, deadline=None)


def scene_of(seed: int, motion: str, picture: Picture | None = None) -> Scene:
    """A one-actor scene on a flat background without grain."""
    rng = np.random.default_rng(seed)
    scene = random_scene(rng, SHAPES, motion=motion, picture=picture, p_two=0)
    return Scene(scene.actors, Background("flat", flat_seed()), scene.size, scene.duration)


@functools.cache
def flat_seed() -> int:
    """The seed of a background of one colour, unlike any shape's."""
    colours = np.array([shape.rgba[..., :3].max(axis=(0, 1)) for shape in SHAPES], np.float32)
    for seed in range(100):
        pixels = np.asarray(Background("flat", seed).paint(8, 8), np.float32)
        if (
            pixels.std(axis=(0, 1)).max() == 0
            and (np.abs(colours - pixels[0, 0]).max(1) > 40).all()
        ):
            return seed
    raise AssertionError("no plain background found")


def masks(scene: Scene, frames: int = 8) -> np.ndarray:
    """Where the frames differ from the empty background: bool [T, H, W]."""
    empty = np.asarray(scene.background.paint(*scene.size), np.int16)
    drawn = render(scene, frame_times(scene.duration, frames)).astype(np.int16)
    return np.abs(drawn - empty).max(axis=3) > 20


def visible(scene: Scene) -> np.ndarray:
    """In which of 8 frames the actor is to be seen: bool [8]."""
    return np.array([mask.any() for mask in masks(scene)])


def centres(mask: np.ndarray) -> np.ndarray:
    """x, y of the middle of each frame's bounding box, in pixels: [T, 2]."""
    middles = []
    for frame in mask:
        rows, columns = np.nonzero(frame)
        middles.append(((columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2))
    return np.array(middles)


@few
@given(seed=SEEDS)
@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [("moves right", 0, 1), ("moves left", 0, -1), ("moves up", 1, -1), ("moves down", 1, 1)],
)
def test_an_actor_that_moves_travels_steadily_that_way(
    motion: str, axis: int, sign: int, seed: int
) -> None:
    scene = scene_of(seed, motion)
    poses = [scene.actors[0].pose(u) for u in np.linspace(0, 1, 8)]
    way = sign * np.array([(pose.x, pose.y)[axis] for pose in poses])
    assert np.all(np.diff(way) > 0)
    assert way[-1] - way[0] >= 0.45
    seen = sign * centres(masks(scene))[:, axis]
    assert np.all(np.diff(seen) > 0)
    across = centres(masks(scene))[:, 1 - axis]
    assert np.ptp(across) <= 2


@few
@given(seed=SEEDS)
@pytest.mark.parametrize(("motion", "sign"), [("grows", 1), ("shrinks", -1)])
def test_growing_and_shrinking_change_the_area(motion: str, sign: int, seed: int) -> None:
    areas = masks(scene_of(seed, motion)).sum(axis=(1, 2)).astype(float)
    assert np.all(sign * np.diff(areas) >= 0)
    assert max(areas) / min(areas) > 2


@few
@given(seed=SEEDS)
def test_what_stays_still_gives_identical_frames(seed: int) -> None:
    scene = random_scene(np.random.default_rng(seed), SHAPES, motion="stays still", p_two=0)
    frames = render(scene, frame_times(scene.duration, 8))
    assert (frames == frames[0]).all()
    assert masks(scene_of(seed, "stays still")).any()


@few
@given(seed=SEEDS)
def test_appearing_and_disappearing_happen_around_the_middle(seed: int) -> None:
    shown = visible(scene_of(seed, "appears"))
    assert not shown[:3].any()
    assert shown[5:].all()
    shown = visible(scene_of(seed, "disappears"))
    assert shown[:3].all()
    assert not shown[5:].any()


@few
@given(seed=SEEDS)
@pytest.mark.parametrize(("motion", "axis"), [("bounces", 1), ("shakes", 0)])
def test_bouncing_and_shaking_go_back_and_forth_along_one_axis(
    motion: str, axis: int, seed: int
) -> None:
    scene = scene_of(seed, motion)
    middles = centres(masks(scene, frames=40)) / scene.size
    steps = np.sign(np.diff(middles[:, axis]))
    turns = np.count_nonzero(np.diff(steps[steps != 0]))
    assert turns >= 2
    assert np.ptp(middles[:, axis]) >= 0.15
    assert np.ptp(middles[:, 1 - axis]) <= 0.01


@few
@given(seed=SEEDS)
def test_spinning_turns_in_place_at_least_once(seed: int) -> None:
    star = next(shape for shape in SHAPES if shape.kind == "blue triangle")
    scene = scene_of(seed, "spins", star)
    poses = [scene.actors[0].pose(u) for u in np.linspace(0, 1, 8)]
    angles = np.array([pose.angle for pose in poses])
    assert 360 <= abs(angles[-1] - angles[0]) < 3.5 * 360
    assert len({(pose.x, pose.y, pose.size) for pose in poses}) == 1
    seen = masks(scene)
    assert all((one != other).any() for one, other in itertools.pairwise(seen))


def test_nothing_round_is_said_to_spin() -> None:
    rng = np.random.default_rng(0)
    round_shapes = [shape for shape in SHAPES if shape.kind.split()[1] in ("ball", "ring")]
    assert all(shape.turn_visibility < MIN_TURN_VISIBILITY for shape in round_shapes)
    scenes = [random_scene(rng, round_shapes) for _ in range(100)]
    assert all(actor.motion != "spins" for scene in scenes for actor in scene.actors)


@few
@given(seed=SEEDS)
def test_a_seed_gives_the_same_clip_and_a_frame_depends_only_on_its_time(seed: int) -> None:
    one, other = (random_scene(np.random.default_rng(seed), SHAPES) for _ in range(2))
    times = np.random.default_rng(seed).uniform(0, one.duration, 5)
    frames = render(one, times)
    assert (frames == render(other, times)).all()
    assert (frames[::-1] == render(one, times[::-1])).all()
    assert (frames[2:3] == render(one, times[2:3])).all()


@pytest.mark.parametrize("size", [(224, 224), (320, 180), (90, 160)])
def test_frames_have_the_size_of_the_scene(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        frames = render(random_scene(rng, SHAPES, size=size), np.array([0.0, 1.0]))
        assert frames.shape == (2, size[1], size[0], 3)
        assert frames.dtype == np.uint8


@few
@given(seed=SEEDS)
def test_a_second_actor_is_smaller_of_another_kind_and_not_hidden(seed: int) -> None:
    scene = random_scene(np.random.default_rng(seed), SHAPES, p_two=1)
    if len(scene.actors) == 2:
        main, second = scene.actors
        assert isinstance(main, Actor) and isinstance(second, Actor)
        assert second.size <= 0.6 * main.size
        assert second.picture.kind != main.picture.kind
        assert overlap(main, second, scene.size) <= second.size / 5


def test_about_as_many_scenes_have_two_actors_as_asked() -> None:
    rng = np.random.default_rng(2)
    pairs = sum(len(random_scene(rng, SHAPES, p_two=0.5).actors) == 2 for _ in range(400))
    assert 130 < pairs < 230


@few
@given(seed=SEEDS)
def test_captions_and_answers_agree_with_the_scene(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = random_scene(rng, SHAPES, p_two=0.5)
    present = [actor.picture.kind for actor in scene.actors]
    told = " and ".join(f"a {actor.picture.kind} {actor.motion}" for actor in scene.actors)
    assert scene_caption(scene) == told.capitalize() + "."
    asked = scene_questions(scene, rng, shape_kinds())
    assert all(question.endswith("?") or question.startswith("Describe") for question, _ in asked)
    answers = [answer for _, answer in asked]
    assert ("One." if len(present) == 1 else "Two.") in answers
    assert scene_caption(scene) in answers
    assert all(f"Yes, there is a {kind}." in answers for kind in present)
    absent = [answer for answer in answers if answer.startswith("No, there is no ")]
    assert len(absent) == 1
    assert absent[0][len("No, there is no ") : -1] not in present
    for actor in scene.actors:
        assert f"It {actor.motion}." in answers


def test_the_way_asked_for_is_told_for_every_motion() -> None:
    ways = {}
    for motion in MOTIONS:
        asked = scene_questions(scene_of(0, motion), np.random.default_rng(0))
        ways[motion] = next(a for q, a in asked if "Which way" in q or "direction" in q)
    assert ways["moves left"] == "It moves left."
    assert ways["stays still"] == "It does not move."
    assert ways["grows"] == "It stays in place and grows."


@pytest.mark.parametrize(
    ("kind", "said"),
    [("dog", "A dog"), ("owl", "An owl"), ("unicorn", "A unicorn"), ("hourglass", "An hourglass")],
)
def test_the_article_follows_the_first_sound(kind: str, said: str) -> None:
    picture = Picture(kind, "shapes", SHAPES[0].rgba)
    assert scene_caption(scene_of(0, "stays still", picture)) == f"{said} stays still."


def test_every_kind_has_a_name_and_a_code_point_of_its_own() -> None:
    names = [kind.name for kind in load_kinds()] + shape_kinds()
    assert len(set(names)) == len(names) > 500
    assert len({kind.code_point for kind in load_kinds()}) == len(load_kinds())
    for kind in load_kinds():
        assert kind.name == kind.name.strip().lower()
        assert len(kind.name.split()) <= 3
        assert all(0x2000 < int(part, 16) < 0x20000 for part in kind.code_point.split("-")[:1])
        assert kind.category in {"nature", "food", "places", "activities", "objects"}


def test_what_bears_letters_is_never_mirrored() -> None:
    sign = Picture("stop sign", "shapes", SHAPES[0].rgba, lettered=True)
    assert next(kind for kind in load_kinds() if kind.name == "stop sign").lettered
    assert not any(scene_of(seed, "grows", sign).actors[0].mirrored for seed in range(20))


def test_shapes_are_drawn_without_any_material() -> None:
    assert {shape.kind for shape in SHAPES} == set(shape_kinds())
    assert all(shape.rgba.shape == (PICTURE_SIZE, PICTURE_SIZE, 4) for shape in SHAPES)


def test_openmoji_is_rasterised_once_from_its_package(tmp_path: Path) -> None:
    kinds = ["dog", "chipmunk", "polar bear"]  # plain, with FE0F, and a joined code point
    pictures = load_pictures(["openmoji"], tmp_path, kinds)
    assert sorted(picture.kind for picture in pictures) == sorted(kinds)
    for picture in pictures:
        alpha = picture.rgba[..., 3] > 0
        assert alpha.any(axis=0).all() or alpha.any(axis=1).all(), "fills the square one way"
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    load_pictures(["openmoji"], tmp_path, kinds)
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}


def test_emoji_packages_are_fetched_with_npm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openmoji = load_pictures(["openmoji"], tmp_path / "drawn", ["dog"])
    _, _, folder = EMOJI_PACKAGES["noto"]
    with tarfile.open(tmp_path / "set.tgz", "w:gz") as archive:
        archive.add(tmp_path / "drawn" / "openmoji", f"package/{folder}")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\ncp '{tmp_path / 'set.tgz'}' set.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    (dog,) = load_pictures(["noto"], tmp_path / "material", ["dog"])
    assert dog.style == "noto"
    assert (dog.rgba == openmoji[0].rgba).all()
    npm.unlink()  # the second time nothing is fetched
    assert len(load_pictures(["noto"], tmp_path / "material", ["dog"])) == 1


def test_missing_npm_a_broken_picture_and_an_unknown_style_are_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ReellamaError, match="no picture style is called clay"):
        load_pictures(["clay"], tmp_path)
    folder = tmp_path / "emoji-datasource-twitter" / "img" / "twitter" / "64"
    folder.mkdir(parents=True)
    (folder / "1f415.png").write_bytes(b"not a picture")
    with pytest.raises(ReellamaError, match=r"1f415\.png"):
        load_pictures(["twemoji"], tmp_path, ["dog"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReellamaError, match="npm is not installed"):
        load_pictures(["noto"], tmp_path, ["dog"])


@pytest.mark.parametrize("codec", ["h264", "no such codec"])
def test_a_written_video_decodes_to_the_frames(tmp_path: Path, codec: str) -> None:
    scene = scene_of(3, "moves right")
    frames = render(scene, np.arange(12) / 6)
    write_video(tmp_path / "clip.mp4", frames, fps=6, codec=codec)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].average_rate == 6
        decoded = np.stack(
            [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        )
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(float) - frames).mean() < 12


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.mp4", "vp9.webm"])
def test_the_same_frames_are_always_the_same_file(tmp_path: Path, name: str) -> None:
    frames = render(scene_of(3, "moves right"), np.arange(12) / 6)
    written = []
    for folder in ("one", "other"):
        path = tmp_path / folder / name
        path.parent.mkdir()
        write_video(path, frames, fps=6, codec=path.stem)
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_a_video_that_cannot_be_written_is_told_in_a_line(tmp_path: Path) -> None:
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    with pytest.raises(ReellamaError, match=r"cannot save .*: No such file or directory"):
        write_video(tmp_path / "missing" / "clip.mp4", frames)
