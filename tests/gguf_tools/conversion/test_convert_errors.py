"""What cannot be converted is refused in one line, and nothing is written."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import load_file

from reellama.gguf_tools.conversion import convert as converter
from reellama.gguf_tools.conversion.convert import convert
from reellama.gguf_tools.errors import ReellamaError
from tests.helpers import tiny_hf


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a Llama of three layers in bfloat16."""
    folder = tmp_path_factory.mktemp("hf") / "tiny-llama"
    config = tiny_hf.llama_config(700, num_hidden_layers=3, tie_word_embeddings=True)
    tiny_hf.save_tokenizer(tiny_hf.byte_level("llama-bpe"), folder)
    tiny_hf.save_model(config, folder, torch.bfloat16)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["BloomForCausalLM"]},
            "Bloom.* is not known; known are: Llama",
        ),
        ({"hidden_act": "relu"}, "has no activation relu"),
        ({"num_hidden_layers": None}, "num_hidden_layers is None, not a positive number"),
        ({"num_hidden_layers": 4}, r"lacks 9 of the model's tensors, .* blk\.3\.attn_k"),
        ({"num_hidden_layers": 2}, r"layers\.2\..* has no place in llama.cpp's .* llama"),
        ({"num_key_value_heads": 4}, "has 16 rows, but config.json says 4 heads of 16"),
        ({"tie_word_embeddings": False}, r"what becomes output\.weight"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantized already \(awq\)"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "no rope scaling longrope"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "no partial_rotary_factor 0.5"),
    ],
)
def test_a_model_that_cannot_be_converted_is_refused_in_one_line(
    changes: dict[str, object], message: str, llama: Path, tmp_path: Path
) -> None:
    folder = tiny_hf.edited_copy(llama, tmp_path / "copy", **changes)
    refused(folder, message, tmp_path)


def refused(folder: Path, message: str, tmp_path: Path) -> None:
    """A conversion fails with one line and leaves nothing behind."""
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ReellamaError, match=message) as caught:
        convert(folder, "F16", out / "model.gguf")
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []


def lose(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def shorten(n_bytes: int) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:n_bytes])

    return cut


def add(name: str, value: np.ndarray) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        path = folder / "model.safetensors"
        weights = {key: tensor.float().numpy() for key, tensor in load_file(path).items()}
        save_file(weights | {name: value}, path)

    return rewrite


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


BEYOND = np.full((32, 32), 1e5, np.float32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose("config.json"), "it has no config.json"),
        (lose("tokenizer.json"), "has no tokenizer.json"),
        (lose("model.safetensors"), r"has no model\.safetensors; download"),
        (only_pickles, "save it as safetensors first"),
        (shorten(5), "is not a safetensors file, or damaged"),
        (shorten(100), "model.safetensors is cut off"),
        (shorten(-100), "model.safetensors is cut off"),
        (add("model.layers.0.extra.weight", np.zeros((2, 2))), "extra.weight .* has no place"),
        (add("model.norm.weight", np.ones(32, np.int8)), "of type I8; those .* F64, F32, F16"),
        (add("model.layers.2.mlp.down_proj.weight", BEYOND), "beyond 65,504.*BF16"),
        (add("model.norm.weight", BEYOND[0] * np.nan), "output_norm.weight has numbers that are"),
        (add("model.norm.weight", BEYOND[0] * np.inf), "output_norm.weight has numbers that are"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(
    damage: Callable[[Path], None], message: str, llama: Path, tmp_path: Path
) -> None:
    folder = tiny_hf.edited_copy(llama, tmp_path / "copy")
    damage(folder)
    refused(folder, message, tmp_path)


def test_a_header_that_lies_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = tiny_hf.edited_copy(llama, tmp_path / "copy")
    lies: list[object] = [{"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}, [], {"shape": 1}]
    for entry in lies:
        header = json.dumps({"model.norm.weight": entry}).encode()
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(ReellamaError, match="model.safetensors is damaged"):
            convert(folder, output=tmp_path / "model.gguf")


SETTINGS = [
    "architectures",
    "rope_parameters",
    "max_position_embeddings",
    "rms_norm_eps",
    "head_dim",
    "num_hidden_layers",
    "text_config",
    "quantization_config",
    "sliding_window",
    "rope_scaling",
    "rope_theta",
    "eos_token_id",
    "hidden_act",
    "layer_types",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(SETTINGS),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["rope_type", "factor", "rope_theta", "x"]), inner)
        ),
        max_leaves=4,
    ),
)
def test_whatever_config_json_says_the_answer_is_a_file_or_an_error_for_people(
    tampered: Path, key: str, value: object
) -> None:
    config = json.loads((tampered / "right.json").read_text())
    (tampered / "config.json").write_text(json.dumps(config | {key: value}))
    with contextlib.suppress(ReellamaError):  # anything else would be a traceback
        convert(tampered, "F16", tampered / "model.gguf", force=True)


@pytest.fixture(scope="module")
def tampered(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_hf.edited_copy(llama, tmp_path_factory.mktemp("tampered") / "copy")
    (folder / "config.json").rename(folder / "right.json")
    return folder


def test_a_full_disk_is_seen_before_it_is_full(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converter, "HEADER_ROOM", 1 << 60)
    refused(llama, r"it takes 0\.0 GB, and [\d.]+ GB are free", tmp_path)
