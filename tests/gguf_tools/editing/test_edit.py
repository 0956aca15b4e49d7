"""Metadata changed in a copy: the rest of the file stays byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reellama.gguf_tools.editing.edit import Setting, edit
from reellama.gguf_tools.editing.split import split
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.header_writer import raw_entries
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.runtime.backend import load_model
from tests.conftest import Result

Run = Callable[..., Result]


def tensors(path: Path) -> dict[str, bytes]:
    content = path.read_bytes()
    return {
        t.name: content[t.offset : t.offset + t.n_bytes] for t in read_gguf(path).tensors.values()
    }


def test_keys_are_set_and_all_else_is_kept(reellama: Run, tiny_llama: Path, tmp_path: Path) -> None:
    out, template = tmp_path / "out.gguf", tmp_path / "chat.jinja"
    template.write_text("{{ messages[0]['content'] }} ¡olé!")
    result = reellama(
        "gguf", "edit", tiny_llama, "-o", out, "--set", "general.name=My: model",
        "--set", "llama.context_length=64", "--set", "my.number=u64:9000000000",
        "--set", "my.flag=true", "--remove", "tokenizer.ggml.pre", "--template", template,
    )  # fmt: skip
    assert result.status == 0
    before, after = read_gguf(tiny_llama).metadata, read_gguf(out).metadata
    assert after == {
        **{key: value for key, value in before.items() if key != "tokenizer.ggml.pre"},
        "general.name": "My: model",
        "llama.context_length": 64,
        "my.number": 9000000000,
        "my.flag": True,
        "tokenizer.chat_template": template.read_text(),
    }
    assert tensors(out) == tensors(tiny_llama)
    with load_model(out) as model:
        assert model.file.n_ctx_train == 64
    kept = raw_entries(tiny_llama).items() - raw_entries(out).items()
    assert {key for key, _ in kept} == {"llama.context_length", "tokenizer.ggml.pre"}


def test_a_key_keeps_its_type(tiny_llama: Path, tmp_path: Path) -> None:
    key = "llama.attention.layer_norm_rms_epsilon"
    edit(tiny_llama, tmp_path / "out.gguf", [Setting(key, "1")])
    assert read_gguf(tmp_path / "out.gguf").metadata[key] == 1.0
    assert isinstance(read_gguf(tmp_path / "out.gguf").metadata[key], float)


def test_a_model_in_several_files_becomes_one(tiny_llama: Path, tmp_path: Path) -> None:
    files = split(tiny_llama, tmp_path / "part", max_tensors=9)
    edit(files[0].path, tmp_path / "out.gguf", [Setting("general.name", "whole")])
    assert "split.count" not in read_gguf(tmp_path / "out.gguf").metadata
    assert tensors(tmp_path / "out.gguf") == tensors(tiny_llama)


REFUSED = {
    "general.alignment=64": "says how the file is laid out",
    "llama.context_length=many": "is of type u32: 'many' is none",
    "llama.context_length=-1": "is of type u32: '-1' is none",
    "tokenizer.ggml.tokens=x": "is a list, which cannot be set here",
    "my.flag=bool:perhaps": "is of type bool: 'perhaps' is none",
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_set_is_refused(
    reellama: Run, tiny_llama: Path, tmp_path: Path, text: str, reason: str
) -> None:
    result = reellama("gguf", "edit", tiny_llama, "-o", tmp_path / "out.gguf", "--set", text)
    assert result.status == 1 and reason in result.err and len(result.err.splitlines()) == 1
    assert not list(tmp_path.glob("*.gguf"))


def test_a_key_that_is_not_there_cannot_be_removed(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ReellamaError, match="has no key 'my.key'"):
        edit(tiny_llama, tmp_path / "out.gguf", remove=["my.key"])
