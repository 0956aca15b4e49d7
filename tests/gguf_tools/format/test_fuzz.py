"""No file, however damaged or hostile, gets more out of the reader than a GGUFFile or one line.

The inputs here that are not obvious were found by a coverage-guided fuzzer (atheris) or by thinking
along with it; hypothesis looks for more each time the tests run.
"""

import json
import math
import os
import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reellama.gguf_tools.errors import GGUFError, ReellamaError
from reellama.gguf_tools.format.mmproj_checks import check_mmproj
from reellama.gguf_tools.format.model_summary import model_summary
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.inspection.diff import diff
from reellama.gguf_tools.inspection.file_summary import metadata_json, summarize_file, tensor_json
from reellama.gguf_tools.inspection.mmproj_summary import summarize_mmproj
from reellama.gguf_tools.memory import offload
from reellama.gguf_tools.quantization.quant_presets import as_preset
from tests.conftest import Result
from tests.helpers.gguf_bytes import (
    ARRAY,
    BOOL,
    FLOAT64,
    STRING,
    UINT32,
    UINT64,
    array,
    header,
    key,
    number,
    string,
    tensor,
    text,
)

MODEL = [
    text("general.architecture", "gemma3"),
    number("gemma3.block_count", 2),
    number("gemma3.embedding_length", 32),
    number("gemma3.context_length", 4096),
    number("gemma3.attention.head_count", 4),
    array("gemma3.attention.head_count_kv", UINT32, 2, struct.pack("<II", 1, 2)),
    number("gemma3.attention.sliding_window", 16),
    text("tokenizer.ggml.model", "llama"),
    array("tokenizer.ggml.tokens", STRING, 3, string("<s>") + string("ü") + string("\n")),
    number("tokenizer.ggml.bos_token_id", 0),
    text("tokenizer.chat_template", "{{ messages }}"),
    key("a.number", FLOAT64, struct.pack("<d", math.nan)),
    key("a.bool", BOOL, b"\1"),
]
TENSORS = [
    tensor("token_embd.weight", (32, 3), type_=8),  # Q8_0: 34 bytes a row
    tensor("blk.0.attn_v.weight", (32, 2), offset=128),
    tensor("blk.1.ffn_down.weight", (32, 2, 1), type_=1, offset=384),
    tensor("output_norm.weight", (32,), offset=512),
]
HEADER = header(MODEL, TENSORS)
VALID = HEADER + bytes(640)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    path = tmp_path_factory.mktemp("valid") / "valid.gguf"
    path.write_bytes(VALID)
    return read_gguf(path)


def ask_everything(path: Path, other: GGUFFile) -> GGUFFile | None:
    """Ask all that can be asked of a header; returns the file, None where it is refused."""
    try:
        file = read_gguf(path)
    except ReellamaError as error:
        check_message(error)
        return None
    extents = sorted(
        (entry.offset, entry.offset + entry.n_bytes) for entry in file.tensors.values()
    )
    ends = [0, *(end for _, end in extents)]
    assert all(ends[i] <= start < end <= file.size for i, (start, end) in enumerate(extents))
    json.dumps({**metadata_json(file)}, allow_nan=False)
    json.dumps([tensor_json(entry) for entry in file.tensors.values()], allow_nan=False)
    json.dumps(diff(file, other).to_json(), allow_nan=False)
    assert not diff(file, file)
    questions: list[Callable[[], object]] = [
        lambda: json.dumps(asdict(summarize_file(file)), allow_nan=False),
        lambda: model_summary(file),
        lambda: json.dumps(asdict(summarize_mmproj(file)), allow_nan=False),
        lambda: check_mmproj(other, file),
        lambda: check_mmproj(file, other),
        lambda: offload.plan_offload(file, 0, 1 << 30, "q8_0", "f16"),
        lambda: offload.plan_offload(as_preset(file, "Q4_K_M"), 4096, 1 << 30),
    ]
    for question in questions:
        try:
            question()
        except ReellamaError as error:
            check_message(error)
    return file


def check_message(error: ReellamaError) -> None:
    assert isinstance(error, GGUFError)
    assert str(error).isprintable()
    assert len(str(error)) < 400


def test_the_file_that_is_mutated_here_is_valid(valid: GGUFFile, tmp_path: Path) -> None:
    (tmp_path / "copy.gguf").write_bytes(VALID)
    file = ask_everything(tmp_path / "copy.gguf", valid)
    assert file is not None
    assert not diff(file, valid)
    assert offload.count_fitting_layers(file, 4096, 1 << 30) == 3


