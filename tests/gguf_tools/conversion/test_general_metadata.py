"""What a model's card and settings say is in the GGUF, under the keys of llama.cpp's converter."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reellama.gguf_tools.conversion.convert import convert
from reellama.gguf_tools.format.reader import read_gguf
from tests.helpers import tiny_hf

CARD = """---
language:
- en
- no
license: apache-2.0
license_link: https://example.org/licence
tags: [video, small]
pipeline_tag: text-generation
base_model: owner/Tiny-Chat-7B-v0.1
datasets:
- owner/stories
version: 1.2
model_creator: The Owner
---
# A model

---
not: this
"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model, with a name as models have."""
    folder = tmp_path_factory.mktemp("hf") / "Tiny-Chat-v0.2"
    tiny_hf.save_tokenizer(tiny_hf.byte_level("llama-bpe"), folder)
    tiny_hf.save_model(tiny_hf.llama_config(700, tie_word_embeddings=True), folder)
    return folder


def general(folder: Path, path: Path) -> tuple[dict[str, Any], list[str]]:
    """The keys that tell what a model is, and the notes."""
    result = convert(folder, "F16", path, force=True)
    return {
        key.removeprefix("general."): value
        for key, value in read_gguf(result.path).metadata.items()
        if key.startswith("general.") and key != "general.architecture"
    }, result.notes


def test_a_card_and_a_generation_config(llama: Path, tmp_path: Path) -> None:
    folder = tiny_hf.edited_copy(llama, tmp_path / llama.name)
    (folder / "README.md").write_text(CARD)
    sampling = {"temperature": 0.6, "top_k": 20, "top_p": 0.9, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(sampling))
    found, notes = general(folder, tmp_path / "m.gguf")
    assert notes == []
    assert found == {
        "type": "model",
        "file_type": 1,
        "quantization_version": 2,
        "name": "Tiny Chat v0.2",
        "basename": "Tiny",
        "finetune": "Chat",
        "version": "1.2",
        "size_label": "29K",
        "author": "The Owner",
        "license": "apache-2.0",
        "license.link": "https://example.org/licence",
        "tags": ["video", "small", "text-generation"],
        "languages": ["en", "no"],  # Norwegian, not false
        "base_model.count": 1,
        "base_model.0.name": "Tiny Chat 7B v0.1",
        "base_model.0.organization": "Owner",
        "base_model.0.version": "v0.1",
        "base_model.0.repo_url": "https://huggingface.co/owner/Tiny-Chat-7B-v0.1",
        "dataset.count": 1,
        "dataset.0.name": "Stories",
        "dataset.0.organization": "Owner",
        "dataset.0.repo_url": "https://huggingface.co/owner/stories",
        "sampling.temp": pytest.approx(0.6),
        "sampling.top_k": 20,
        "sampling.top_p": pytest.approx(0.9),
    }


def test_a_folder_of_the_hubs_cache_has_its_repositorys_name(llama: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--Tiny-Chat" / "snapshots" / "0123abc"
    snapshot.parent.mkdir(parents=True)
    found, _ = general(tiny_hf.edited_copy(llama, snapshot), tmp_path / "m.gguf")
    assert found["name"] == "Tiny Chat"


def test_a_card_that_cannot_be_read_is_told_and_left_out(llama: Path, tmp_path: Path) -> None:
    folder = tiny_hf.edited_copy(llama, tmp_path / "copy")
    (folder / "README.md").write_text("---\nlicense: [mit\n---\n")
    found, notes = general(folder, tmp_path / "m.gguf")
    assert found["name"] == "Copy" and "license" not in found
    assert notes == [f"{folder / 'README.md'} starts with no YAML that can be read: left out"]


KEYS = ["license", "tags", "language", "base_model", "datasets", "version", "name", "size_label"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "version", "repo_url"]), inner, max_size=2)
    ),
    max_leaves=5,
)


def test_a_character_that_is_escaped_in_halves(carded: Path) -> None:
    (carded / "README.md").write_text(
        '---\n{"license": "\\ud801\\udc00", "version": "\\ud801"}\n---\n'
    )
    found, _ = general(carded, carded / "m.gguf")
    assert (found["license"], found["version"]) == ("\U00010400", "\ufffd")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3))
def test_whatever_a_card_says_the_model_is_converted(carded: Path, card: dict[str, object]) -> None:
    text = json.dumps(card, default=str)  # JSON is YAML
    (carded / "README.md").write_text(f"---\n{text}\n---\n", encoding="utf-8")
    found, _ = general(carded, carded / "m.gguf")
    assert isinstance(found["name"], str)


@pytest.fixture(scope="module")
def carded(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hf.edited_copy(llama, tmp_path_factory.mktemp("carded") / "copy")
