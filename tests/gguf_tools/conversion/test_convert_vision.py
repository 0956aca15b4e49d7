"""A vision model becomes its language model and its mmproj, which compute what it computed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from reellama.gguf_tools.conversion.convert import convert
from reellama.gguf_tools.conversion.model_config import read_config
from reellama.gguf_tools.format.reader import read_gguf
from tests.conftest import Result
from tests.helpers import tiny_hf, vision_checkpoints
from tests.helpers.bare_mtmd import embed_picture
from tests.helpers.both_logits import HalvedGELU, both_logits
from tests.helpers.vision_checkpoints import MAKERS, picture_embeddings
from tests.helpers.vision_models import IMAGE_SIZE

pytestmark = pytest.mark.numeric

# Height and width, in pixels, of which nothing is resized. Qwen's has windows that are cut off.
SIZES = {"smolvlm": (2 * IMAGE_SIZE, 2 * IMAGE_SIZE), "qwen2.5-vl": (168, 140)}
# Of a difference in logits. llama.cpp 0.3.36's Qwen2-VL divides by a norm without its epsilon; for
# Gemma see HalvedGELU.
MAX_DIFFERENCE = {"gemma3": 5e-3, "qwen2.5-vl": 1e-3}
# CLIP is not among them, see below.
EXACT = [name for name in MAKERS if name != "llava"]
PROJECTORS = {
    "llava": "mlp",
    "llava onevision": "mlp",
    "smolvlm": "idefics3",
    "gemma3": "gemma3",
    "qwen2.5-vl": "qwen2.5vl_merger",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each family."""
    root = tmp_path_factory.mktemp("vision")
    made = {}
    for name, make in MAKERS.items():
        folder = root / f"tiny-{name.replace(' ', '-')}"
        folder.mkdir()
        made[name] = make(folder)
    return made


def picture_of(name: str) -> np.ndarray:
    """A picture of random pixels, of the size that a family takes as it is."""
    size = SIZES.get(name, (IMAGE_SIZE, IMAGE_SIZE))
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def mmproj_of(folder: Path, out: Path, type_: str = "F32") -> tuple[Path, Path]:
    """Convert a folder; returns the paths of the language model and the mmproj."""
    result = convert(folder, "F32", out / "model.gguf", mmproj_type=type_, force=True)
    assert result.mmproj is not None
    return result.path, result.mmproj.path


@pytest.mark.parametrize("name", MAKERS)
def test_logits_of_the_language_model_are_those_of_transformers(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    model = vision_checkpoints.load(folders[name])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[name])
    if name == "gemma3":
        for layer in model.model.language_model.layers:
            layer.mlp.act_fn = HalvedGELU()
    theirs, ours = both_logits(model, tokenizer, mmproj_of(folders[name], tmp_path)[0])
    assert theirs.shape == ours.shape
    assert np.abs(theirs).max() > 2
    assert np.abs(theirs - ours).max() < MAX_DIFFERENCE.get(name, 1e-4)


