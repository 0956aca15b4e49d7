"""Families of vision projectors: what is said of each is what libmtmd does with its files."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_cpp import mtmd_cpp as mtmd

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.mmproj_checks import check_mmproj, mmproj_problems
from reellama.gguf_tools.format.mmproj_header import (
    MmprojHeader,
    has_builtin_tower,
    is_mmproj_file,
    mmproj_header,
)
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.format.vision_projector import FAMILIES, OTHER_FAMILIES, is_known
from reellama.gguf_tools.inspection.mmproj_summary import summarize_mmproj
from tests.helpers import mtmd_pictures, small_mmproj, tiny_model
from tests.helpers.gguf_bytes import (
    ARRAY,
    BOOL,
    FLOAT64,
    STRING,
    UINT64,
    array,
    header,
    key,
    number,
    string,
    tensor,
    text,
)

MADE = sorted(small_mmproj.LAYERS)
# Pixels of a picture that each family takes as it is.
SIZES = {"gemma4v": (210, 189), "lfm2": (112, 112), "minicpmv4_6": (56, 56), "phi4": (70, 49)}
LARGE = (560, 420)


def made(folder: Path, family: str, **changes: object) -> MmprojHeader:
    """The header of a new mmproj of a family, with keys changed."""
    return mmproj_header(read_gguf(small_mmproj.write(folder / "mmproj.gguf", family, changes)))


@pytest.mark.parametrize("family", MADE)
def test_a_family_is_what_libmtmd_does(tmp_path: Path, family: str) -> None:
    facts = FAMILIES[family]
    llm = tiny_model.write(tmp_path / "llm.gguf", "qwen2vl" if facts.mrope else "llama")
    path = small_mmproj.write(tmp_path / "mmproj.gguf", family)
    seen = mmproj_header(read_gguf(path))
    assert (seen.projector_type, seen.family, seen.width) == (family, facts, tiny_model.N_EMBD)
    check_mmproj(read_gguf(llm), read_gguf(path))
    size = SIZES.get(family, (112, 84))
    with mtmd_pictures.opened(llm, path) as context:
        assert context, "libmtmd refuses the file"
        tokens = mtmd_pictures.n_tokens(context, size)
        assert set(tokens) == {seen.n_tokens(size)}
        assert facts.tiles or len(tokens) == 1
        assert (len(mtmd_pictures.n_tokens(context, LARGE)) > 1) == seen.has_tiles
        assert bool(mtmd.mtmd_decode_use_non_causal(context, None)) == facts.non_causal
        assert bool(mtmd.mtmd_decode_use_mrope(context)) == facts.mrope
        if not facts.tiles:
            frames = mtmd_pictures.n_tokens(context, *[size] * 4)
            assert len(frames) == 4 // facts.merged_frames


def test_all_families_but_one_were_tried() -> None:
    """Gemma 3n's tower has hundreds of tensors, so it is only said to be 16 x 16."""
    assert {*FAMILIES} - {*MADE} == {"gemma3nv"}
    assert not OTHER_FAMILIES & {*FAMILIES}
    assert is_known("mlp") and is_known("yasa2") and not is_known("ultravox") and not is_known("")


@pytest.mark.parametrize(
    ("family", "keys", "grid", "tokens"),
    [
        # LLaVA 1.5, SigLIP in SmolVLM2, Gemma 3, Gemma 3n, InternVL 3
        ("mlp", (336, 14, None), (24, 24), 576),
        ("idefics3", (512, 16, 4), (8, 8), 64),
        ("gemma3", (896, 14, 4), (16, 16), 256),
        ("gemma3nv", (768, 3, None), (16, 16), 256),
        ("internvl", (448, 14, 2), (16, 16), 256),
        ("cogvlm", (490, 14, None), (35, 35), 1227),
    ],
)
def test_tokens_of_a_picture_of_models_in_use(
    tmp_path: Path,
    family: str,
    keys: tuple[int, int, int | None],
    grid: tuple[int, int],
    tokens: int,
) -> None:
    image, patch, factor = keys
    seen = made(
        tmp_path,
        family,
        **{
            "clip.vision.image_size": image,
            "clip.vision.patch_size": patch,
            "clip.vision.projector.scale_factor": factor,
        },
    )
    assert (seen.grid(), seen.n_tokens()) == (grid, tokens)


def test_a_picture_of_any_size_has_tokens_by_its_size(tmp_path: Path) -> None:
    seen = made(tmp_path, "qwen2.5vl_merger", **{"clip.vision.patch_size": 14})
    assert (seen.token_side, seen.token_range, seen.n_tokens()) == (28, (8, 4096), None)
    assert seen.grid((1288, 728)) == (26, 46)
    assert seen.n_tokens((1288, 728)) == 26 * 46
    assert seen.n_tokens((20, 20)) is None


@pytest.mark.parametrize(
    ("keys", "tokens"),
    [
        ({"clip.minicpmv_version": 2}, 96),
        ({"clip.minicpmv_version": 4}, 64),
        ({"clip.minicpmv_version": 4, "clip.minicpmv_query_num": 32}, 32),
    ],
)
def test_minicpmvs_tokens_are_queries(tmp_path: Path, keys: dict[str, int], tokens: int) -> None:
    seen = made(tmp_path, "resampler", **keys)
    assert (seen.n_tokens(), seen.grid()) == (tokens, None)


