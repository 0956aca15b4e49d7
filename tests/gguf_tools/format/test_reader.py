"""Reading a GGUF's header: what is in it, and that no file can do harm or go on for ever."""

import os
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format import reader
from reellama.gguf_tools.format.header_cursor import HeaderCursor
from reellama.gguf_tools.format.model_summary import ModelSummary, model_summary
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf, token_embeddings

# A header's places, in bytes: magic, version, number of tensors, number of keys, keys.
VERSION_AT, N_TENSORS_AT, N_KEYS_AT, KEYS_AT = 4, 8, 16, 24


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF of a few hundred bytes with a value of every kind and two tensors."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("kleines Modell ✓")
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_bool("a.bool", True)
    writer.add_int8("an.int8", -8)
    writer.add_uint64("a.uint64", 2**63)
    writer.add_float64("a.float64", 0.1)
    writer.add_array("strings", ["a", "", "ü"])
    writer.add_array("numbers", [1, -2, 3])
    table = np.random.default_rng(0).normal(size=(6, 32)).astype(np.float32)
    packed = gguf.quantize(table, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("token_embd.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def changed(small: Path, tmp_path: Path) -> Callable[[int, bytes], Path]:
    """Return a function that writes a copy of the small GGUF with other bytes at one place."""

    def change(at: int, data: bytes) -> Path:
        content = bytearray(small.read_bytes())
        content[at : at + len(data)] = data
        path = tmp_path / "changed.gguf"
        path.write_bytes(content)
        return path

    return change


def test_every_kind_of_value_comes_back(small: Path) -> None:
    metadata = read_gguf(small).metadata
    assert metadata["general.name"] == "kleines Modell ✓"
    assert metadata["a.bool"] is True
    assert metadata["an.int8"] == -8
    assert metadata["a.uint64"] == 2**63
    assert metadata["a.float64"] == 0.1
    assert metadata["strings"] == ["a", "", "ü"]
    assert metadata["numbers"] == [1, -2, 3]


def test_a_list_is_made_when_it_is_looked_at_and_once(small: Path) -> None:
    metadata = read_gguf(small).metadata
    assert "strings" in metadata and len(metadata) == len(list(metadata))
    assert metadata["strings"] is metadata["strings"]
    assert metadata == dict(metadata)


def test_each_entry_lies_where_the_spans_say(small: Path) -> None:
    file, content = read_gguf(small), small.read_bytes()
    ends = [end for _, end in file.spans.values()]
    assert [start for start, _ in file.spans.values()] == [KEYS_AT, *ends[:-1]]
    for key, (start, _end) in file.spans.items():
        assert content[start + 8 :].startswith(key.encode())


def test_a_header_is_read_as_the_gguf_package_reads_it(small: Path) -> None:
    file, reader = read_gguf(small), gguf.GGUFReader(small)
    assert list(file.tensors) == [tensor.name for tensor in reader.tensors]
    for expected in reader.tensors:
        entry = file.tensors[expected.name]
        assert (entry.offset, entry.n_bytes) == (expected.data_offset, expected.n_bytes)
        assert (entry.shape, entry.type) == (tuple(expected.shape), expected.tensor_type)
    fields = {name: field for name, field in reader.fields.items() if "GGUF." not in name}
    assert file.metadata == {name: field.contents() for name, field in fields.items()}


def test_what_is_known_of_smollm2(smollm2: Path) -> None:
    file = read_gguf(smollm2)
    assert (file.architecture, file.n_embd, file.n_layer, file.n_ctx_train) == (
        "llama",
        576,
        30,
        8192,
    )
    assert (file.token("bos"), file.token("eos")) == ("<|im_start|>", "<|im_end|>")
    assert file.token("no such token") == ""
    assert file.metadata.text("tokenizer.ggml.tokens", 49152) is None
    tokens = file.metadata["tokenizer.ggml.tokens"]  # all of them, from here on
    assert (file.token("bos"), file.metadata.text("tokenizer.ggml.tokens", 0)) == (
        "<|im_start|>",
        tokens[0],
    )
    assert file.metadata.text("tokenizer.ggml.tokens", -1) is None
    assert "add_generation_prompt" in (file.chat_template or "")
    assert file.embedding_scale == 1.0
    facts = model_summary(file)
    assert facts.quantization == "Q4_1"
    assert facts.n_parameters == 134_515_008
    assert facts.has_chat_template


def test_what_is_known_of_gemma(gemma: Path) -> None:
    file = read_gguf(gemma)
    assert file.embedding_scale == pytest.approx(640**0.5)
    assert file.chat_template is None
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 262_144
    # Nothing but padding lies between and behind the tensors: their extents are right.
    end = max(entry.offset + entry.n_bytes for entry in file.tensors.values())
    assert 0 <= file.size - end < 32


def test_token_embeddings_are_the_dequantized_rows(small: Path) -> None:
    table = next(t for t in gguf.GGUFReader(small).tensors if t.name == "token_embd.weight")
    expected = gguf.dequantize(table.data, table.tensor_type)
    rows = token_embeddings(small, [5, 0, 5])
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, expected[[5, 0, 5]])
    np.testing.assert_array_equal(token_embeddings(small), expected)
    assert token_embeddings(small, []).shape == (0, 32)


def test_the_rows_asked_for_are_those_of_the_whole_table(smollm2: Path) -> None:
    rows = token_embeddings(smollm2, [49151, 7])
    np.testing.assert_array_equal(rows, token_embeddings(smollm2)[[49151, 7]])


@pytest.mark.parametrize("token", [-1, 6])
def test_an_id_outside_the_vocabulary_is_an_index_error(small: Path, token: int) -> None:
    with pytest.raises(IndexError, match="from 0 to 5"):
        token_embeddings(small, [0, token])


def test_a_gguf_that_is_no_language_model_says_so(tmp_path: Path) -> None:
    path = tmp_path / "empty.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    file = read_gguf(path)
    for ask in (lambda: file.architecture, lambda: file.n_embd, lambda: token_embeddings(path)):
        with pytest.raises(GGUFError, match="is not a language model"):
            ask()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_what_is_not_a_readable_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    cases = {
        tmp_path / "missing.gguf": "cannot read .*missing.gguf: No such file",
        tmp_path: "is not a regular file",
        tmp_path / "pipe": "is not a regular file",
        Path("/dev/zero"): "is not a regular file",
        Path("nul\0byte"): "cannot read",
        write(tmp_path / "empty", b""): "is not a GGUF file",
        write(tmp_path / "text", b"Once upon a time there was a text.\n"): "is not a GGUF file",
        write(tmp_path / "a.safetensors", bytes(64)): "convert its folder: reellama gguf convert",
        write(tmp_path / "magic", b"GGUF"): "is cut off",
        write(tmp_path / "pointer", POINTER): "is a Git LFS pointer, .*: run `git lfs pull`",
    }
    for path, message in cases.items():
        with pytest.raises(GGUFError, match=message):
            read_gguf(path)


def test_a_cut_off_model_says_how_much_is_missing(smollm2: Path, tmp_path: Path) -> None:
    with smollm2.open("rb") as file:
        path = write(tmp_path / "half.gguf", file.read(5_000_000))
    with pytest.raises(GGUFError, match=r"cut off: it has 5,000,000 bytes of at least 98,362,"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("at", "data", "message"),
    [
        (VERSION_AT, struct.pack("<I", 1), "version 1, which is not supported"),
        (VERSION_AT, struct.pack(">I", 3), "big-endian"),
        (N_TENSORS_AT, struct.pack("<Q", 2**63), "claims to have .* tensors"),
        (N_KEYS_AT, struct.pack("<Q", 2**40), "claims to have .* keys"),
        (N_KEYS_AT, struct.pack("<Q", 60_000), "cut off or damaged"),
        (KEYS_AT, struct.pack("<Q", 2**64 - 1), "cut off or damaged"),
    ],
)
def test_hostile_numbers_are_refused(
    changed: Callable[[int, bytes], Path], at: int, data: bytes, message: str
) -> None:
    with pytest.raises(GGUFError, match=message):
        read_gguf(changed(at, data))


def key(name: str, type_: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", type_) + value


def tensor(name: str, shape: tuple[int, ...], type_: int = 0, offset: int = 0) -> bytes:
    layout = f"<I{len(shape)}QIQ"
    head = struct.pack("<Q", len(name)) + name.encode()
    return head + struct.pack(layout, len(shape), *shape, type_, offset)


@pytest.mark.parametrize(
    ("keys", "tensors", "message"),
    [
        ([key("a", 99, b"")], [], "unknown type 99"),
        ([key("a", 9, struct.pack("<IQ", 9, 1))], [], "array of arrays"),
        ([key("a", 9, struct.pack("<IQ", 8, 2**60))], [], "elements in an array"),
        ([key("a", 9, struct.pack("<IQ", 12, 2**21))], [], "cut off or damaged"),
        ([key("a", 4, b"\0\0\0\0")] * 2, [], "the key 'a' twice"),
        ([key("general.alignment", 4, struct.pack("<I", 0))], [], "general.alignment is 0"),
        ([key("general.alignment", 4, struct.pack("<I", 48))], [], "not a power of two"),
        ([key("general.alignment", 7, b"\1")], [], "general.alignment is True"),
        ([], [tensor("t", (4,))] * 2, "the tensor 't' twice"),
        ([], [tensor("t", (4,), offset=7)], "odd place"),
        ([], [tensor("t", (2**32, 2**32))], "has the shape"),
        ([], [tensor("t", (4, 0))], "has the shape"),
        ([], [tensor("t", (31,), type_=8)], "no multiple of 32"),
        ([], [tensor("t", (4,), type_=4000)], "type 4000, which is not known"),
        ([], [tensor("t", (32,), type_=4)], "Q4_2, which llama.cpp reads no longer; download"),
        ([], [tensor("t", (32,), type_=31)], "Q4_0_4_4, which llama.cpp reads no longer"),
        ([], [tensor("t", (1, 1, 1, 1, 1))], "5 dimensions"),
        ([], [tensor("t" * 64, (1,))], "name is too long"),
        ([], [tensor("t", (4,), offset=2**62)], "cut off"),
    ],
)
def test_damaged_headers_are_refused_in_one_line(
    tmp_path: Path, keys: list[bytes], tensors: list[bytes], message: str
) -> None:
    counts = struct.pack("<IQQ", 3, len(tensors), len(keys))
    content = b"GGUF" + counts + b"".join(keys + tensors)
    with pytest.raises(GGUFError, match=message) as caught:
        read_gguf(write(tmp_path / "bad.gguf", content + b"\0" * 64))
    assert "\n" not in str(caught.value)


def test_a_large_hostile_file_costs_little(tmp_path: Path) -> None:
    """Counts that a sparse file of 20 GB could well hold still end soon and in little memory."""
    path = tmp_path / "sparse.gguf"
    strings = key("a", 9, struct.pack("<IQ", 8, 2**32))
    write(path, b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + strings)
    os.truncate(path, 20 << 30)
    long_string = tmp_path / "string.gguf"
    value = key("a", 8, struct.pack("<Q", 10 << 30))
    write(long_string, b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + value)
    os.truncate(long_string, 20 << 30)
    tracemalloc.start()
    start = time.process_time()  # of this process: others may keep it waiting
    for hostile in (path, long_string):
        with pytest.raises(GGUFError):
            read_gguf(hostile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - start < 2
    assert peak < 50_000_000


def reads_or_refuses(path: Path, ask: Callable[[Path], object]) -> object:
    """Ask about a file that may be damaged: an answer, or None where it is refused in one line."""
    try:
        return ask(path)
    except GGUFError as error:
        return None if "\n" not in str(error) else error


@given(st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_off_anywhere_is_refused(
    small: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = small.read_bytes()
    end = max(t.offset + t.n_bytes for t in read_gguf(small).tensors.values())
    length = data.draw(st.integers(0, end - 1))
    assert reads_or_refuses(write(tmp_path / "cut.gguf", content[:length]), read_gguf) is None


@given(st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_anywhere_is_refused_or_harmless(
    small: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(small.read_bytes())
    header = min(t.offset for t in read_gguf(small).tensors.values())
    for at in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path = write(tmp_path / "damaged.gguf", bytes(content))
    file = reads_or_refuses(path, read_gguf)
    if isinstance(file, GGUFFile):
        for entry in file.tensors.values():
            assert 0 <= entry.offset <= entry.offset + entry.n_bytes <= file.size
        assert isinstance(reads_or_refuses(path, token_embeddings), np.ndarray | None)
        facts = reads_or_refuses(path, lambda path: model_summary(read_gguf(path)))
        assert isinstance(facts, ModelSummary | None)
    else:
        assert file is None


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose headers were taken apart since the test began."""
    found: list[Path] = []

    def counted(cursor: HeaderCursor, size: int, path: Path) -> GGUFFile:
        found.append(path)
        return read_header(cursor, size, path)

    read_header = reader._read_header
    monkeypatch.setattr(reader, "_read_header", counted)
    return found


def test_a_header_is_taken_apart_once_until_the_file_changes(
    small: Path, tmp_path: Path, parsed: list[Path]
) -> None:
    path = tmp_path / "known.gguf"
    path.write_bytes(small.read_bytes())
    os.utime(path, (1e9, 1e9))
    first = read_gguf(path)
    first.tensors.clear()  # whoever does that does it for himself
    assert read_gguf(path).tensors == read_gguf(small).tensors
    assert parsed.count(path) == 1
    path.write_bytes(small.read_bytes()[:40])
    with pytest.raises(GGUFError, match="cut off"):
        read_gguf(path)


def test_a_file_that_was_just_written_is_read_each_time(
    small: Path, tmp_path: Path, parsed: list[Path]
) -> None:
    path = tmp_path / "fresh.gguf"
    path.write_bytes(small.read_bytes())
    read_gguf(path), read_gguf(path)
    assert parsed.count(path) == 2
