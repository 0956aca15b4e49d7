"""A converted tokenizer makes the same tokens of a text in llama.cpp as in transformers."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from gguf import TokenType
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.conversion.convert import convert
from reellama.gguf_tools.conversion.tokenizers.hf_tokenizer import read_vocabulary
from reellama.gguf_tools.conversion.tokenizers.pre_tokenizers import (
    LLAMA3,
    NAMES,
    pre_tokenizer_name,
)
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.text.tokenizer import Tokenizer
from tests.helpers import tiny_hf

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n \n",
    "Hello, world",
    " leading and trailing ",
    "a  b   c    d",
    "tabs\t\tand\r\nlines\r\n",
    "don't WE'LL They'RE 'S",
    "3.14159 100,000 1234567 x86_64 ²³ ½ ٣٤٥",
    "def f(x):\n    return x**2  # ok\n",
    "naïve Größe Ελληνικά русский",
    "中文字符\uff0c日本語。한국어 العربية",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 👩🏽‍💻",
    "\u200b\u00a0\u3000\ufeff\u2028\u0085",
    "<|im_end|> typed <|endoftext|>",
    "<s>[INST] </s> <unk> <0x41> <end_of_turn>",
    "<think>x</think>",
    "\x00\x01\x7f",
    "aaaaaaaaaaaaaaaa bbbbbbb",
    "HelloWorld XMLHttpRequest iPhone",
    "https://a.b/c?d=e&f=%20",
    "…—“”\u2018\u2019",
    "▁▁ ▁x",
]
MARKS = "हिन्दी ไทย"  # letters with marks, which llama.cpp's tekken and gpt-4o cut
KINDS = ["llama-bpe", "dbrx", "qwen2", "smollm", "gpt-2", "tekken", "gpt-4o"]
SPM = ["spm", "spm without prefix"]


class Pair(NamedTuple):
    """A tokenizer in transformers and in llama.cpp."""

    transformers: Any
    llama: Tokenizer
    notes: list[str]

    def agree(self, text: str, special: bool) -> None:
        theirs = self.transformers(
            text, add_special_tokens=False, split_special_tokens=not special
        )["input_ids"]
        assert self.llama.encode(text, special=special) == theirs


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Pair]]:
    """Make a pair by its kind, once."""
    made: dict[str, Pair] = {}

    def make(kind: str) -> Pair:
        if kind not in made:
            folder = tmp_path_factory.mktemp("tokens") / "model"
            tokenizer = (
                tiny_hf.sentencepiece(prefix=kind == "spm")
                if kind in SPM
                else tiny_hf.byte_level(kind)
            )
            fast = tiny_hf.save_tokenizer(tokenizer, folder)
            tiny_hf.save_model(tiny_hf.llama_config(len(fast) + 3), folder)
            result = convert(folder, "F16", folder / "model.gguf")
            made[kind] = Pair(fast, Tokenizer.from_path(result.path), result.notes)
        return made[kind]

    yield make
    for each in made.values():
        each.llama.close()


@pytest.mark.parametrize("kind", KINDS + SPM)
def test_texts_get_the_same_tokens(kind: str, pair: Callable[[str], Pair]) -> None:
    both = pair(kind)
    told = any("combining marks" in note for note in both.notes)
    assert told == (kind in ("tekken", "gpt-4o"))
    for text in [*TEXTS, *tiny_hf.CORPUS[:7]] + ([] if told else [MARKS]):
        both.agree(text, special=True)
        both.agree(text, special=False)


@pytest.mark.parametrize("kind", ["llama-bpe", "smollm", "spm", "spm without prefix"])
@given(data=st.data())
def test_any_text_gets_the_same_tokens(
    kind: str, pair: Callable[[str], Pair], data: st.DataObject
) -> None:
    characters = st.characters(exclude_categories=["Cs", "Cn", "Co"], max_codepoint=0xFFFF)
    pieces = st.sampled_from(
        ["<|im_end|>", "</s>", "the ", "  ", "\n", "'ll", "123", "▁", "<think>"]
    )
    text = data.draw(st.lists(st.text(characters, max_size=8) | pieces, max_size=8).map("".join))
    pair(kind).agree(text, special=True)


def test_what_a_person_types_never_becomes_a_token_that_steers(
    pair: Callable[[str], Pair],
) -> None:
    """Also where the tokenizer forgot to call it special, by its looks."""
    tokenizer = pair("qwen2").llama
    ids = {tokenizer.piece(token, special=True): token for token in range(tokenizer.n_vocab)}
    for name in (b"<|im_end|>", b"<|looks|>"):
        assert tokenizer.encode(name.decode(), special=True) == [ids[name]]
        assert ids[name] not in tokenizer.encode(name.decode())
    assert tokenizer.encode("<think>") == [ids[b"<think>"]]  # a piece of text like any other


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer only."""
    folder = tmp_path_factory.mktemp("vocabulary")
    tiny_hf.save_tokenizer(tiny_hf.byte_level("llama-bpe"), folder)
    return folder


