"""A vision model that cannot be converted is refused in one line, and nothing is written."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from reellama.gguf_tools.conversion.convert import convert
from reellama.gguf_tools.errors import ReellamaError
from tests.helpers import tiny_hf
from tests.helpers.vision_checkpoints import MAKERS


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each family."""
    made = {}
    for name, make in MAKERS.items():
        made[name] = make(tmp_path_factory.mktemp(name.replace(" ", "-")))
    return made


def refused(folder: Path, message: str, tmp_path: Path) -> None:
    """A conversion fails with one line and leaves nothing behind."""
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ReellamaError, match=message) as caught:
        convert(folder, "F16", out / "model.gguf")
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "llava",
            {"model_type": "pixtral"},
            "'pixtral' is not known .* known are: clip_vision_mod",
        ),
        ("llava", {"hidden_act": "relu"}, "has no activation 'relu' in the vision encoder"),
        ("llava", {"num_attention_heads": 3}, "has no 3 heads for a width of 32"),
        ("llava", {"num_hidden_layers": 600}, "has no room for 60. layers"),
        ("llava", {"intermediate_size": 32}, "has no intermediate_size that is hidden_size"),
        ("llava", {"num_hidden_layers": 9}, r"lacks \d+ of the vision encoder's .* v\.blk\.3\."),
        ("smolvlm", {"image_size": None}, "has no image_size None"),
        ("smolvlm", {"image_size": 7}, "has no pictures of 7 pixels"),
        ("smolvlm", {"image_size": 140}, r"v.position_embd.weight is \[64, 32\], not \[100, 32\]"),
        ("smolvlm", {"patch_size": 16}, "has no scale_factor 2 for 7 x 7 patches"),
        ("llava", {"hidden_size": 48}, r"patch_embd.weight is \[32, 3, 14, 14\], not \[48, 3, "),
        ("gemma3", {"patch_size": 16}, "has no 16 tokens for 7 x 7 patches"),
        ("qwen2.5-vl", {"fullatt_block_indexes": [0, 3]}, r"has no fullatt_block_indexes \[0, 3\]"),
        ("qwen2.5-vl", {"window_size": 56}, "has no window_size 56"),
        ("qwen2.5-vl", {"temporal_patch_size": 1}, "has no temporal_patch_size 1"),
        ("qwen2.5-vl", {"hidden_act": "gelu"}, "has no activation gelu"),
    ],
)
def test_an_encoder_that_llama_cpp_lacks_is_refused(
    name: str, changes: dict[str, Any], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    vision = json.loads((folders[name] / "config.json").read_text())["vision_config"]
    folder = tiny_hf.edited_copy(
        folders[name], tmp_path / "copy", vision_config={**vision, **changes}
    )
    refused(folder, message, tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llava", {"projector_hidden_act": "silu"}, "has no projector_hidden_act 'silu'"),
        ("llava", {"vision_feature_layer": [-2, -1]}, "has no features of several layers"),
        ("llava", {"vision_feature_layer": 7}, "has no layer 7"),
        ("smolvlm", {"scale_factor": 1}, "has no scale_factor 1 for 8 x 8 patches"),
        ("llava", {"vision_feature_select_strategy": "full"}, "select_strategy 'full'"),
        ("llava onevision", {"vision_feature_select_strategy": "default"}, "strategy 'default'"),
        ("llava", {"text_config": {"model_type": "phi"}}, "language model 'phi' is not known"),
        (
            "llava",
            {"architectures": ["MllamaForConditionalGeneration"]},
            "Mllama.* is not known; known are: .*SmolVLMForConditionalGeneration",
        ),
    ],
)
def test_a_model_around_it_that_llama_cpp_lacks_is_refused(
    name: str, changes: dict[str, Any], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    refused(tiny_hf.edited_copy(folders[name], tmp_path / "copy", **changes), message, tmp_path)


Weights = dict[str, np.ndarray]


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if part not in name}


