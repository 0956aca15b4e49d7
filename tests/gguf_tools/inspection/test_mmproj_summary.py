"""`reellama gguf inspect` of an mmproj: what it sees, how, and for which LLMs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.inspection.mmproj_summary import summarize_mmproj
from reellama.gguf_tools.locate import stores
from tests.conftest import Result
from tests.helpers import small_mmproj, tiny_model

Reellama = Callable[..., Result]


def shown(reellama: Reellama, path: Path) -> dict[str, str]:
    """The lines of the command, by their first word or words."""
    result = reellama("gguf", "inspect", path)
    assert (result.status, result.err) == (0, "")
    pairs = (line.partition("  ") for line in result.out.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs if value}


def test_summary_of_a_fixed_size_mmproj(
    empty_home: Path, tmp_path: Path, reellama: Reellama
) -> None:
    path = small_mmproj.write(tmp_path / "m.gguf", "gemma3", {"clip.has_audio_encoder": True})
    lines = shown(reellama, path)
    expected = {
        "projector": "gemma3 (Gemma 3)",
        "senses": "pictures and sound",
        "picture": "56 x 56 pixels, in patches of 7 x 7",
        "tokens": "4 (2 x 2) for a picture",
        "tower": "1 layers of width 32",
        "colours": "mean 0.5, 0.25, 0.125; standard deviation 1, 0.5, 0.25",
        "in the LLM": "those of a picture see each other",
        "LLMs here": "none of this width",
    }
    assert lines.items() >= expected.items()
    assert lines["width"] == "64 numbers a token"


def test_summary_of_a_dynamic_size_mmproj(
    empty_home: Path, tmp_path: Path, reellama: Reellama
) -> None:
    lines = shown(reellama, small_mmproj.write(tmp_path / "m.gguf", "qwen2.5vl_merger"))
    assert lines["picture"] == "any size, in patches of 7 x 7"
    assert lines["tokens"] == "one for each 14 x 14 pixels, 8 to 4,096 for a picture"
    assert lines["in the LLM"] == (
        "positions in time, down and to the right (M-RoPE); 2 frames of a video become one picture"
    )


def test_summary_of_an_mmproj_with_queries_and_tiles(
    empty_home: Path, tmp_path: Path, reellama: Reellama
) -> None:
    lines = shown(reellama, small_mmproj.write(tmp_path / "m.gguf", "resampler"))
    assert lines["tokens"] == "64 for a tile"
    assert lines["in the LLM"] == "no grid, so they are not pooled over space"


def test_summary_of_an_mmproj_of_an_unknown_family(
    empty_home: Path, tmp_path: Path, reellama: Reellama
) -> None:
    lines = shown(reellama, small_mmproj.write(tmp_path / "m.gguf", "yasa2"))
    assert lines["projector"] == "yasa2 (not known here: its frames are taken in full)"
    assert "tokens" not in lines and "problem" not in lines


def test_the_llms_here_that_fit_are_named(
    empty_home: Path, tmp_path: Path, reellama: Reellama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(empty_home / "data"))
    stores.models_folder().mkdir(parents=True)
    tiny_model.write(stores.models_folder() / "fits.gguf")
    path = small_mmproj.write(stores.models_folder() / "mmproj.gguf")
    assert shown(reellama, path)["LLMs here"] == "fits.gguf"
    found = json.loads(reellama("gguf", "inspect", path, "--json").out)["mmproj"]
    assert (found["llms"], found["tokens"], found["grid"]) == (["fits.gguf"], 64, [8, 8])
    wide = small_mmproj.write(tmp_path / "m.gguf", n_embd=576)
    assert shown(reellama, wide)["LLMs here"] == "mini-llm"


@pytest.mark.parametrize(
    ("keys", "tensors", "problem"),
    [
        ({"clip.projector_type": "new"}, {}, "of the family new, which is not known here"),
        ({}, {"mm.2.bias": np.ones(64)}, "has tensors of type F64, such as 'mm.2.bias'"),
        (
            {"clip.has_vision_encoder": False, "clip.has_audio_encoder": True},
            {},
            "is an mmproj for sound only",
        ),
    ],
)
def test_summary_names_why_an_mmproj_is_unusable(
    empty_home: Path,
    tmp_path: Path,
    reellama: Reellama,
    keys: dict[str, object],
    tensors: dict[str, np.ndarray],
    problem: str,
) -> None:
    path = small_mmproj.write(tmp_path / "m.gguf", keys=keys, tensors=tensors)
    assert problem in shown(reellama, path)["problem"]
    assert summarize_mmproj(read_gguf(path)).problems


def test_an_llm_has_no_mmproj_summary(reellama: Reellama, tiny_llama: Path, tmp_path: Path) -> None:
    path = shutil.copy(tiny_llama, tmp_path / "llm.gguf")
    assert "mmproj" not in json.loads(reellama("gguf", "inspect", path, "--json").out)
    assert "projector" not in reellama("gguf", "inspect", path).out