# What stands in a header where it matters: lengths, counts, types, and numbers at their limits.
NUMBERS = [0, 1, 2, 7, 8, 9, 31, 32, 255, 2**16, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]
integers = st.builds(
    lambda value, size: value.to_bytes(8, "little")[:size],
    st.sampled_from(NUMBERS) | st.integers(0, 300),
    st.sampled_from([1, 4, 8]),
)
pieces = st.builds(
    lambda start, length: HEADER[start : start + length],
    st.integers(0, len(HEADER)),
    st.integers(1, 80),
)
# At a place, so many bytes give way to others: overwriting, inserting, deleting, copying.
edits = st.lists(
    st.tuples(
        st.integers(0, len(HEADER)),
        st.sampled_from([0, 1, 4, 8, 20]),
        integers | pieces | st.binary(max_size=8),
    ),
    min_size=1,
    max_size=5,
)


@given(edits, st.booleans())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutations_are_read_or_refused_in_one_line(
    valid: GGUFFile, tmp_path: Path, edits: list[tuple[int, int, bytes]], keep_length: bool
) -> None:
    content = bytearray(VALID)
    for at, length, data in edits:
        content[at : at + (len(data) if keep_length else length)] = data
    path = tmp_path / "mutated.gguf"
    path.write_bytes(content)
    start = time.process_time()
    ask_everything(path, valid)
    assert time.process_time() - start < 5


def changed(*keys: bytes) -> bytes:
    """The valid file with other values for some keys."""
    names = [entry[: 8 + struct.unpack("<Q", entry[:8])[0]] for entry in keys]
    kept = [entry for entry in MODEL if not any(entry.startswith(name) for name in names)]
    return header([*kept, *keys], TENSORS) + bytes(640)