@pytest.fixture
def edit(byte_level: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the folder, with changes to its JSON files."""

    def copy(**changes: Callable[[dict[str, Any]], object]) -> Path:
        for path in byte_level.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        for stem, change in changes.items():
            path = tmp_path / f"{stem}.json"
            content = json.loads(path.read_text()) if path.exists() else {}
            change(content)
            path.write_text(json.dumps(content))
        return tmp_path

    return copy


def test_rows_without_a_token_get_one_that_is_never_used(byte_level: Path) -> None:
    n_tokens = len(read_vocabulary(byte_level, 700).tokens)
    vocabulary = read_vocabulary(byte_level, 700)
    unused = [i for i, kind in enumerate(vocabulary.types) if kind == TokenType.UNUSED]
    assert n_tokens == 700
    assert unused == list(range(unused[0], 700))
    assert vocabulary.tokens[unused[0]] == f"[PAD{unused[0]}]"


def test_tokens_without_a_row_are_left_out_with_a_note(byte_level: Path) -> None:
    vocabulary = read_vocabulary(byte_level, 300)
    assert len(vocabulary.tokens) == 300
    (note,) = [note for note in vocabulary.notes if "left out" in note]
    assert "embeddings for 300" in note
    assert not [note for note in read_vocabulary(byte_level, 700).notes if "left out" in note]


@pytest.mark.parametrize("kind", ["bos", "eos"])
def test_an_end_of_texts_without_a_row_is_not_replaced_by_another(
    edit: Callable[..., Path], kind: str
) -> None:
    def add_token(tokenizer: dict[str, Any]) -> None:
        tokenizer["added_tokens"].append({"id": 700, "content": "<new>", "special": True})

    folder = edit(
        tokenizer=add_token,
        tokenizer_config=lambda config: config.update({f"{kind}_token": "<new>"}),
        config=lambda config: config.update({f"{kind}_token_id": 0}),
    )
    assert read_vocabulary(folder, 701).special.ids[kind] == 700
    with pytest.raises(ReellamaError, match=f"its {kind} token '<new>' has no row"):
        read_vocabulary(folder, 700)


def test_added_tokens_have_their_types(byte_level: Path) -> None:
    vocabulary = read_vocabulary(byte_level, 700)
    types = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert types["<|im_end|>"] == types["<|looks|>"] == TokenType.CONTROL
    assert types["<think>"] == TokenType.USER_DEFINED
    assert types["a"] == TokenType.NORMAL


def test_special_tokens_come_from_where_they_are_said(edit: Callable[..., Path]) -> None:
    def two_ends(generation: dict[str, Any]) -> None:
        generation["eos_token_id"] = [0, 2]

    def text_ends(config: dict[str, Any]) -> None:
        config["eos_token"] = {"content": "<|endoftext|>"}

    folder = edit(tokenizer_config=text_ends, generation_config=two_ends)
    special = read_vocabulary(folder, 700).special
    # A text ends in <|endoftext|>, and a turn in what the chat template ends it with.
    assert special.ids == {"bos": 1, "eos": 0, "pad": 0, "eot": 2}
    assert special.chat_template == tiny_hf.CHATML
    assert not special.add_bos and not special.add_eos


def test_the_tokens_around_a_text_are_those_of_the_post_processor(
    edit: Callable[..., Path],
) -> None:
    def surround(tokenizer: dict[str, Any]) -> None:
        names = ("<|im_start|>", "<|endoftext|>")
        first, last = ({"SpecialToken": {"id": name, "type_id": 0}} for name in names)
        text = {"Sequence": {"id": "A", "type_id": 0}}
        template = {"type": "TemplateProcessing", "single": [first, text, last]}
        tokenizer["post_processor"] = {"type": "Sequence", "processors": [template]}

    special = read_vocabulary(edit(tokenizer=surround), 700).special
    assert special.add_bos and special.add_eos


def test_older_tokenizers_say_in_their_settings_whether_a_text_begins_with_bos(
    edit: Callable[..., Path],
) -> None:
    folder = edit(
        tokenizer_config=lambda config: config.update(add_bos_token=True),
        tokenizer=lambda tokenizer: tokenizer.update(post_processor={"type": "ByteLevel"}),
    )
    special = read_vocabulary(folder, 700).special
    assert special.add_bos and not special.add_eos


def test_a_folder_may_have_several_chat_templates(edit: Callable[..., Path]) -> None:
    templates = [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]

    def several(config: dict[str, Any]) -> None:
        config["chat_template"] = templates

    folder = edit(tokenizer_config=several)
    (folder / "chat_template.jinja").unlink()
    assert read_vocabulary(folder, 700).special.chat_template == templates


def test_older_and_additional_files_of_chat_templates_are_read(edit: Callable[..., Path]) -> None:
    folder = edit(
        tokenizer_config=lambda config: config.update(chat_template="oldest"),
        chat_template=lambda file: file.update(chat_template="older"),
    )
    (folder / "chat_template.jinja").unlink()
    assert read_vocabulary(folder, 700).special.chat_template == "older"
    others = folder / "additional_chat_templates"
    others.mkdir()
    (others / "tool_use.jinja").write_text("tools")
    assert read_vocabulary(folder, 700).special.chat_template == [
        {"name": "default", "template": "older"},
        {"name": "tool_use", "template": "tools"},
    ]


def test_a_template_that_is_not_utf_8_is_named(edit: Callable[..., Path]) -> None:
    folder = edit()
    (folder / "chat_template.jinja").write_bytes(b"caf\xe9")
    with pytest.raises(ReellamaError, match=r"chat_template\.jinja is not text in UTF-8"):
        read_vocabulary(folder, 700)


def test_merges_may_be_strings_as_in_older_files(
    byte_level: Path, edit: Callable[..., Path]
) -> None:
    def join(tokenizer: dict[str, Any]) -> None:
        tokenizer["model"]["merges"] = [" ".join(pair) for pair in tokenizer["model"]["merges"]]

    assert read_vocabulary(edit(tokenizer=join), 700) == read_vocabulary(byte_level, 700)


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        (
            "pre_tokenizer",
            {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated"},
            r"cuts by \\w\+ is not known; those of dbrx, .*, tekken are",
        ),
        ("pre_tokenizer", {"type": "Whitespace"}, "this is neither"),
        ("normalizer", {"type": "Lowercase"}, "llama.cpp has no normalizer Lowercase"),
        ("model", {"type": "Unigram", "vocab": []}, "of the kind Unigram are not known"),
        ("model", {"type": "BPE"}, "are not known"),
        ("added_tokens", [{"id": 0}], "is damaged"),
        ("added_tokens", [{"id": 5, "content": "a"}], "are both 'a'"),
    ],
)
def test_a_tokenizer_that_llama_cpp_cannot_follow_is_refused_in_one_line(
    section: str, value: object, message: str, edit: Callable[..., Path]
) -> None:
    folder = edit(tokenizer=lambda tokenizer: tokenizer.update({section: value}))
    if section == "pre_tokenizer" and message.startswith("cuts"):
        plain = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
        both = {"type": "Sequence", "pretokenizers": [value, plain]}
        folder = edit(tokenizer=lambda tokenizer: tokenizer.update(pre_tokenizer=both))
    with pytest.raises(ReellamaError, match=message) as caught:
        read_vocabulary(folder, 700)
    assert "\n" not in str(caught.value)
    assert str(folder / "tokenizer.json") in str(caught.value)


def test_what_llama_cpp_does_otherwise_is_told(edit: Callable[..., Path]) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        tokenizer["normalizer"] = {"type": "NFC"}
        tokenizer["added_tokens"][0]["rstrip"] = True
        tokenizer["added_tokens"][1]["single_word"] = True

    stripped, inside, normalized = read_vocabulary(edit(tokenizer=change), 700).notes
    assert "<|endoftext|>" in stripped and "NFC" in normalized
    assert "inside of words" in inside


def test_merges_that_are_not_sentencepiece_s_are_told(tmp_path: Path) -> None:
    tiny_hf.save_tokenizer(tiny_hf.sentencepiece(), tmp_path)
    path = tmp_path / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    assert not read_vocabulary(tmp_path, 900).notes
    del tokenizer["model"]["merges"][1::2]
    path.write_text(json.dumps(tokenizer))
    assert "can put" in read_vocabulary(tmp_path, 900).notes[0]


def test_the_names_are_found_however_an_expression_is_written() -> None:
    escaped = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Removed", "invert": True}
    literal = {
        "type": "Split",
        "pattern": {"Regex": LLAMA3.replace(r"\r\n", "\r\n")},
        "behavior": "Isolated",
    }
    plain = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    for split in (escaped, literal):
        section = {"type": "Sequence", "pretokenizers": [split, plain]}
        assert pre_tokenizer_name(section, ignore_merges=True) == ("llama-bpe", [])
        assert pre_tokenizer_name(section, ignore_merges=False) == ("dbrx", [])


def test_llama_cpp_knows_every_name(pair: Callable[[str], Pair], tmp_path: Path) -> None:
    """A GGUF of each loads."""
    source = pair("gpt-2").llama.model.path.read_bytes()
    for name in {name for names in NAMES.values() for name in names if name}:
        old, new = (struct.pack("<Q", len(text)) + text.encode() for text in ("gpt-2", name))
        assert source.count(old) == 1
        path = tmp_path / "named.gguf"
        # Only the vocabulary is read, so that what follows may stand at odd places.
        path.write_bytes(source.replace(old, new) + bytes(64))
        with Tokenizer.from_path(path) as tokenizer:
            assert tokenizer.encode("a") == pair("gpt-2").llama.encode("a")


def test_a_sentencepiece_file_does_as_well_as_its_json(
    pair: Callable[[str], Pair], tmp_path: Path
) -> None:
    both = pair("spm")
    vocabulary = both.llama.model.file.metadata
    tiny_hf.save_model(tiny_hf.llama_config(both.llama.n_vocab), tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(
        tiny_hf.sentencepiece_file(
            vocabulary["tokenizer.ggml.tokens"],
            vocabulary["tokenizer.ggml.scores"],
            vocabulary["tokenizer.ggml.token_type"],
        )
    )
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    result = convert(tmp_path, "F16", tmp_path / "model.gguf")
    with Tokenizer.from_path(result.path) as tokenizer:
        assert (tokenizer.bos, tokenizer.eos, tokenizer.add_bos) == (1, 2, True)
        for text in TEXTS:
            assert tokenizer.encode(text) == both.llama.encode(text)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ReellamaError, match="tokenizer.model is damaged"):
        read_vocabulary(tmp_path, 900)
