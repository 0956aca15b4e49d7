"""An mmproj that cannot be used, by itself or with an LLM: one line that says why."""

import re
from pathlib import Path

import gguf
import numpy as np
import pytest

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.mmproj_checks import (
    check_mmproj,
    mmproj_problems,
    soft_token_width,
)
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from tests.helpers import mtmd_pictures, small_mmproj
from tests.helpers.gguf_bytes import header, number, text


@pytest.fixture
def llm(tiny_llama: Path) -> GGUFFile:
    return read_gguf(tiny_llama)


def refusal(llm: GGUFFile, path: Path) -> str:
    """What is said of a pair."""
    with pytest.raises(GGUFError) as error:
        check_mmproj(llm, read_gguf(path))
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


def test_a_pair_that_fits_is_taken(tmp_path: Path, llm: GGUFFile) -> None:
    check_mmproj(llm, read_gguf(small_mmproj.write(tmp_path / "m.gguf")))


def test_an_mmproj_of_another_width_does_not_fit_as_libmtmd_says_too(
    tmp_path: Path, llm: GGUFFile
) -> None:
    path = small_mmproj.write(tmp_path / "m.gguf", n_embd=96)
    assert re.search(
        r"its embeddings have 64 numbers, .*m.gguf makes tokens of 96", refusal(llm, path)
    )
    with mtmd_pictures.opened(llm.path, path) as context:
        assert not context


def test_further_embeddings_count_to_the_width(tmp_path: Path) -> None:
    """Qwen3-VL's deepstack: llama.cpp wants n_embd for the token, and again for each layer."""
    extra = {f"v.deepstack.{i}.fc1.weight": np.ones((4, 4), np.float32) for i in (1, 3)}
    mmproj = read_gguf(small_mmproj.write(tmp_path / "m.gguf", "qwen3vl_merger", tensors=extra))
    keys = [text("general.architecture", "qwen3vl"), number("qwen3vl.embedding_length", 64)]
    path = tmp_path / "llm.gguf"
    path.write_bytes(header([*keys, number("qwen3vl.n_deepstack_layers", 2)], []))
    assert soft_token_width(read_gguf(path)) == 192
    check_mmproj(read_gguf(path), mmproj)
    path.write_bytes(header(keys, []))
    with pytest.raises(GGUFError, match="64 numbers, .* makes tokens of 192"):
        check_mmproj(read_gguf(path), mmproj)


def test_an_mmproj_for_sound_cannot_see(tmp_path: Path, llm: GGUFFile) -> None:
    keys = {"clip.has_vision_encoder": False, "clip.has_audio_encoder": True}
    path = small_mmproj.write(tmp_path / "m.gguf", "ultravox", keys)
    assert "for sound only: it cannot see" in refusal(llm, path)
    path = small_mmproj.write(tmp_path / "n.gguf", keys={"clip.has_vision_encoder": None})
    assert "without a vision encoder" in refusal(llm, path)


def test_a_file_that_is_none_is_not_taken_for_one(llm: GGUFFile, smollm2: Path) -> None:
    assert "is not an mmproj: it holds no vision encoder" in refusal(llm, smollm2)


@pytest.mark.parametrize("name", ["kimi-k9", "ultravox", None])
def test_a_family_that_llamacpp_lacks_is_named(
    tmp_path: Path, llm: GGUFFile, name: str | None
) -> None:
    keys = {"clip.projector_type": name}
    path = small_mmproj.write(tmp_path / "m.gguf", keys=keys)
    assert f"of the family {name or 'unnamed'}, which is not known here" in refusal(llm, path)
    with mtmd_pictures.opened(llm.path, path) as context:
        assert not context


def test_f64_which_crashes_llamacpp_is_refused(tmp_path: Path, llm: GGUFFile) -> None:
    path = small_mmproj.write(tmp_path / "m.gguf", tensors={"mm.2.bias": np.ones(64, np.float64)})
    assert "has tensors of type F64, such as 'mm.2.bias', which crash llama.cpp" in refusal(
        llm, path
    )


def test_a_key_of_a_type_that_crashes_llamacpp_is_refused(tmp_path: Path, llm: GGUFFile) -> None:
    path = tmp_path / "m.gguf"
    keys = [
        text("general.architecture", "clip"),
        number("clip.vision.image_size", 56),  # as UINT64, where libmtmd reads UINT32
        number("clip.has_vision_encoder", 1),
    ]
    path.write_bytes(header(keys, []))
    assert "without a vision encoder" in refusal(llm, path)
    small_mmproj.write(path, keys={"clip.vision.block_count": "many"})
    assert "clip.vision.block_count is of another type than llama.cpp reads" in refusal(llm, path)
    small_mmproj.write(path, keys={"clip.use_gelu": 1})
    assert "clip.use_gelu is of another type" in refusal(llm, path)


def test_an_mmproj_that_does_not_say_its_width_is_refused(tmp_path: Path, llm: GGUFFile) -> None:
    keys = {"clip.vision.projection_dim": None}
    path = small_mmproj.write(tmp_path / "m.gguf", "yasa2", keys)
    assert "does not say how wide its tokens are" in refusal(llm, path)


def test_a_cut_off_mmproj_is_refused_as_it_is_read(tmp_path: Path) -> None:
    path = small_mmproj.write(tmp_path / "m.gguf")
    content = path.read_bytes()
    for end in (len(content) - 100, 2000, 60):
        path.write_bytes(content[:end])
        with pytest.raises(GGUFError, match="m.gguf is cut off"):
            read_gguf(path)


def test_an_llm_that_holds_its_projector_is_its_own_mmproj(tmp_path: Path, llm: GGUFFile) -> None:
    file = read_gguf(small_mmproj.write(tmp_path / "m.gguf", arch="llama"))
    assert mmproj_problems(file) == []
    check_mmproj(llm, file)


@pytest.mark.parametrize("type_", ["F32", "F16", "BF16", "Q8_0"])
def test_all_types_of_a_good_one_are_taken(tmp_path: Path, llm: GGUFFile, type_: str) -> None:
    kind = gguf.GGMLQuantizationType[type_]
    check_mmproj(llm, read_gguf(small_mmproj.write(tmp_path / "m.gguf", type_=kind)))