@pytest.mark.parametrize("name", EXACT)
def test_embeddings_of_a_picture_are_those_of_transformers(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    picture = picture_of(name)
    theirs = picture_embeddings(vision_checkpoints.load(folders[name]), picture)
    ours = embed_picture(*mmproj_of(folders[name], tmp_path), picture)
    for expected, found in zip(theirs, ours, strict=name != "smolvlm"):  # its view is the last
        assert np.abs(expected).max() > 1
        assert np.abs(expected - found).max() < 1e-2


class ClassTokenLast(torch.nn.Module):
    """CLIP's patches with its class token behind them, and the positions as they were."""

    def __init__(self, embeddings: Any) -> None:
        super().__init__()
        self.embeddings = embeddings

    def forward(self, *arguments: Any, **options: Any) -> torch.Tensor:
        positions = self.embeddings.position_embedding.weight
        moved = (self.embeddings(*arguments, **options) - positions).roll(-1, dims=1)
        return moved + positions


def test_clip_is_what_transformers_has_or_what_llama_cpp_makes_of_it(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """llama.cpp's issue 25814: the class token is put last, and the first token is left out."""
    picture = picture_of("llava")
    model = vision_checkpoints.load(folders["llava"])
    [found] = embed_picture(*mmproj_of(folders["llava"], tmp_path), picture)
    [right] = picture_embeddings(model, picture)
    model.model.vision_tower.embeddings = ClassTokenLast(model.model.vision_tower.embeddings)
    [moved] = picture_embeddings(model, picture)
    assert np.abs(right - moved).max() > 1
    assert min(np.abs(right - found).max(), np.abs(moved - found).max()) < 1e-2


def test_the_note_on_clip_is_for_clip(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in folders.items():
        notes = convert(folder, "F16", tmp_path / "model.gguf", force=True).notes
        assert ["25814" in note for note in notes] == ([True] if name == "llava" else [])


@pytest.mark.parametrize(("type_", "least"), [("F16", 0.9999), ("BF16", 0.999), ("Q8_0", 0.999)])
@pytest.mark.parametrize("name", EXACT)
def test_smaller_types_see_nearly_the_same(
    name: str, type_: str, least: float, folders: dict[str, Path], tmp_path: Path
) -> None:
    picture = picture_of(name)
    exact = np.concatenate(embed_picture(*mmproj_of(folders[name], tmp_path), picture))
    llm, mmproj = mmproj_of(folders[name], tmp_path, type_)
    found = np.concatenate(embed_picture(llm, mmproj, picture))
    cosines = (exact * found).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(found, axis=1)
    assert cosines.min() > least
    assert np.abs(exact - found).max() > 0


@pytest.mark.parametrize("type_", ["F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("name", MAKERS)
def test_matrices_have_the_type_and_everything_else_stays(
    name: str, type_: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    _, path = mmproj_of(folders[name], tmp_path, type_)
    file = read_gguf(path)
    types = {tensor: entry.type.name for tensor, entry in file.tensors.items()}
    assert types.pop("mm.input_projection.weight", None) in (
        None,
        "F32" if type_ == "BF16" else "F16",
    )
    for tensor, kind in types.items():
        linear = len(file.tensors[tensor].shape) == 2 and "embd" not in tensor
        assert kind == (type_ if linear else "F32"), tensor
    assert file.metadata["general.file_type"] == {"F16": 1, "BF16": 32, "Q8_0": 7}[type_]
    assert file.metadata["general.type"] == "mmproj"
    assert file.metadata["clip.projector_type"] == PROJECTORS[name]


def test_rows_that_no_block_fits_are_f16(folders: dict[str, Path], tmp_path: Path) -> None:
    config = vision_checkpoints.VISION | {"intermediate_size": 72}
    before, vision_checkpoints.VISION = vision_checkpoints.VISION, config
    try:
        folder = tmp_path / "narrow"
        folder.mkdir()
        _, path = mmproj_of(vision_checkpoints.make_smolvlm(folder), tmp_path, "Q8_0")
    finally:
        vision_checkpoints.VISION = before
    tensors = read_gguf(path).tensors
    assert tensors["v.blk.0.ffn_up.weight"].type.name == "Q8_0"
    assert tensors["v.blk.0.ffn_down.weight"].type.name == "F16"


def renamed_copy(folder: Path, target: Path, rename: Callable[[str], str]) -> Path:
    """A copy of a folder whose tensors have other names."""
    copy = tiny_hf.edited_copy(folder, target)
    weights = load_file(copy / "model.safetensors")
    save_file({rename(name): value for name, value in weights.items()}, copy / "model.safetensors")
    return copy


def older(name: str) -> str:
    return name.replace("vision_tower.", "vision_tower.vision_model.")


def newer(name: str) -> str:
    name = name.replace("language_model.model.", "model.language_model.")
    if name.startswith(("vision_tower.", "multi_modal_projector.", "visual.", "image_newline")):
        return f"model.{name}"
    return name.replace("language_model.lm_head", "lm_head")


@pytest.mark.parametrize("rename", [older, newer])
@pytest.mark.parametrize("name", MAKERS)
def test_names_of_other_versions_of_transformers_mean_the_same(
    name: str, rename: Callable[[str], str], folders: dict[str, Path], tmp_path: Path
) -> None:
    first = [data(path) for path in mmproj_of(folders[name], tmp_path)]
    copy = renamed_copy(folders[name], tmp_path / "copy", rename)
    assert [data(path) for path in mmproj_of(copy, tmp_path)] == first


def data(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("smolvlm", {"architectures": ["Idefics3ForConditionalGeneration"]}),
        (
            "llava onevision",
            {
                "architectures": ["LlavaForConditionalGeneration"],
                "vision_feature_layer": 3,
                "vision_feature_select_strategy": "full",
            },
        ),
    ],
)
def test_architectures_of_one_layout_make_the_same_file(
    name: str, changes: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    first = [data(path) for path in mmproj_of(folders[name], tmp_path)]
    copy = tiny_hf.edited_copy(folders[name], tmp_path / "copy", **changes)
    assert [data(path) for path in mmproj_of(copy, tmp_path)] == first


def test_qwens_older_configuration_means_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    """It had the language model's settings at the top, and M-RoPE in `rope_scaling`."""
    folder = folders["qwen2.5-vl"]
    text = json.loads((folder / "config.json").read_text())["text_config"]
    rope = text.pop("rope_parameters")
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    changes = {"text_config": None, "rope_scaling": scaling, "rope_theta": rope["rope_theta"]}
    kind = {"model_type": "qwen2_5_vl"}
    copy = tiny_hf.edited_copy(folder, tmp_path / folder.name, **text | changes | kind)
    for before, after in zip(
        [read_gguf(path).metadata for path in mmproj_of(folder, tmp_path)],
        [read_gguf(path).metadata for path in mmproj_of(copy, tmp_path)],
        strict=True,
    ):
        assert before == after
    assert read_gguf(tmp_path / "model.gguf").metadata["qwen2vl.rope.dimension_sections"] == [
        *rope["mrope_section"],
        0,
    ]


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("llama", (4096, 11_008, 32, 32)), ("qwen2", (4096, 22_016, 32, 32))],
)
def test_sizes_that_a_configuration_leaves_out_are_those_of_transformers(
    kind: str, sizes: tuple[int, ...], folders: dict[str, Path], tmp_path: Path
) -> None:
    """LLaVA-1.5's says no more of its language model than this."""
    text = {"model_type": kind, "max_position_embeddings": 4096, "vocab_size": 32_064}
    copy = tiny_hf.edited_copy(folders["llava"], tmp_path / "copy", text_config=text)
    _, config = read_config(copy)
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    defaults = transformers.AutoConfig.for_model(kind)
    assert tuple(config[key] for key in keys) == sizes
    assert tuple(getattr(defaults, key) for key in keys) == sizes
    assert config["num_key_value_heads"] == defaults.num_key_value_heads
    assert config["rms_norm_eps"] == defaults.rms_norm_eps


def test_pixels_are_described_in_the_newer_file_too(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = tiny_hf.edited_copy(folders["smolvlm"], tmp_path / folders["smolvlm"].name)
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").unlink()
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    metadata = read_gguf(mmproj_of(copy, tmp_path)[1]).metadata
    assert metadata == read_gguf(mmproj_of(folders["smolvlm"], tmp_path)[1]).metadata
    assert metadata["clip.vision.preproc_image_size"] == 2 * IMAGE_SIZE


def test_the_command_writes_both_files(
    folders: dict[str, Path],
    tmp_path: Path,
    reellama: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["tiny-gemma3-F16.gguf", "mmproj-tiny-gemma3-F16.gguf"]
    first = reellama("gguf", "convert", folders["gemma3"], "f16")
    assert (first.status, first.out.splitlines()) == (0, names)
    (tmp_path / names[0]).unlink()
    again = reellama("gguf", "convert", folders["gemma3"], "f16")
    assert again.status == 1
    assert "mmproj-tiny-gemma3-F16.gguf is there already; --force replaces it" in again.err
    small = reellama("gguf", "convert", folders["gemma3"], "f16", "--mmproj-type", "q8_0")
    assert small.out.splitlines() == [names[0], "mmproj-tiny-gemma3-Q8_0.gguf"]
    other = reellama("gguf", "convert", folders["gemma3"], "--mmproj-type", "q4_0", "--force")
    assert other.status == 2
    assert "cannot convert to q4_0: give F32, F16, BF16, Q8_0" in other.err
