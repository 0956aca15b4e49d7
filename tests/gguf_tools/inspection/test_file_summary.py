"""`reellama gguf inspect`, and the plain functions behind it."""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import gguf
import numpy as np
import pytest

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.format.split_files import read_model
from reellama.gguf_tools.inspection.diff import diff
from reellama.gguf_tools.inspection.file_summary import metadata_json, summarize_file
from tests.conftest import Result
from tests.helpers import tiny_model
from tests.helpers.gguf_bytes import ARRAY, FLOAT64, header, key, number, tensor, text

Reellama = Callable[..., Result]


def test_what_is_known_of_smollm2(smollm2: Path) -> None:
    facts = summarize_file(read_gguf(smollm2))
    assert (facts.architecture, facts.quantization) == ("llama", "Q4_1")
    assert (facts.n_parameters, facts.n_tensors) == (134_515_008, 272)
    assert (facts.n_layer, facts.n_embd, facts.n_ctx_train) == (30, 576, 8192)
    assert [(count.type, count.n_tensors) for count in facts.types] == [
        ("Q4_1", 210),
        ("Q8_0", 1),
        ("F32", 61),
    ]
    assert sum(count.n_elements for count in facts.types) == facts.n_parameters
    # 20 bytes hold 32 numbers in Q4_1, 34 in Q8_0.
    quarter, eighth = (count.n_elements for count in facts.types[:2])
    n_bytes = quarter * 20 / 32 + eighth * 34 / 32 + facts.types[2].n_elements * 4
    assert facts.bits_per_weight == pytest.approx(8 * n_bytes / facts.n_parameters)
    assert facts.has_chat_template
    assert facts.tokenizer is not None
    assert (facts.tokenizer.model, facts.tokenizer.pre) == ("gpt2", "smollm")
    assert (facts.tokenizer.n_vocab, facts.tokenizer.add_bos) == (49_152, False)
    assert facts.tokenizer.special["eos"] == (2, "<|im_end|>")
    assert facts.kv_per_1000_tokens is not None
    assert facts.kv_per_1000_tokens.full == {
        "f16": 1000 * 30 * 2 * 3 * 64 * 2,  # layers, keys and values, heads, their length, bytes
        "q8_0": 1000 * 30 * 2 * 3 * 64 * 34 // 32,
    }
    assert facts.kv_per_1000_tokens.n_sliding == 0


def test_layers_with_a_sliding_window_are_told_apart(gemma: Path) -> None:
    cost = summarize_file(read_gguf(gemma)).kv_per_1000_tokens
    assert cost is not None
    assert (cost.n_layer, cost.n_sliding, cost.window) == (18, 15, 512)
    assert cost.full["f16"] == 1000 * 18 * 2 * 256 * 2
    assert cost.beyond_window["f16"] == cost.full["f16"] * 3 // 18


@pytest.mark.parametrize(
    "content",
    [
        header([], []),
        header([text("general.architecture", "clip")], []),
        header([text("general.type", "adapter")], [tensor("a.lora_a", (8, 4))]) + bytes(128),
        header([text("general.architecture", "llama"), number("llama.block_count", 2)], []),
    ],
)
def test_what_is_no_language_model_can_be_looked_at_too(
    tmp_path: Path, reellama: Reellama, content: bytes
) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(content)
    facts = summarize_file(read_gguf(path))
    assert (facts.tokenizer, facts.kv_per_1000_tokens, facts.n_ctx_train) == (None, None, None)
    assert reellama("gguf", "inspect", path).status == 0


def test_the_command_shows_it_all(reellama: Reellama, gemma: Path) -> None:
    result = reellama("gguf", "inspect", gemma)
    assert (result.status, result.err) == (0, "")
    for line in (
        "architecture gemma3",
        "268,098,176 in 236 tensors, Q4_K_M, 7.36 bits per weight",
        "18 layers of width 640",
        "32,768 tokens",
        "17.6 MiB (f16), 9.3 MiB (q8_0) for 1,000 tokens",
        "15 of 18 layers have a window of 512 tokens",
        "llama (default), 262,144 tokens",
        'bos "<bos>" (2)',
        "gemma3.attention.layer_norm_rms_epsilon  1e-06",
        '262,144: "<pad>", "<eos>", "<bos>", "<unk>", ...',
    ):
        assert line in result.out
    assert "blk.0.attn_k.weight" not in result.out
    assert len(result.out) < 5000


def test_tensors_are_listed_when_asked_for(reellama: Reellama, tiny_llama: Path) -> None:
    shown = reellama("gguf", "inspect", tiny_llama, "--tensors").out
    assert [name for name in read_gguf(tiny_llama).tensors if name not in shown] == []
    [line] = [line for line in shown.splitlines() if line.startswith("blk.1.ffn_up.weight")]
    assert line.split() == ["blk.1.ffn_up.weight", "64", "x", "96", "F32", "24.0", "KiB"]