def test_an_unknown_family_has_no_grid(tmp_path: Path) -> None:
    seen = made(tmp_path, "muse-glimmer")
    assert (seen.family, seen.grid(), seen.n_tokens((56, 56))) == (None, None, None)
    assert seen.width == 999  # as its header says, there being nothing else


def test_tiles_and_names_that_headers_add(tmp_path: Path) -> None:
    assert made(tmp_path, "mlp", **{"clip.vision.image_grid_pinpoints": [336, 672]}).has_tiles
    both = {"clip.projector_type": None, "clip.vision.projector_type": "qwen2.5o"}
    assert made(tmp_path, "qwen2.5vl_merger", **both).projector_type == "qwen2.5vl_merger"


@pytest.mark.parametrize(("family", "shifted"), [("mlp", True), ("ldp", True), ("idefics3", False)])
def test_patches_of_a_clip_tower_are_shifted(tmp_path: Path, family: str, shifted: bool) -> None:
    token = {"v.class_embd": np.zeros(small_mmproj.N_TOWER, np.float32)}
    path = small_mmproj.write(tmp_path / "mmproj.gguf", family, tensors=token)
    assert mmproj_header(read_gguf(path)).loses_first_patch == shifted
    assert not made(tmp_path, family).loses_first_patch  # SigLIP has no class token


def test_an_mmproj_is_known_by_its_header(tmp_path: Path, tiny_llama: Path) -> None:
    path = small_mmproj.write(tmp_path / "no-such-word.gguf", "mlp")
    assert is_mmproj_file(path) and not is_mmproj_file(tiny_llama)
    assert not has_builtin_tower(read_gguf(path)) and not has_builtin_tower(read_gguf(tiny_llama))
    late = [text("clip.projector_type", "mlp"), text("general.architecture", "clip")]
    path.write_bytes(header(late, []))
    assert is_mmproj_file(path)
    for content in (b"", b"GGUF", b"GGUF" + bytes(20), header(late, [])[:40], b"no GGUF at all"):
        path.write_bytes(content)
        assert not is_mmproj_file(path)
    assert not is_mmproj_file(tmp_path / "missing.gguf") and not is_mmproj_file(tmp_path)


NAMES = [
    "general.architecture",
    "general.type",
    "clip.projector_type",
    "clip.vision.projector_type",
    "clip.has_vision_encoder",
    "clip.has_audio_encoder",
    "clip.vision.image_size",
    "clip.vision.patch_size",
    "clip.vision.projection_dim",
    "clip.vision.embedding_length",
    "clip.vision.block_count",
    "clip.vision.image_mean",
    "clip.vision.image_std",
    "clip.minicpmv_version",
    "clip.minicpmv_query_num",
    "clip.vision.projector.scale_factor",
    "clip.vision.spatial_merge_size",
    "general.file_type",
    "clip.vision.image_min_pixels",
    "clip.vision.image_max_pixels",
    "clip.vision.image_grid_pinpoints",
]
VALUES = st.one_of(
    st.sampled_from(["clip", "mmproj", *MADE, "\x1b[2J", "\0", "x" * 70, ""]).map(
        lambda s: (STRING, string(s))
    ),
    st.sampled_from([0, 1, 2, 7, 56, 1 << 20, 1 << 40, (1 << 64) - 1]).map(
        lambda n: (UINT64, struct.pack("<Q", n))
    ),
    st.booleans().map(lambda b: (BOOL, struct.pack("<?", b))),
    st.floats().map(lambda x: (FLOAT64, struct.pack("<d", x))),
    st.lists(st.floats(), max_size=4).map(
        lambda xs: (ARRAY, struct.pack(f"<IQ{len(xs)}d", FLOAT64, len(xs), *xs))
    ),
)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.sampled_from(MADE))
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_a_header_says_is_a_header_or_one_line(
    tmp_path: Path, entries: dict[str, tuple[int, bytes]], family: str
) -> None:
    told = {"clip.projector_type": (STRING, string(family))} | entries
    keys = [key(name, *value) for name, value in told.items()]
    path = tmp_path / "any.gguf"
    path.write_bytes(header(keys, [tensor("mm.2.weight", (8, 4))]) + bytes(128))
    is_mmproj_file(path)
    file = read_gguf(path)
    facts = summarize_mmproj(file)
    assert facts.tokens is None or facts.tokens >= 0
    assert all("\n" not in problem and problem.isprintable() for problem in mmproj_problems(file))
    seen = mmproj_header(file)
    assert (seen.n_tokens((640, 480)) or 0) >= 0
    with pytest.raises(GGUFError):
        check_mmproj(read_gguf(llm_of_width(tmp_path, 5)), file)


def llm_of_width(folder: Path, n_embd: int) -> Path:
    path = folder / "llm.gguf"
    keys = [text("general.architecture", "llama"), number("llama.embedding_length", n_embd)]
    path.write_bytes(header([*keys, array("a.list", UINT64, 0)], []))
    return path
