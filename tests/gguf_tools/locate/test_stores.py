"""Where programs keep GGUFs: each store as its program lays it out, and everything broken in it."""

import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from reellama.gguf_tools.locate import stores
from reellama.gguf_tools.locate.listing import list_models
from tests.conftest import Result
from tests.helpers.ollama_store import into_ollama, write_manifest

Run = Callable[..., Result]
N_PARAMETERS = 103_104  # of the tiny model


def into_hub_cache(cache: Path, repo: str, name: str, file: Path, commit: str = "c" * 40) -> Path:
    """Put a file into a hub's cache as its client does: a blob, and a link to it by its name."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / sha256(file.read_bytes()).hexdigest()
    path = folder / "snapshots" / commit / name
    for parent in (blob.parent, path.parent, folder / "refs"):
        parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, blob)
    path.symlink_to(os.path.relpath(blob, path.parent))
    (folder / "refs" / "main").write_text(commit)
    return path


def test_the_hubs_cache_is_where_its_client_looks(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stores.hub_cache() == empty_home / ".cache/huggingface/hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert stores.hub_cache() == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert stores.hub_cache() == empty_home / "hf/hub"
    monkeypatch.setenv("HF_HUB_CACHE", "$HOME/cache")
    assert stores.hub_cache() == empty_home / "cache"


def test_the_hubs_cache_is_listed_by_quantization(empty_home: Path, tiny_llama: Path) -> None:
    names = ("Tiny-Q4_K_M.gguf", "Tiny-Q8_0.gguf", "F16/Tiny-F16-00001-of-00002.gguf")
    second = "F16/Tiny-F16-00002-of-00002.gguf"
    paths = [into_hub_cache(stores.hub_cache(), "a/T", name, tiny_llama) for name in names]
    into_hub_cache(stores.hub_cache(), "a/T", second, tiny_llama)
    found = {model.name: model.path for model in stores.hub_models()}
    quants = ("Q4_K_M", "Q8_0", "F16")
    assert found == {f"hf:a/T:{quant}": path for quant, path in zip(quants, paths, strict=True)}


def test_of_several_revisions_mains_file_is_the_one(empty_home: Path, tiny_llama: Path) -> None:
    cache = stores.hub_cache()
    new = into_hub_cache(cache, "a/T", "T-Q8_0.gguf", tiny_llama, commit="a" * 40)
    into_hub_cache(cache, "a/T", "T-Q8_0.gguf", tiny_llama, commit="b" * 40)
    only_old = into_hub_cache(cache, "a/T", "T-F16.gguf", tiny_llama, commit="b" * 40)
    (cache / "models--a--T/refs/main").write_text("a" * 40)
    assert {model.path for model in stores.hub_models()} == {new, only_old}


@pytest.mark.parametrize(
    ("manifest", "name"),
    [
        ("registry.ollama.ai/library/llama3.2/1b", "llama3.2:1b"),
        ("registry.ollama.ai/someone/llama/latest", "someone/llama:latest"),
        ("hf.co/owner/Model-GGUF/Q4_K_M", "hf.co/owner/Model-GGUF:Q4_K_M"),
    ],
)
def test_ollamas_models_have_ollamas_names(
    empty_home: Path, tiny_llama: Path, manifest: str, name: str
) -> None:
    blob = into_ollama(empty_home / ".ollama/models", manifest, tiny_llama)
    (model,) = stores.ollama_models()
    assert (model.name, model.path, model.source) == (f"ollama:{name}", blob, "Ollama")


def test_ollama_keeps_models_at_home_or_where_it_was_told(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", "~/elsewhere")
    assert stores.ollama_folders() == [empty_home / "elsewhere"]
    monkeypatch.delenv("OLLAMA_MODELS")
    assert empty_home / ".ollama/models" in stores.ollama_folders()


GOOD = "application/vnd.ollama.image.model"


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        '{"layers": 3}',
        '{"layers": [3]}',
        json.dumps({"layers": [{"mediaType": GOOD}]}),
        json.dumps({"layers": [{"mediaType": GOOD, "digest": "sha256:../../../home/secret"}]}),
        json.dumps({"layers": [{"mediaType": GOOD, "digest": f"sha256:{'1' * 64}"}]}),
    ],
)
def test_a_broken_manifest_is_passed_over(
    empty_home: Path, tiny_llama: Path, manifest: str
) -> None:
    folder = empty_home / ".ollama/models"
    into_ollama(folder, "registry.ollama.ai/library/good/latest", tiny_llama)
    write_manifest(folder, "registry.ollama.ai/library/bad/latest", manifest)
    assert [model.name for model in stores.ollama_models()] == ["ollama:good:latest"]


def test_lmstudio_keeps_models_by_publisher(empty_home: Path, tiny_llama: Path) -> None:
    folder = empty_home / ".lmstudio/models/someone/Tiny-GGUF"
    folder.mkdir(parents=True)
    shutil.copy(tiny_llama, folder / "Tiny-Q8_0.gguf")
    (model,) = stores.lmstudio_models()
    assert (model.name, model.path) == ("Tiny-Q8_0.gguf", folder / "Tiny-Q8_0.gguf")


def test_lmstudios_settings_say_where_else(empty_home: Path, tiny_llama: Path) -> None:
    (empty_home / ".lmstudio-home-pointer").write_text(f"{empty_home}/studio\n")
    (empty_home / "studio").mkdir()
    (empty_home / "studio/settings.json").write_text(json.dumps({"downloadsFolder": "~/big"}))
    (empty_home / "big/a/b").mkdir(parents=True)
    shutil.copy(tiny_llama, empty_home / "big/a/b/c.gguf")
    assert [model.path for model in stores.lmstudio_models()] == [empty_home / "big/a/b/c.gguf"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"downloadsFolder": ""}', '{"downloadsFolder": 3}']
)
def test_settings_that_say_nothing_are_passed_over(empty_home: Path, text: str) -> None:
    (empty_home / ".lmstudio").mkdir()
    (empty_home / ".lmstudio/settings.json").write_text(text)
    (empty_home / ".lmstudio-home-pointer").write_bytes(b"\xff\0" if not text else b"a\0b")
    assert list(stores.lmstudio_models()) == []
    assert Path() not in stores.lmstudio_folders()


def test_links_that_lead_nowhere_or_in_circles_do_no_harm(
    empty_home: Path, tiny_llama: Path
) -> None:
    own = stores.models_folder()
    (own / "a").mkdir(parents=True)
    shutil.copy(tiny_llama, own / "a/good.gguf")
    (own / "gone.gguf").symlink_to(own / "nothing")
    (own / "loop.gguf").symlink_to(own / "loop.gguf")
    (own / "a/up").symlink_to(own)
    (own / "a/folder.gguf").mkdir()
    for i in range(8):
        (own / f"again{i}").symlink_to(own / "a")
    assert [model.path for model in stores.own_models()] == [own / "a/good.gguf"]


def test_a_folder_that_may_not_be_read_is_passed_over(
    empty_home: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = stores.models_folder()
    (own / "closed").mkdir(parents=True)
    shutil.copy(tiny_llama, own / "closed/hidden.gguf")
    shutil.copy(tiny_llama, own / "open.gguf")
    for folder in (own, *own.parents):
        if empty_home.parent in (folder, *folder.parents):
            folder.chmod(0o755)
    (own / "closed").chmod(0)
    for folder in empty_home.parent.parents:
        if folder.name.startswith(("pytest-", "popen-")):  # these let nobody else in
            folder.chmod(0o755)
    root = os.geteuid() == 0
    if root:  # whom no permission stops
        os.seteuid(65534)
    try:
        assert [model.path for model in stores.own_models()] == [own / "open.gguf"]
    finally:
        if root:
            os.seteuid(0)
        (own / "closed").chmod(0o755)


def test_somebody_without_a_home_has_no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    assert not list(stores.lmstudio_models())


def test_the_list_shows_what_each_model_is(
    empty_home: Path, reellama: Run, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(empty_home / "data"))
    into_hub_cache(stores.hub_cache(), "a/T", "T-F32.gguf", tiny_llama)
    into_ollama(empty_home / ".ollama/models", "registry.ollama.ai/library/tiny/1b", tiny_llama)
    stores.models_folder().mkdir(parents=True)
    damaged = stores.models_folder() / "cut.gguf"
    damaged.write_bytes(tiny_llama.read_bytes()[:9000])
    result = reellama("gguf", "list")
    assert result.status == 0
    lines = {line.split()[0]: line.split() for line in result.out.splitlines()}
    assert lines["mini-llm"][1:] == ["package", "Q4_1", "93.8", "MiB", "llama", "135M"]
    size = f"{tiny_llama.stat().st_size / 1024:.1f}"
    assert lines["hf:a/T:F32"][1:] == ["hub", "F32", size, "KiB", "llama", "103k"]
    assert lines["ollama:tiny:1b"][1] == "Ollama"
    assert lines["cut.gguf"][-1] == "damaged"
    assert f"{damaged} is " in result.err


def test_programs_get_the_list_as_json(
    empty_home: Path, reellama: Run, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(empty_home / "data"))
    path = into_hub_cache(stores.hub_cache(), "a/T", "T-F32.gguf", tiny_llama)
    found = {entry["name"]: entry for entry in json.loads(reellama("gguf", "list", "--json").out)}
    assert found["hf:a/T:F32"] == {
        "name": "hf:a/T:F32",
        "source": "hub",
        "path": str(path),
        "n_bytes": tiny_llama.stat().st_size,
        "quantization": "F32",
        "architecture": "llama",
        "n_parameters": N_PARAMETERS,
        "n_ctx_train": 4096,
        "problem": None,
        "mmproj": None,
        "vision": None,
        "blind": None,
    }


def test_a_split_model_is_one_entry_and_says_which_part_is_missing(
    empty_home: Path, tiny_llama: Path
) -> None:
    own = stores.models_folder()
    own.mkdir(parents=True)
    for i in (1, 3):
        shutil.copy(tiny_llama, own / f"big-0000{i}-of-00003.gguf")
    (entry,) = (entry for entry in list_models() if entry.source == "reellama")
    assert entry.problem is not None and "big-00002-of-00003.gguf is missing" in entry.problem
    shutil.copy(tiny_llama, own / "big-00002-of-00003.gguf")
    (entry,) = (entry for entry in list_models() if entry.source == "reellama")
    assert entry.problem is None
    assert entry.n_bytes == 3 * tiny_llama.stat().st_size
    assert entry.n_parameters == 3 * N_PARAMETERS
