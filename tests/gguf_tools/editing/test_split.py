"""A model in several files is the same model, and joined it is the same file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.editing.model_copy import StoredTensor
from reellama.gguf_tools.editing.split import _groups, join, split
from reellama.gguf_tools.errors import GGUFError, ReellamaError
from reellama.gguf_tools.format.reader import Tensor, read_gguf
from reellama.gguf_tools.format.split_files import read_model
from reellama.gguf_tools.runtime.backend import load_model
from tests.conftest import Result

Run = Callable[..., Result]


@pytest.mark.parametrize(("max_bytes", "max_tensors"), [(70_000, 128), (None, 5)])
def test_what_was_split_and_joined_is_the_same_file(
    tiny_llama: Path, tmp_path: Path, max_bytes: int | None, max_tensors: int
) -> None:
    files = split(tiny_llama, tmp_path / "part", max_bytes=max_bytes, max_tensors=max_tensors)
    assert len(files) > 2
    whole, parts = read_gguf(tiny_llama), read_model(files[0].path)
    assert parts.tensors.keys() == whole.tensors.keys()
    with load_model(files[0].path) as model:
        assert model.n_layer == whole.n_layer
    made = join(files[-1].path, tmp_path / "joined.gguf")
    assert made.path.read_bytes() == tiny_llama.read_bytes()


def test_names_and_marks_are_those_of_llama_cpp(tiny_llama: Path, tmp_path: Path) -> None:
    files = split(tiny_llama, tmp_path / "part", max_tensors=9)
    n = len(files)
    names = [f"part-{i + 1:05}-of-{n:05}.gguf" for i in range(n)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for i, file in enumerate(files):
        metadata = read_gguf(file.path).metadata
        marks = [metadata[f"split.{name}"] for name in ("no", "count", "tensors.count")]
        assert marks == [i, n, len(read_gguf(tiny_llama).tensors)]
        assert ("general.architecture" in metadata) == (i == 0)


@given(st.integers(1, 200_000), st.integers(1, 30))
def test_no_file_holds_more_than_it_may(max_bytes: int, max_tensors: int) -> None:
    stored = [_stored(n) for n in (5, 33, 4096, 20_000, 100, 50_000, 1)]
    by_number = _groups(stored, None, max_tensors)
    assert all(0 < len(group) <= max_tensors for group in by_number)
    assert [each for group in by_number for each in group] == stored
    if max_bytes < 50_016:
        with pytest.raises(ReellamaError, match="alone has"):
            _groups(stored, max_bytes, max_tensors)
        return
    by_size = _groups(stored, max_bytes, max_tensors)
    assert all(sum(each.tensor.n_bytes for each in group) <= max_bytes for group in by_size)
    assert [each for group in by_size for each in group] == stored


def test_a_dry_run_says_the_files_and_writes_none(
    reellama: Run, tiny_llama: Path, tmp_path: Path
) -> None:
    words = ("gguf", "split", tiny_llama, "--max-size", "70KB", "-o", tmp_path / "a")
    told = reellama(*words, "--dry-run")
    assert told.status == 0 and not list(tmp_path.glob("a*"))
    written = reellama(*words)
    assert written.out == told.out
    assert len(list(tmp_path.glob("a*"))) == len(told.out.splitlines())


def test_what_cannot_be_done_is_one_line_and_writes_nothing(
    reellama: Run, tiny_llama: Path, tmp_path: Path
) -> None:
    files = split(tiny_llama, tmp_path / "part", max_tensors=9)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    first, out = files[0].path, tmp_path / "out.gguf"
    refused = {
        "exists; --force replaces it": ("split", tiny_llama, "--max-tensors", "9"),
        "is split already": ("split", first),
        "allow larger files": ("split", tiny_llama, "--max-size", "1KB"),
        "is one file already": ("join", tiny_llama, "-o", out),
        "is the source itself": ("join", first, "-o", first, "--force"),
        "there is no folder": ("join", first, "-o", tmp_path / "no" / "x.gguf"),
    }
    for reason, words in refused.items():
        given = words if "-o" in words else (*words, "-o", tmp_path / "part")
        result = reellama("gguf", *given)
        assert result.status == 1 and reason in result.err, result.err
        assert len(result.err.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    files[1].path.unlink()
    with pytest.raises(GGUFError, match="is missing"):
        join(first, out)


def _stored(n_bytes: int) -> StoredTensor:
    tensor = Tensor(f"t{n_bytes}", (n_bytes,), GGMLQuantizationType.I8, 0, n_bytes)
    return StoredTensor(Path("model.gguf"), tensor)