def filled(name: str, number: float) -> Callable[[Weights], Weights]:
    def change(weights: Weights) -> Weights:
        [full] = [key for key in weights if key.endswith(name)]
        value = weights[full].copy()
        value.flat[-1] = number
        return weights | {full: value}

    return change


def added(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: np.zeros((2, 2), np.float32)}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llava", without("vision_tower"), r"lacks \d+ of the vision encoder's tensors"),
        ("llava", without("multi_modal_projector"), r"lacks 4 .* what becomes mm\.0\.bias"),
        ("llava", without("linear_2.bias"), r"lacks 1 .* what becomes mm\.2\.bias"),
        ("llava", without("class_embedding"), r"lacks 1 .* what becomes v\.class_embd"),
        ("smolvlm", without("layers.1.mlp.fc1.bias"), r"what becomes v\.blk\.1\.ffn_up\.bias"),
        ("smolvlm", without("connector"), r"what becomes mm\.model\.fc\.weight"),
        ("gemma3", without("post_layernorm"), r"what becomes v\.post_ln\.weight"),
        ("qwen2.5-vl", without("patch_embed"), r"what becomes v\.patch_embd\.weight"),
        ("gemma3", added("vision_tower.extra.weight"), "extra.weight .* has no place in .* gemma3"),
        ("smolvlm", filled("vision_model.post_layernorm.bias", np.nan), "v.post_ln.bias has num"),
        ("llava", filled("linear_2.weight", np.inf), "mm.2.weight has numbers that are infinite"),
        ("qwen2.5-vl", filled("visual.blocks.1.attn.qkv.bias", -np.inf), "attn_v.bias has numbers"),
        ("gemma3", filled("mm_input_projection_weight", 1e5), "beyond 65,504, .* convert to BF16"),
    ],
)
def test_damaged_weights_are_refused(
    name: str,
    change: Callable[[Weights], Weights],
    message: str,
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder = tiny_hf.edited_copy(folders[name], tmp_path / "copy")
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)
    refused(folder, message, tmp_path)


def test_what_f16_cannot_hold_bf16_can(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tiny_hf.edited_copy(folders["gemma3"], tmp_path / "copy")
    path = folder / "model.safetensors"
    save_file(filled("mm_input_projection_weight", 1e5)(load_file(path)), path)
    assert convert(folder, "F16", tmp_path / "model.gguf", mmproj_type="BF16").mmproj is not None


def test_pixels_that_nothing_describes_are_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tiny_hf.edited_copy(folders["smolvlm"], tmp_path / "copy")
    (folder / "preprocessor_config.json").unlink()
    refused(folder, "has no image_mean in preprocessor_config.json", tmp_path)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["qwen2.5-vl", "gemma3", "llava", "smolvlm"]), st.data())
def test_whatever_the_files_say_the_answer_is_two_files_or_an_error_for_people(
    tampered: dict[str, Path], name: str, data: st.DataObject
) -> None:
    folder = tampered[name]
    config = json.loads((folder / "right.json").read_text())
    keys = ("vision_config", "vision_feature_layer", "scale_factor", "mm_tokens_per_image")
    places = [(config, key) for key in (*keys, "image_mean", "size")]
    places += [(config["vision_config"], key) for key in sorted(config["vision_config"])]
    place, key = data.draw(st.sampled_from(places))
    value = data.draw(anything)
    place[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    pixels |= {key: value} if key in ("image_mean", "size") else {}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    with contextlib.suppress(ReellamaError):  # anything else would be a traceback
        result = convert(folder, "F16", folder / "model.gguf", force=True)
        assert result.mmproj is not None or not value


@pytest.fixture(scope="module")
def tampered(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    copies = {}
    for name, folder in folders.items():
        copies[name] = tiny_hf.edited_copy(folder, tmp_path_factory.mktemp("tampered") / "copy")
        (copies[name] / "config.json").rename(copies[name] / "right.json")
    return copies
