"""LLMs with their adapters merged in: made once, kept by content, never the wrong one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.quantization import merged_llm
from reellama.gguf_tools.quantization.merged_llm import find_merged, make_merged
from reellama.gguf_tools.quantization.quantize import quantize
from tests.helpers.lora_adapters import NAMES, logits, pairs, write_adapter

MAKE = """
import sys
from pathlib import Path
from reellama.gguf_tools.quantization.merged_llm import make_merged
base, adapter, folder = map(Path, sys.argv[1:])
print(make_merged(base, [(adapter, 1.0)], folder))
"""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapter") / "adapter.gguf", pairs(seed=1))


@pytest.fixture(scope="module")
def base(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights of about five bits."""
    folder = tmp_path_factory.mktemp("base")
    return quantize(tiny_llama, "Q4_1", folder / "base.gguf", pure=True, n_threads=1)[0].path


def stored(file: GGUFFile, name: str) -> bytes:
    tensor = file.tensors[name]
    return file.path.read_bytes()[tensor.offset : tensor.offset + tensor.n_bytes]


@pytest.mark.numeric
def test_a_merged_llm_says_what_base_and_adapter_say(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    merged = make_merged(base, [(adapter, 0.5)], tmp_path)
    assert merged is not None
    expected = logits(base, (adapter, 0.5))
    np.testing.assert_allclose(logits(merged), expected, atol=0.2)
    assert np.abs(expected - logits(base)).max() > 0.5


def test_only_what_the_adapter_changes_is_written_anew(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    merged = make_merged(base, [(adapter, 1.0)], tmp_path)
    assert merged is not None
    before, after = read_gguf(base), read_gguf(merged)
    assert [*before.tensors] == [*after.tensors]
    for name, tensor in before.tensors.items():
        if name in NAMES:
            assert tensor.type == GGMLQuantizationType.Q4_1
            assert after.tensors[name].type == GGMLQuantizationType.Q8_0
        else:
            assert stored(after, name) == stored(before, name)
    assert after.metadata["tokenizer.ggml.tokens"] == before.metadata["tokenizer.ggml.tokens"]


def test_weights_of_more_bits_keep_their_type(
    tiny_llama: Path, adapter: Path, tmp_path: Path
) -> None:
    merged = make_merged(tiny_llama, [(adapter, 1.0)], tmp_path)
    assert merged is not None
    types = {tensor.type for tensor in read_gguf(merged).tensors.values()}
    assert types == {GGMLQuantizationType.F32}
    np.testing.assert_allclose(logits(merged), logits(tiny_llama, (adapter, 1.0)), atol=5e-3)


def test_a_merged_llm_is_made_once_and_found_by_its_sources(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    assert find_merged(base, [(adapter, 1.0)], folder) is None
    assert make_merged(base, [], folder) is None
    assert not folder.exists()
    made = make_merged(base, [(adapter, 1.0)], folder)
    assert made == find_merged(base, [(adapter, 1.0)], folder)
    assert made is not None
    written = made.stat().st_ino
    assert make_merged(base, [(adapter, 1.0)], folder) == made
    assert made.stat().st_ino == written
    assert find_merged(base, [(adapter, 0.5)], folder) is None
    other = write_adapter(tmp_path / "adapter.gguf", pairs(seed=2))
    assert find_merged(base, [(other, 1.0)], folder) is None
    other.write_bytes(adapter.read_bytes())  # the content counts, not the place
    assert find_merged(base, [(other, 1.0)], folder) == made
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("damage", ["cut off", "another model", "empty", "a folder"])
def test_a_file_that_is_damaged_or_foreign_is_not_used(
    base: Path, adapter: Path, tmp_path: Path, damage: str
) -> None:
    adapters = [(adapter, 1.0)]
    made = make_merged(base, adapters, tmp_path)
    assert made is not None
    whole = made.read_bytes()
    if damage == "a folder":
        made.unlink()
        made.mkdir()
    else:
        broken = {"cut off": whole[:-100], "another model": base.read_bytes(), "empty": b""}
        made.write_bytes(broken[damage])
    assert find_merged(base, adapters, tmp_path) is None
    if damage == "a folder":
        with pytest.raises(ReellamaError, match="not a file"):
            make_merged(base, adapters, tmp_path)
    else:
        assert make_merged(base, adapters, tmp_path) == made
        assert made.read_bytes() == whole


def test_processes_that_want_the_same_at_once_get_one_whole_file(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", MAKE, str(base), str(adapter), str(tmp_path / "kept")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate(timeout=120)[0].strip() for process in running}
    assert said == {str(find_merged(base, [(adapter, 1.0)], tmp_path / "kept"))}
    assert len([*(tmp_path / "kept").glob("*.gguf")]) == 1


def test_those_used_last_are_kept(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_llm, "MAX_FILES", 2)
    for scale in (0.1, 0.2):
        make_merged(base, [(adapter, scale)], tmp_path)
    assert find_merged(base, [(adapter, 0.1)], tmp_path)  # used now
    make_merged(base, [(adapter, 0.3)], tmp_path)
    kept = [s for s in (0.1, 0.2, 0.3) if find_merged(base, [(adapter, s)], tmp_path)]
    assert kept == [0.1, 0.3]


def test_a_large_model_keeps_its_adapter_beside(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_llm, "MAX_BYTES", 1000)
    assert make_merged(base, [(adapter, 1.0)], tmp_path / "kept") is None
    assert not (tmp_path / "kept").exists()


def test_a_folder_that_cannot_be_written_is_said(base: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReellamaError, match="cannot write into"):
        make_merged(base, [(adapter, 1.0)], tmp_path / "file" / "kept")