REFUSED = {
    "tensors that overlap": (
        header([], [tensor("a", (16,)), tensor("b", (16,), offset=32)]) + bytes(96),
        "tensors 'a' and 'b' overlap",
    ),
    "a tensor inside another": (
        header([], [tensor("b", (1,), offset=64), tensor("a", (64,))]) + bytes(256),
        "tensors 'a' and 'b' overlap",
    ),
    "two tensors at one place": (
        header([], [tensor("a", (8,)), tensor("b", (8,))]) + bytes(32),
        "tensors 'a' and 'b' overlap",
    ),
    "a negative offset": (
        header([], [tensor("a", (8,), offset=2**64 - 32)]) + bytes(32),
        "tensor 'a' starts at an odd place: -32",
    ),
    "the greatest offset": (
        header([], [tensor("a", (8,), offset=2**63 - 32)]) + bytes(32),
        "is cut off",
    ),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(64), "is big-endian"),
    "big-endian of another version": (
        b"GGUF" + struct.pack(">IQQ", 2, 0, 0),
        "is big-endian",
    ),
    "version 0": (header([], [], version=0), "GGUF version 0, which is not supported"),
    "a later version": (header([], [], version=4), "GGUF version 4, which is not supported"),
    "an older format": (b"ggjt" + bytes(64), "is not a GGUF file"),
    "a key without a name": (header([text("", "x")], []), "a key without a name"),
    "keys that decode to the same": (
        header([key(b"\xff", BOOL, b"\0"), key(b"\xfe", BOOL, b"\0")], []),
        "the key .* twice",
    ),
    "an array of arrays of arrays": (
        header([key("a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 3)], []),
        "array of arrays",
    ),
    "a string as long as the address space": (
        header([key("a", STRING, struct.pack("<Q", 2**64 - 1))], []),
        "cut off or damaged",
    ),
    "a count just below zero": (
        b"GGUF" + struct.pack("<IqQ", 3, -1, 0),
        "claims to have 18,446,744,073,709,551,615 tensors",
    ),
    "an alignment that is a string": (
        header([text("general.alignment", "32")], []),
        "general.alignment is '32'",
    ),
    "an alignment without end": (
        header([number("general.alignment", 2**63)], []),
        "general.alignment is 9223372036854775808",
    ),
    "more elements than there are numbers": (
        header([], [tensor("a", (2**31, 2**31, 2**31, 2))]) + bytes(64),
        "has the shape",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_file_is_refused_with_its_reason(
    name: str, tmp_path: Path, reellama: Callable[..., Result]
) -> None:
    content, reason = REFUSED[name]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    with pytest.raises(GGUFError, match=reason) as caught:
        read_gguf(path)
    check_message(caught.value)
    result = reellama("gguf", "inspect", path)
    assert (result.status, result.out, result.err) == (1, "", f"reellama: {caught.value}\n")


HARMLESS = {
    "an architecture of two lines": (
        changed(text("general.architecture", "gemma3\nx")),
        "general.architecture is",
    ),
    "an architecture that drives the terminal": (
        changed(text("general.architecture", "\x1b[2J")),
        "general.architecture is",
    ),
    "a long architecture": (
        changed(text("general.architecture", "x" * 100_000)),
        "general.architecture is",
    ),
    "layers without end": (
        changed(number("gemma3.block_count", 2**63)),
        "claims to have 9,223,372,036,854,775,808 layers",
    ),
    "no layers": (changed(number("gemma3.block_count", 0)), "gemma3.block_count is 0"),
    "as many layers as are allowed, and a context without end": (
        changed(number("gemma3.block_count", 1024), number("gemma3.context_length", 2**64 - 1)),
        None,
    ),
    "no heads": (changed(number("gemma3.attention.head_count", 0)), None),
    "heads without end": (changed(number("gemma3.attention.head_count", 2**64 - 1)), None),
    "a window that is a string": (changed(text("gemma3.attention.sliding_window", "16")), None),
    "a pattern that is shorter than the model": (
        changed(array("gemma3.attention.sliding_window_pattern", BOOL, 1, b"\1")),
        None,
    ),
    "a pattern of period zero": (
        changed(number("gemma3.attention.sliding_window_pattern", 0)),
        None,
    ),
    "a special token outside the vocabulary": (
        changed(number("tokenizer.ggml.bos_token_id", 2**63)),
        None,
    ),
    "tokens that are numbers": (
        changed(array("tokenizer.ggml.tokens", UINT64, 1, bytes(8))),
        None,
    ),
    "a template that is a number": (changed(number("tokenizer.chat_template", 1)), None),
    "a file type without a name": (changed(number("general.file_type", 2**40)), None),
    "scalars": (header(MODEL, [tensor("token_embd.weight", ())]) + bytes(32), None),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_odd_values_in_a_sound_file_do_no_harm(name: str, tmp_path: Path, valid: GGUFFile) -> None:
    content, reason = HARMLESS[name]
    path = tmp_path / "odd.gguf"
    path.write_bytes(content)
    start = time.process_time()
    file = ask_everything(path, valid)
    assert file is not None
    if reason:
        with pytest.raises(GGUFError, match=reason):
            offload.plan_offload(file, 4096, 1 << 30)
    else:
        assert offload.plan_offload(file, 4096, 1 << 30).n_gpu_layers_all == file.n_layer + 1
    assert time.process_time() - start < 20


FULL = {
    "tensors": lambda n: (
        header([], [tensor(f"{i}", (1,) * 4, offset=32 * i) for i in range(n)]) + bytes(32 * n)
    ),
    "keys": lambda n: header([key(f"{i}", BOOL, b"\0") for i in range(n)], []),
    "short numbers": lambda n: header([array("a", 2, n, b"\xff\xfe" * n)], []),
    "empty strings": lambda n: header([array("a", STRING, n, bytes(8 * n))], []),
    "strings of a character": lambda n: header([array("a", STRING, n, string("\u2713") * n)], []),
}


@pytest.mark.parametrize("name", FULL)
def test_memory_and_time_grow_with_the_file_and_no_faster(name: str, tmp_path: Path) -> None:
    path = tmp_path / "full.gguf"
    path.write_bytes(FULL[name](5_000))
    tracemalloc.start()
    start = time.process_time()
    try:
        file = read_gguf(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(file.tensors) + len(file.metadata) in (1, 5_000)
    assert peak < 30 * file.size
    assert time.process_time() - start < 10


def test_counts_that_a_sparse_file_could_hold_cost_little(tmp_path: Path) -> None:
    """Behind such a header there are gigabytes of zeros, which read as empty names."""
    path = tmp_path / "sparse.gguf"
    hostile = [
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 17, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 16),
        header([key("a", STRING, struct.pack("<Q", 10 << 30))], []),
        header([key("a", ARRAY, struct.pack("<IQ", UINT64, 1 << 30))], []),
    ]
    tracemalloc.start()
    for content in hostile:
        path.write_bytes(content)
        os.truncate(path, 20 << 30)
        start = time.process_time()
        with pytest.raises(GGUFError) as caught:
            read_gguf(path)
        check_message(caught.value)
        assert time.process_time() - start < 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000