def test_json_holds_all_but_the_vocabulary(reellama: Reellama, smollm2: Path) -> None:
    file = read_gguf(smollm2)
    found = json.loads(reellama("gguf", "inspect", smollm2, "--json", "--tensors").out)
    assert found["metadata"]["tokenizer.chat_template"] == file.chat_template
    tokens = found["metadata"]["tokenizer.ggml.tokens"]
    assert tokens["length"] == 49_152
    assert tokens["first"] == file.metadata["tokenizer.ggml.tokens"][:8]
    assert found["metadata"].keys() == file.metadata.keys()
    assert len(found["tensors"]) == found["n_tensors"] == 272
    assert found["tokenizer"]["special"]["eos"] == [2, "<|im_end|>"]
    assert "tensors" not in json.loads(reellama("gguf", "inspect", smollm2, "--json").out)


def test_json_stays_json_where_numbers_are_none(tmp_path: Path, reellama: Reellama) -> None:
    path = tmp_path / "nan.gguf"
    keys = [key("a", FLOAT64, struct.pack("<d", float("nan")))]
    keys += [key("b", ARRAY, struct.pack("<IQdd", FLOAT64, 2, 1.5, float("inf")))]
    path.write_bytes(header(keys, []))
    assert metadata_json(read_gguf(path)) == {"a": None, "b": [1.5, None]}
    assert json.loads(reellama("gguf", "inspect", path, "--json").out)["metadata"]["a"] is None


def test_what_a_file_says_does_not_drive_the_terminal(tmp_path: Path, reellama: Reellama) -> None:
    path = tmp_path / "evil.gguf"
    evil = "\x1b[2J\x07[red]bold[/]\nsecond line"
    keys = [text("general.name", evil), text(evil, evil), text("general.architecture", "llama")]
    path.write_bytes(header(keys, [tensor(evil, (1,))]) + bytes(32))
    for arguments in ((), ("--tensors",), ("--diff", path), ("--diff", "mini-llm", "--tensors")):
        result = reellama("gguf", "inspect", path, *arguments)
        assert result.status == 0
        assert "\x1b" not in result.out + result.err
        assert "\x07" not in result.out + result.err
    assert "[red]bold[/]" in reellama("gguf", "inspect", path).out


def test_a_header_is_read_and_no_more_of_a_40_gb_file(gemma: Path, tmp_path: Path) -> None:
    """A sparse file with a real header of 262,144 tokens; bytes that are read are counted."""
    counters = Path("/proc/self/io")
    if not counters.exists():
        pytest.skip("the system does not count bytes that are read")
    start = min(entry.offset for entry in read_gguf(gemma).tensors.values())
    path = tmp_path / "large.gguf"
    with gemma.open("rb") as file:
        path.write_bytes(file.read(start))
    try:
        os.truncate(path, 40 << 30)
    except OSError:
        pytest.skip("the file system cannot hold a sparse file of 40 GB")

    def n_read() -> int:
        return int(counters.read_text().split()[1])

    before = n_read()
    facts = summarize_file(read_gguf(path))
    assert n_read() - before < start + (1 << 20)
    assert (facts.size, facts.n_parameters) == (40 << 30, 268_098_176)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """The tiny model with other metadata, matrices in Q8_0, a shape changed and a tensor less."""
    path = tmp_path_factory.mktemp("diff") / "other.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_bool("llama.attention.causal", True)
    writer.add_token_list([*tiny_model.TOKENS[:2], "</stop>", *tiny_model.TOKENS[3:]])
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    for name, weight in tiny_model.weights("llama").items():
        if name == "output.weight":
            continue
        if name == "output_norm.weight":
            writer.add_tensor(name, weight[:32])
        elif weight.ndim == 2:
            writer.add_tensor(name, gguf.quantize(weight, q8_0), raw_dtype=q8_0)
        else:
            writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_does_not_differ_from_itself(reellama: Reellama, smollm2: Path) -> None:
    assert not diff(read_gguf(smollm2), read_gguf(smollm2))
    result = reellama("gguf", "inspect", "mini-llm", "--diff", smollm2)
    assert result.status == 0
    assert "No difference: 33 keys and 272 tensors" in result.out


