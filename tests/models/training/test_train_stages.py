"""A config with stages: run as a whole, gone on with after a stop, and told before it is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.bundle import Bundle
from reellama.models.synthetic.assets.downloads import ASSETS
from reellama.models.training.config import MultiStageConfig, read_config
from reellama.models.training.train_stages import train_stages
from tests.conftest import Result
from tests.helpers.small_tower import write_small_tower

pytestmark = pytest.mark.numeric

Run = Callable[..., Result]

TIMES = (
    "Times are steps times the config's seconds_per_step, without loading and validation; "
    "another machine takes longer or shorter."
)
STAGES = """
name = "small"
llm = "{llm}"

[synthetic]
styles = ["shapes"]
style_weights = [1.0]
frames = 3
fewest_frames = 2

[lora]
rank = 2
kl_texts = 2
kl_tokens = 64
kl_batch = 1
validation_clips = 4

[[stages]]
name = "base"
measured_on = "a large machine"

[stages.vision_tower]
name = "{tower}"

[stages.projector]
tokens = 60
words = 64
width = 16
layers = 1
heads = 2

[stages.align]
steps = 2
batch = 2
seconds_per_step = 90.0

[stages.joint]
steps = 1
batch = 2
seconds_per_step = 60.0

[[stages]]
name = "adapter"
init_from = "base"
seed = 1
lora_weight_average = 0.5

[stages.text_only]
steps = 1
batch = 2

[stages.lora]
freeze_projector = true

[[stages]]
name = "last"
init_from = "adapter"
average_with = "base"
weight_average = 0.25
seed = 2

[stages.align]
steps = 1
batch = 2
still_batch = 2
sampling_weights = {{ count = 2.0 }}
"""


@pytest.fixture
def path(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of three stages that take seconds, without processes that only draw."""
    monkeypatch.setattr("reellama.models.training.distributed.workers", lambda: 0)
    tower = write_small_tower(tmp_path / "tower")
    path = tmp_path / "small.toml"
    path.write_text(STAGES.format(llm=tiny_llama, tower=tower))
    return path


def train(path: Path, lines: list[str], only: str | None = None) -> Bundle:
    config = read_config(path)
    assert isinstance(config, MultiStageConfig)
    return train_stages(
        config, path.parent / "out", work=path.parent / "work", assets=ASSETS,
        report=lines.append, only=only,
    )  # fmt: skip


def test_all_stages_are_trained_in_order_and_only_once(path: Path) -> None:
    lines: list[str] = []
    bundle = train(path, lines)
    out = path.parent / "out"
    assert sorted(folder.name for folder in out.iterdir()) == ["adapter", "base", "last"]
    assert bundle.folder == out / "last" and bundle.config.name == "small"
    stages = [(one["stage"], one["init_from"]) for one in bundle.config.stages]
    assert stages == [("base", ""), ("adapter", "base"), ("last", "adapter")]
    assert set(bundle.config.stages[0]["seconds"]) == {"align", "text_only", "joint"}
    assert bundle.config.slots
    assert [line for line in lines if ": from " in line] == [
        "base: from new weights", "adapter: from base", "last: from adapter"
    ]  # fmt: skip
    base, adapter = (Bundle.load(out / name).projector.state_dict() for name in ("base", "adapter"))
    assert all(torch.equal(base[name], adapter[name]) for name in base)
    lines.clear()
    train(path, lines)
    assert lines == [f"{name}: finished, in {out / name}" for name in ("base", "adapter", "last")]


def test_a_stopped_run_goes_on_in_the_stage_where_it_was(path: Path) -> None:
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if line.startswith("align: step 2/2"):
            raise KeyboardInterrupt

    config = read_config(path)
    assert isinstance(config, MultiStageConfig)
    out, work = path.parent / "out", path.parent / "work"
    with pytest.raises(KeyboardInterrupt):
        train_stages(config, out, work=work, assets=ASSETS, report=stop, only="base")
    assert not out.exists()
    lines.clear()
    train(path, lines, "base")
    assert lines[0] == "base: from new weights"
    assert (out / "base" / "bundle.json").exists() and not (out / "adapter").exists()


def test_one_stage_needs_what_it_begins_with(path: Path) -> None:
    with pytest.raises(ReellamaError, match="stage last begins with adapter, which is not in"):
        train(path, [], "last")
    with pytest.raises(ReellamaError, match="no stage is called lst; did you mean last"):
        train(path, [], "lst")


def test_a_finished_stage_with_other_settings_is_not_taken_for_the_same(path: Path) -> None:
    train(path, [], "base")
    whole = path.read_text()
    path.write_text(whole.replace("seconds_per_step = 90.0", "seconds_per_step = 1.0"))
    lines: list[str] = []
    train(path, lines, "base")
    assert lines[0].startswith("base: finished"), "an estimate changes nothing"
    path.write_text(whole.replace("steps = 2", "steps = 3"))
    with pytest.raises(ReellamaError, match="trained with another align.steps of stage base"):
        train(path, [], "base")


def test_a_dry_run_says_what_would_be_trained_and_trains_nothing(reellama: Run, path: Path) -> None:
    out = path.parent / "out"
    result = reellama("train", path, "--dry-run", "--out", out)
    assert result.status == 0, result.err
    assert result.out.splitlines() == [
        "base: from new weights",
        "  align          2 steps, 3 min measured on a large machine",
        "  joint          1 steps, 1 min measured on a large machine",
        "adapter: from base, adapter averaged with 50% of base",
        "  text_only      1 steps, time not measured",
        "last: from adapter, projector averaged with 25% of base",
        "  align          1 steps, time not measured",
        "left: 5 steps, about 4 min and 2 phases that nobody measured",
        TIMES,
    ]
    assert not out.exists()
    train(path, [], "base")
    lines = reellama("train", path, "--dry-run", "--out", out).out.splitlines()
    assert lines[0] == "base: from new weights (finished)"
    assert lines[-2] == "left: 2 steps, about 0 min and 2 phases that nobody measured"


def test_the_command_line_trains_the_stage_that_it_names(reellama: Run, path: Path) -> None:
    out = path.parent / "out"
    result = reellama("train", path, "--stage", "base", "--out", out)
    assert result.status == 0, result.err
    assert [folder.name for folder in out.iterdir()] == ["base"]
    assert json.loads((out / "base" / "bundle.json").read_text())["stages"]
