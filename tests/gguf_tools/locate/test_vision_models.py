"""An LLM and the mmproj that belongs to it, found wherever a program keeps them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.locate import find, stores
from reellama.gguf_tools.locate.listing import list_models
from reellama.gguf_tools.locate.mmproj_choice import belongs_to, first_that_fits, name_words
from reellama.gguf_tools.locate.vision_models import VisionModel, find_mmproj, resolve_vision
from tests.conftest import Result
from tests.gguf_tools.locate.test_stores import into_hub_cache
from tests.helpers import small_mmproj
from tests.helpers.ollama_store import into_ollama

Run = Callable[..., Result]
OLLAMA = "registry.ollama.ai/library/{}/latest"
F16 = gguf.GGMLQuantizationType.F16


@pytest.fixture
def folder(empty_home: Path, tiny_llama: Path) -> Path:
    """A folder with one LLM, of width 64."""
    folder = empty_home / "models"
    folder.mkdir()
    shutil.copy(tiny_llama, folder / "Tiny-VL-2B-Q4_K_M.gguf")
    return folder


@pytest.fixture
def llm(folder: Path) -> Path:
    return folder / "Tiny-VL-2B-Q4_K_M.gguf"


def test_an_llm_alone_has_none(llm: Path) -> None:
    assert find_mmproj(llm) is None
    with pytest.raises(GGUFError, match=r"-Q4_K_M.gguf has no mmproj, .* with --mmproj, or pull"):
        resolve_vision(llm)


@pytest.mark.parametrize(
    "name", ["mmproj-model-f16.gguf", "Tiny-VL-2B-mmproj.gguf", "MMPROJ.GGUF", "vision-tower.gguf"]
)
def test_the_only_mmproj_in_the_folder_is_found_whatever_its_name(llm: Path, name: str) -> None:
    path = small_mmproj.write(llm.with_name(name))
    assert find_mmproj(llm) == path
    assert resolve_vision(llm) == VisionModel(llm, path)


def test_a_name_does_not_make_an_mmproj(llm: Path, tiny_llama: Path) -> None:
    shutil.copy(tiny_llama, llm.with_name("mmproj-Tiny-VL-2B-F16.gguf"))
    llm.with_name("mmproj.gguf").write_bytes(b"")
    assert find_mmproj(llm) is None


def test_of_several_mmprojs_the_one_with_the_llms_width_is_found(llm: Path) -> None:
    small_mmproj.write(llm.with_name("mmproj-Tiny-VL-2B-F16.gguf"), n_embd=96)
    right = small_mmproj.write(llm.with_name("mmproj-Tiny-VL-Q8_0.gguf"))
    assert find_mmproj(llm) == right
    right.unlink()
    assert find_mmproj(llm) is None
    with pytest.raises(GGUFError, match="embeddings have 64 numbers, .*2B-F16.gguf makes .* 96"):
        resolve_vision(llm)


def test_of_fitting_mmprojs_the_most_similar_name_wins(llm: Path) -> None:
    small_mmproj.write(llm.with_name("mmproj-F16.gguf"))
    small_mmproj.write(llm.with_name("mmproj-Tiny-VL-2B-Uncut-F16.gguf"))
    right = small_mmproj.write(llm.with_name("mmproj-Tiny-VL-2B-Q8_0.gguf"))
    assert find_mmproj(llm) == right


def test_of_equal_names_the_largest_type_that_fits_memory_wins(llm: Path) -> None:
    full = small_mmproj.write(llm.with_name("mmproj-Tiny-VL-2B-F32.gguf"))
    small = small_mmproj.write(llm.with_name("mmproj-Tiny-VL-2B-Q8_0.gguf"), type_=F16)
    assert find_mmproj(llm) == full
    room = llm.stat().st_size + small.stat().st_size
    assert find_mmproj(llm, memory=room + 1) == small
    assert find_mmproj(llm, memory=0) == small  # nothing fits: the smallest
    half = small_mmproj.write(llm.with_name("mmproj-Tiny-VL-2B-F16.gguf"), type_=F16)
    assert find_mmproj(llm) == half  # F32 holds no more than the 16 bits of training


def test_an_unusable_mmproj_is_skipped_and_named_in_the_error(llm: Path) -> None:
    bad = {"mm.2.bias": np.ones(64, np.float64)}
    path = small_mmproj.write(llm.with_name("mmproj-Tiny-VL-2B.gguf"), tensors=bad)
    assert find_mmproj(llm) is None
    with pytest.raises(GGUFError, match="tensors of type F64"):
        resolve_vision(llm)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(GGUFError, match="mmproj-Tiny-VL-2B.gguf is cut off"):
        resolve_vision(llm)
    right = small_mmproj.write(llm.with_name("mmproj-Tiny.gguf"))
    assert find_mmproj(llm) == right


def test_an_mmproj_named_for_another_llm_is_not_taken(llm: Path, tiny_llama: Path) -> None:
    shutil.copy(tiny_llama, other := llm.with_name("Giant-VL-9B-Q8_0.gguf"))
    path = small_mmproj.write(llm.with_name("mmproj-Giant-VL-9B-F16.gguf"))
    assert (find_mmproj(other), find_mmproj(llm)) == (path, None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mmproj-model-f16.gguf", set()),
        ("mmproj-F32.gguf", set()),
        ("Qwen2.5-VL-7B-Instruct-UD-Q4_K_XL.gguf", {"qwen2", "5", "vl", "7b", "instruct"}),
        ("Big_VL-Q8_0-00001-of-00003.gguf", {"big", "vl"}),
    ],
)
def test_the_words_of_a_name(name: str, words: set[str]) -> None:
    assert name_words(name) == words


def test_a_name_that_says_nothing_fits_all() -> None:
    assert belongs_to("mmproj-BF16.gguf", "a.gguf", ["b.gguf"])
    assert belongs_to("mmproj-b.gguf", "b-Q8_0.gguf", ["a.gguf", "b-Q4_0.gguf"])
    assert not belongs_to("mmproj-b.gguf", "a.gguf", ["a.gguf", "b.gguf"])


def test_the_first_that_fits_or_else_the_smallest() -> None:
    assert first_that_fits(["ccc", "a", "bb"], len, 2) == "a"
    assert first_that_fits(["ccc", "bb"], len, 1) == "bb"
    assert first_that_fits(list[str](), len, 1) is None


def test_in_the_hubs_cache_it_is_in_the_same_repository(
    empty_home: Path, tmp_path: Path, tiny_llama: Path
) -> None:
    mmproj = small_mmproj.write(tmp_path / "m.gguf")
    cache = stores.hub_cache()
    llm = into_hub_cache(cache, "a/T-GGUF", "Q8_0/T-Q8_0.gguf", tiny_llama)
    path = into_hub_cache(cache, "a/T-GGUF", "mmproj-F16.gguf", mmproj)
    into_hub_cache(cache, "b/Else", "mmproj-T-Q8_0.gguf", mmproj)
    assert resolve_vision("hf:a/T-GGUF:Q8_0") == VisionModel(llm, path)
    assert resolve_vision("hf:a/T-GGUF") == VisionModel(llm, path)
    alone = into_hub_cache(cache, "c/Alone", "Alone-Q8_0.gguf", tiny_llama)
    assert find_mmproj(alone) is None


def test_in_lmstudio_it_is_in_the_models_folder(
    empty_home: Path, tmp_path: Path, tiny_llama: Path
) -> None:
    folder = empty_home / ".lmstudio/models/someone/Tiny-GGUF"
    folder.mkdir(parents=True)
    shutil.copy(tiny_llama, folder / "Tiny-Q8_0.gguf")
    path = small_mmproj.write(folder / "mmproj-model-f16.gguf")
    assert resolve_vision("Tiny-Q8_0") == VisionModel(folder / "Tiny-Q8_0.gguf", path)


def test_in_ollama_it_is_in_the_same_manifest(
    empty_home: Path, tmp_path: Path, tiny_llama: Path
) -> None:
    folder = empty_home / ".ollama/models"
    mmproj = small_mmproj.write(tmp_path / "m.gguf")
    blob = into_ollama(folder, OLLAMA.format("llava"), tiny_llama, mmproj)
    found = resolve_vision("ollama:llava")
    assert found.llm == blob
    assert found.mmproj.parent == blob.parent and found.mmproj.read_bytes() == mmproj.read_bytes()
    [model] = stores.ollama_models()
    assert model.mmproj == found.mmproj


def test_a_tower_inside_an_ollama_model_is_said_to_be_ollamas_own(
    empty_home: Path, tmp_path: Path, reellama: Run
) -> None:
    keys = {"clip.has_vision_encoder": None, "gemma3.embedding_length": 64}
    path = small_mmproj.write(tmp_path / "m.gguf", keys=keys, arch="gemma3")
    into_ollama(empty_home / ".ollama/models", OLLAMA.format("gemma3"), path)
    with pytest.raises(GGUFError, match="holds its vision encoder in Ollama's own form, which ll"):
        resolve_vision("ollama:gemma3")
    result = reellama("gguf", "list")
    assert "in Ollama's own form, which llama.cpp does not read; pull the model" in result.err
    [entry] = [entry for entry in list_models() if entry.source == "Ollama"]
    assert entry.mmproj is None and entry.vision_problem


def test_a_file_that_holds_both_is_its_own_mmproj(empty_home: Path, tmp_path: Path) -> None:
    keys = {"llama.embedding_length": 64}
    path = small_mmproj.write(tmp_path / "both.gguf", keys=keys, arch="llama")
    assert resolve_vision(path) == VisionModel(path, path)
    assert find_mmproj(path) == path


def test_an_mmproj_can_be_given_explicitly(llm: Path, empty_home: Path) -> None:
    small_mmproj.write(llm.with_name("mmproj-F16.gguf"))
    other = small_mmproj.write(empty_home / "other.gguf")
    assert resolve_vision(llm, other) == VisionModel(llm, other)
    wide = small_mmproj.write(empty_home / "wide.gguf", n_embd=96)
    with pytest.raises(GGUFError, match="wide.gguf makes tokens of 96"):
        resolve_vision(llm, wide)
    with pytest.raises(GGUFError, match="is not an mmproj"):
        resolve_vision(llm, llm)


def test_an_mmproj_is_no_llm(empty_home: Path) -> None:
    path = small_mmproj.write(empty_home / "mmproj.gguf")
    with pytest.raises(GGUFError, match="mmproj.gguf is an mmproj; give its LLM, and this file wi"):
        resolve_vision(path)


def test_the_list_says_which_models_see_and_has_no_mmproj(
    empty_home: Path,
    tmp_path: Path,
    tiny_llama: Path,
    reellama: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(empty_home / "data"))
    mmproj = small_mmproj.write(tmp_path / "m.gguf", "idefics3")
    path = into_hub_cache(stores.hub_cache(), "a/T", "mmproj-T-F16.gguf", mmproj)
    into_hub_cache(stores.hub_cache(), "a/T", "T-F32.gguf", tiny_llama)
    into_hub_cache(stores.hub_cache(), "b/Alone", "mmproj-Alone.gguf", mmproj)
    into_ollama(empty_home / ".ollama/models", OLLAMA.format("blind"), tiny_llama)
    result = reellama("gguf", "list")
    lines = {line.split()[0]: line.split() for line in result.out.splitlines()}
    assert lines["hf:a/T:F32"][-1] == "idefics3"
    assert lines["ollama:blind:latest"][-1] == "103k"
    assert "mmproj" not in result.out
    [note] = [line for line in result.err.splitlines() if "mmproj" in line]
    assert note.endswith("mmproj-Alone.gguf is an mmproj that no model here sees through")
    found = {entry["name"]: entry for entry in json.loads(reellama("gguf", "list", "--json").out)}
    assert found.keys() == lines.keys() - {"name"}
    assert found["hf:a/T:F32"]["mmproj"] == str(path)
    assert found["hf:a/T:F32"]["vision"] == "idefics3"
    assert found["ollama:blind:latest"]["mmproj"] is None
    assert find.resolve("hf:a/T:mmproj-T-F16.gguf") == path  # it can be named all the same
