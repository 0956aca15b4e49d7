"""`reellama demo-video`, `train` and `eval`: what makes bundles, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reellama.pipeline.video.clip import read_frames
from tests.conftest import Result
from tests.helpers.small_tower import write_small_tower

Run = Callable[..., Result]


def test_a_demo_video_shows_what_was_asked_for(reellama: Run, tmp_path: Path) -> None:
    path = tmp_path / "demo.mp4"
    result = reellama("demo-video", path, "--kind", "blue star", "--motion", "moves up")
    assert (result.status, result.out) == (0, "")
    assert "A blue star moves up." in result.err
    clip = read_frames(path, frames=4)
    assert clip.frames[0].shape == (360, 640, 3) and clip.duration >= 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--motion", "flies"], "no motion is called 'flies'; there are: moves right"),
        (["--kind", "unheard of"], "no picture is called 'unheard of'"),
    ],
)
def test_a_demo_of_something_unknown_says_what_is_known(
    reellama: Run, tmp_path: Path, options: list[str], complaint: str
) -> None:
    result = reellama("demo-video", tmp_path / "demo.mp4", *options)
    assert result.status == 2
    assert complaint in result.err
    assert not (tmp_path / "demo.mp4").exists()


def test_training_from_the_command_line_makes_a_bundle(
    reellama: Run, tmp_path: Path, tiny_llama: Path, square_video: Path
) -> None:
    tower = write_small_tower(tmp_path / "tower")
    config = tmp_path / "config.toml"
    config.write_text(
        f'name = "mine"\nllm = "{tiny_llama}"\nframes = 2\nfewest_frames = 1\n'
        f'[vision_tower]\nname = "{tower}"\n'
        "[projector]\ntokens = 4\nwords = 32\nwidth = 8\nlayers = 1\nheads = 2\n"
    )
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"video": str(square_video), "caption": "A square moves."}))
    out = tmp_path / "mine"
    result = reellama("train", config, "--data", data, "--steps", "1,1,1", "--out", out)
    assert result.status == 0, result.err
    assert json.loads((out / "bundle.json").read_text())["name"] == "mine"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere.toml"], "nowhere.toml: No such file or directory"),
        (["CONFIG", "--data", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_line(
    reellama: Run, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('name = "x"\n')
    given = [str(config) if argument == "CONFIG" else argument for argument in arguments]
    result = reellama("train", *given, "--out", tmp_path / "out")
    assert result.status == 1
    assert complaint in result.err and result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value"), [("--data", "a.csv"), ("--steps", "1,1,1"), ("--projector", "mean")]
)
def test_a_config_with_stages_takes_none_of_what_changes_captions(
    reellama: Run, tmp_path: Path, option: str, value: str
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('name = "x"\n[[stages]]\nname = "one"\n')
    result = reellama("train", config, option, value, "--out", tmp_path / "out")
    assert result.status == 1
    assert f"{config}: {option} is not for configs with stages" in result.err
    assert result.err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_bundle_is_measured_on_drawn_clips(reellama: Run) -> None:
    result = reellama("eval", "mini", "--clips", "2", "--style", "shapes", "--json", "-")
    assert result.status == 0, result.err
    found = json.loads(result.out)
    assert found["scores"]["motion"]["of"] == 2
    assert all(clip["truth"] and clip["said"] for clip in found["clips"])


def test_a_bundle_trained_on_other_videos_has_no_drawn_clips(
    reellama: Run, small_bundle: Path
) -> None:
    result = reellama("eval", small_bundle)
    assert result.status == 1
    assert "was not trained on drawn clips" in result.err