def test_two_files_differ_in_keys_types_and_shapes(tiny_llama: Path, quantized: Path) -> None:
    one, other = read_gguf(tiny_llama), read_gguf(quantized)
    found = diff(one, other)
    keys = {change.name: (change.one, change.other) for change in found.metadata}
    assert keys["llama.context_length"] == (4096, 8192)
    assert keys["llama.attention.causal"] == (None, True)
    assert keys["llama.block_count"] == (2, None)
    assert "general.architecture" not in keys
    tensors = {change.name: (change.one, change.other) for change in found.tensors}
    assert tensors["output.weight"] == (one.tensors["output.weight"], None)
    assert tensors["blk.0.attn_q.weight"][1] == other.tensors["blk.0.attn_q.weight"]
    assert "blk.0.attn_norm.weight" not in tensors
    assert found.n_same_keys + len(keys) == len(one.metadata.keys() | other.metadata.keys())
    assert found.n_same_tensors == 4  # the norms of the layers
    backwards = diff(other, one)
    assert {(c.name, c.other, c.one) for c in backwards.tensors} == {
        (c.name, c.one, c.other) for c in found.tensors
    }


def test_the_command_says_how_two_files_differ(
    reellama: Reellama, tiny_llama: Path, quantized: Path
) -> None:
    result = reellama("gguf", "inspect", tiny_llama, "--diff", quantized)
    assert result.status == 0
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    for line in (
        "llama.context_length 4096 8192",
        "llama.block_count 2 -",
        'tokenizer.ggml.tokens 259: at 2 "</s>" 259: at 2 "</stop>"',
        "15 F32 Q8_0",
        "1 F32 -",
        "1 F32 [64] F32 [32]",
        "The same in both: 1 keys and 4 tensors (type and shape).",
    ):
        assert line in lines
    each = reellama("gguf", "inspect", tiny_llama, "--diff", quantized, "--tensors").out
    assert "blk.0.attn_q.weight F32 [64 x 64] Q8_0 [64 x 64]" in " ".join(each.split())


def test_a_diff_comes_as_json_too(reellama: Reellama, tiny_llama: Path, quantized: Path) -> None:
    found = json.loads(reellama("gguf", "inspect", tiny_llama, "--diff", quantized, "--json").out)
    assert (found["one"], found["other"]) == (str(tiny_llama), str(quantized))
    keys = {change["key"]: change for change in found["metadata"]}
    assert keys["tokenizer.ggml.tokens"] == {
        "key": "tokenizer.ggml.tokens",
        "first_difference": 2,
        "one": {"length": 259, "at_difference": ["</s>"]},
        "other": {"length": 259, "at_difference": ["</stop>"]},
    }
    assert {"name", "one", "other"} == found["tensors"][0].keys()


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A model in three files: metadata and a tensor, a tensor, and two tensors."""
    names = [["a"], ["b"], ["c", "d"]]
    for i, names_here in enumerate(names):
        keys = [number("split.no", i), number("split.count", 3)]
        keys += [text("general.name", "big")] if i == 0 else []
        entries = [tensor(name, (8,), offset=32 * j) for j, name in enumerate(names_here)]
        content = header(keys, entries) + bytes(32 * len(entries))
        (tmp_path / f"big-{i + 1:05}-of-00003.gguf").write_bytes(content)
    return tmp_path / "big-00001-of-00003.gguf"


def test_a_model_in_several_files_is_one_model(split: Path, reellama: Reellama) -> None:
    facts = summarize_file(read_model(split))
    assert (facts.name, facts.n_tensors, facts.n_parameters) == ("big", 4, 32)
    assert facts.size == sum(part.stat().st_size for part in split.parent.glob("big-*.gguf"))
    shown = json.loads(reellama("gguf", "inspect", split, "--json", "--tensors").out)
    assert [entry["name"] for entry in shown["tensors"]] == ["a", "b", "c", "d"]


def test_a_missing_or_repeated_part_is_named(split: Path) -> None:
    second = split.with_name("big-00002-of-00003.gguf")
    second.write_bytes(split.read_bytes())
    with pytest.raises(GGUFError, match="big-00002-of-00003.gguf is damaged: another part has 'a'"):
        read_model(split)
    second.unlink()
    with pytest.raises(GGUFError, match="cannot read .*big-00002-of-00003.gguf: No such file"):
        read_model(split)


def test_an_inspection_is_plain_values(tiny_llama: Path) -> None:
    facts = asdict(summarize_file(read_gguf(tiny_llama)))
    assert json.loads(json.dumps(facts))["n_parameters"] == sum(
        int(np.prod(weight.shape)) for weight in tiny_model.weights("llama").values()
    )


def test_a_missing_or_broken_file_is_one_line(tmp_path: Path, reellama: Reellama) -> None:
    (tmp_path / "text.gguf").write_text("Once upon a time.\n" * 9)
    for name in ("missing.gguf", "text.gguf"):
        for arguments in ((tmp_path / name,), ("mini-llm", "--diff", tmp_path / name)):
            result = reellama("gguf", "inspect", *arguments)
            assert (result.status, result.out, result.err.count("\n")) == (1, "", 1)
            assert name in result.err
