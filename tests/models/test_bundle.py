"""Bundles: what belongs together, and what is said when it does not."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reellama.gguf_tools.format.reader import read_gguf
from reellama.models.bundle import Bundle
from reellama.models.bundle_config import BundleConfig, BundleError
from reellama.models.projector.config import ProjectorConfig
from reellama.models.save_bundle import save_bundle
from reellama.models.training.config import MultiStageConfig, read_config

pytestmark = pytest.mark.numeric

CONFIGS = Path(__file__).parents[2] / "models" / "configs"


@pytest.fixture
def copy(small_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_bundle, tmp_path / "copy"))


def complaint(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.load(folder).encode([np.zeros((8, 8, 3), np.uint8)], np.zeros(1))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("prompt", ["", "[ 1, 2 ]", "[\n  1,\n  2\n]", '"[1', "\u2028"])
def test_a_description_survives_a_round_trip(
    prompt: str, small_bundle: Path, tmp_path: Path
) -> None:
    made = ({"config": {"weights": [0.5, -1e-9, 3], "names": ["a [ 1 ]"], "none": []}},)
    config = replace(
        Bundle.load(small_bundle).config, system=prompt, word_ids=tuple(range(64)), stages=made
    )
    path = tmp_path / "bundle.json"
    path.write_text(config.to_json())
    assert BundleConfig.read(path) == config


def test_mini_says_which_stages_made_it_and_what_inference_needs() -> None:
    config = Bundle.load("mini").config
    names = [stage["stage"] for stage in config.stages]
    made_by = [read_config(CONFIGS / name) for name in ("mini.toml", "mini_footage.toml")]
    synthetic, footage = (
        [stage.stage for stage in staged.stages]
        for staged in made_by
        if isinstance(staged, MultiStageConfig)
    )
    assert names == [*synthetic, *footage]
    # The config of real footage begins with the `mini` that the other one makes.
    begun = [stage["init_from"] for stage in config.stages]
    assert begun == ["", *synthetic[:-1], "mini", *footage[:-1]]
    assert config.slots and config.inverse_temperature == 1.7
    assert config.word_ids and len(config.word_ids) == config.projector.words


def test_mini_stores_the_words_that_its_rows_still_are_nearest_to() -> None:
    mini = Bundle.load("mini")
    older = Bundle(mini.folder, replace(mini.config, word_ids=None))
    assert older.word_ids == mini.word_ids


def test_word_ids_that_do_not_fit_the_projector_are_refused(copy: Path) -> None:
    description = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps({**description, "word_ids": [1, 2]}))
    assert "2 word_ids for 64 rows" in complaint(copy)


def test_scores_are_read_from_their_file_and_from_older_bundles(copy: Path) -> None:
    bundle = Bundle.load(copy)
    assert bundle.scores == {}
    (copy / "bundle.json").write_text(replace(bundle.config, scores={"old": 1}).to_json())
    assert Bundle.load(copy).scores == {"old": 1}
    (copy / "scores.json").write_text('{"new": 2}')
    assert Bundle.load(copy).scores == {"old": 1, "new": 2}
    (copy / "scores.json").write_text("{")
    with pytest.raises(BundleError, match="scores.json: not the scores of a bundle"):
        _ = Bundle.load(copy).scores


def test_new_weights_have_no_scores_of_the_old_ones(copy: Path) -> None:
    (copy / "scores.json").write_text("{}")
    bundle = Bundle.load(copy)
    save_bundle(copy, bundle.config, bundle.projector)
    assert not (copy / "scores.json").exists()


def older(training: dict[str, Any], **keys: Any) -> BundleConfig:
    """A description as older versions wrote it."""
    data = json.loads(BundleConfig("old", "mini-llm", ProjectorConfig()).to_json())
    for key in ("stages", "slots", "inverse_temperature"):
        del data[key]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bundle.json")
        path.write_text(json.dumps({**data, "training": training, **keys}))
        return BundleConfig.read(path)


def test_the_nested_stages_of_an_older_bundle_are_read_in_order() -> None:
    first = {"recipe": {"see": {"steps": 3}}, "seconds": {"see": 9}}
    last = {"recipe": {"sharpness": 1.5}, "seconds": {"tell": 8}, "before": first}
    config = older(last)
    assert config.stages == (
        {"config": {"see": {"steps": 3}}, "seconds": {"see": 9}},
        {"config": {"sharpness": 1.5}, "seconds": {"tell": 8}},
    )
    assert config.slots and config.inverse_temperature == 1.5
    assert not older({}).slots and not older({"recipe": {}}).slots
    assert not older(first, slots=False).slots


def test_the_listed_stages_of_an_older_bundle_are_read() -> None:
    stages = [{"stage": "base", "config": {"seed": 1}}, {"stage": "last", "config": {}}]
    config = older({"stages": stages}, slots=True, inverse_temperature=1.2)
    assert config.stages == tuple(stages)
    assert config.slots and config.inverse_temperature == 1.2


def test_encode_is_features_then_project(small_bundle: Path) -> None:
    bundle = Bundle.load(small_bundle)
    frames = [np.full((30, 40, 3), grey, np.uint8) for grey in (0, 90, 200)]
    times = np.array([0.0, 1.0, 2.5])
    soft = bundle.encode(frames, times).array
    assert soft.shape == (bundle.tokens, bundle.n_embd) and soft.dtype == np.float32
    np.testing.assert_array_equal(soft, bundle.project(bundle.features(frames), times))


def test_a_name_without_a_bundle_lists_those_there_are() -> None:
    with pytest.raises(BundleError, match=r"no-such-bundle.*mini"):
        Bundle.load("no-such-bundle")


def test_nan_in_the_weights_is_found(copy: Path) -> None:
    path = copy / "projector.safetensors"
    weights = load_file(path)
    weights["word_mixture.score.bias"][0] = torch.nan
    save_file(weights, path)
    assert "word_mixture.score.bias holds NaN" in complaint(copy)


def test_a_bundle_whose_projector_has_no_logit_bias_still_loads(copy: Path) -> None:
    path = copy / "projector.safetensors"
    weights = load_file(path)
    weights.pop("word_mixture.logit_bias")
    save_file(weights, path)
    assert not Bundle.load(copy).projector.word_mixture.logit_bias.any()


def test_weights_of_another_shape_are_refused(copy: Path) -> None:
    path = copy / "projector.safetensors"
    weights = load_file(path)
    weights["word_mixture.score.bias"] = torch.zeros(3)
    save_file(weights, path)
    assert "not those that bundle.json describes" in complaint(copy)


@pytest.mark.parametrize("keep", [0, 7, 100])
def test_cut_off_weights_are_refused(copy: Path, keep: int) -> None:
    path = copy / "projector.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "not a safetensors file" in complaint(copy)


def test_missing_weights_are_named(copy: Path) -> None:
    (copy / "projector.safetensors").unlink()
    assert "projector.safetensors: missing" in complaint(copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "name": "x"}', "nonsense"])
def test_a_broken_description_is_refused(copy: Path, text: str) -> None:
    (copy / "bundle.json").write_text(text)
    assert "bundle.json: not a bundle's description" in complaint(copy)


def test_a_newer_format_says_to_update(copy: Path) -> None:
    description = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps({**description, "format": 99}))
    assert "update reellama" in complaint(copy)


def test_another_llm_is_refused_for_its_width(small_bundle: Path, gemma: Path) -> None:
    with pytest.raises(BundleError, match=r"640 numbers.*576") as caught:
        Bundle.load(small_bundle).check_llm(read_gguf(gemma))
    assert gemma.name in str(caught.value)


def test_the_llm_it_was_made_for_is_accepted(small_bundle: Path, smollm2: Path) -> None:
    Bundle.load(small_bundle).check_llm(read_gguf(smollm2))


def test_a_projector_that_has_looked_can_still_learn(small_bundle: Path) -> None:
    bundle = Bundle.load(small_bundle)
    sizes = bundle.config.projector
    bundle.project(np.zeros((2, sizes.cells, sizes.channels), np.float32), np.arange(2.0))
    features = torch.zeros(1, 2, sizes.cells, sizes.channels, requires_grad=True)
    soft = bundle.projector(features, torch.arange(2.0)[None], torch.ones(1, 2, dtype=torch.bool))
    soft.sum().backward()
    assert features.grad is not None
