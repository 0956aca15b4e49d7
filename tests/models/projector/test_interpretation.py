"""`reellama inspect`: what the soft tokens of a video say, and where they look."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.attention import measure
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.models.bundle import Bundle
from reellama.models.projector import slots
from reellama.models.projector.interpretation import (
    FREE_SLOT,
    IMAGENET,
    SlotReading,
    SoftToken,
    imagenet_readings,
)
from reellama.pipeline.cli.attention_page import (
    FOG_GREY,
    AttentionPage,
    attention_peak,
    highlight_attention,
)
from reellama.pipeline.cli.token_tables import slot_table
from reellama.pipeline.video.clip import read_frames
from tests.conftest import Result
from tests.helpers.terminal import REELLAMA, Terminal

pytestmark = pytest.mark.numeric

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def mini() -> Bundle:
    return Bundle.load("mini")


@pytest.fixture(scope="module")
def star(mini: Bundle, demo_video: Path) -> list[SlotReading]:
    """The demo video: a red star that moves right."""
    from reellama.pipeline.video.read_options import MAX_SIDE

    clip = read_frames(demo_video, frames=mini.frames, max_side=MAX_SIDE)
    return mini.interpret(mini.features(clip.frames), clip.times)


def test_the_slots_of_a_video_can_be_read(star: list[SlotReading]) -> None:
    texts = {reading.label: reading.text for reading in star}
    assert texts["how many things"] == texts["how many move"] == "one"
    assert texts["camera"] == "stays still"
    assert texts["thing 1: name"] == "red star"
    assert texts["thing 1: motion"] == "moves right"
    assert texts["thing 2: name"] == ""
    assert all(reading.confidence > 0.9 for reading in star if reading.label in slots.slot_names())


def test_every_soft_token_is_in_one_slot(mini: Bundle, star: list[SlotReading]) -> None:
    numbers = [token.number for reading in star for token in reading.tokens]
    assert numbers == list(range(mini.tokens))
    labels = [reading.label for reading in star]
    assert labels[: len(slots.SLOT_WIDTHS)] == slots.slot_names()
    assert labels.count(FREE_SLOT) == 7 and labels.count(IMAGENET) == 3


def test_words_are_shares_and_attention_too(star: list[SlotReading]) -> None:
    for reading in star:
        for token in reading.tokens:
            shares = [share for _, share in token.words]
            assert shares == sorted(shares, reverse=True) and 0 < sum(shares) < 1.001
            if token.attention is not None:
                assert token.attention.min() >= 0 and token.attention.sum() == pytest.approx(
                    1, abs=1e-3
                )


def test_the_token_of_a_name_attends_to_its_own_thing(mini: Bundle) -> None:
    on_it, on_the_other, area = measure(mini, 6)["attention"].T
    assert (on_it > on_the_other).mean() > 0.8
    assert on_it.mean() > 3 * area.mean()


def test_a_bundle_without_slots_has_a_reading_for_every_soft_token(small_bundle: Path) -> None:
    bundle = Bundle.load(small_bundle)
    frames = list(np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), np.uint8))
    readings = bundle.interpret(bundle.features(frames), np.arange(3.0))
    assert [reading.token_range for reading in readings] == [str(i) for i in range(bundle.tokens)]
    assert not any(reading.label for reading in readings)


def token(*words: tuple[str, float], number: int = 0, looks: np.ndarray | None = None) -> SoftToken:
    return SoftToken(number, words, looks)


def test_a_slot_ends_at_its_first_blank_token() -> None:
    first = token((" red", 0.9), (" blue", 0.1))
    silent, after = token(("\n", 0.8), number=1), token((" star", 0.7), number=2)
    assert SlotReading("name", (first, silent, after)).text == "red"
    assert SlotReading("name", (first, after)).confidence == 0.7
    assert SlotReading("name", (silent, after)).text == ""
    assert SlotReading("name", (first, silent)).token_range == "0-1"


@given(
    frame=st.integers(0, 3),
    row=st.integers(0, 5),
    column=st.integers(0, 5),
    height=st.integers(6, 40),
    width=st.integers(6, 40),
)
def test_the_place_of_the_attention_is_clear_and_named(
    frame: int, row: int, column: int, height: int, width: int
) -> None:
    looks = np.full((4, 36), 1e-4, np.float32)
    looks[frame, 6 * row + column] = 0.9
    frames = [np.zeros((height, width, 3), np.uint8)] * 4
    fog = np.stack(highlight_attention(frames, looks))[..., 0]  # [4, height, width]; black is clear
    assert fog.shape == (4, height, width) and fog.max() <= FOG_GREY
    where_clear = np.unravel_index(fog.argmin(), fog.shape)
    assert where_clear[0] == frame
    assert abs((where_clear[1] + 0.5) / height * 6 - row - 0.5) <= 1
    assert abs((where_clear[2] + 0.5) / width * 6 - column - 0.5) <= 1
    rows, columns = ("top", "middle", "bottom"), ("left", "middle", "right")
    time, place = attention_peak(looks, [1.0, 2.0, 3.0, 4.0]).split(", ")
    assert time == f"0:0{frame + 1}.0"
    assert set(place.split()) - {"middle"} == {rows[row // 2], columns[column // 2]} - {"middle"}


def test_attention_that_is_everywhere_alike_leaves_frames_as_they_are() -> None:
    frames = list(np.random.default_rng(0).integers(0, 255, (2, 20, 30, 3), np.uint8))
    for before, after in zip(
        frames, highlight_attention(frames, np.full((2, 9), 1 / 18)), strict=True
    ):
        np.testing.assert_allclose(before, after, atol=1)


def test_the_table_says_it_in_a_pipe(reellama: Run, demo_video: Path) -> None:
    result = reellama("inspect", demo_video)
    assert result.status == 0, result.err
    lines = [re.split(r"\s{2,}", line.strip()) for line in result.out.splitlines()]
    [name] = [line for line in lines if "thing 1: name" in line]
    assert name[:3] == ["5-9", "thing 1: name", "red star"] and name[3].endswith("%")
    assert re.fullmatch(r"0:0\d\.\d, (top |bottom )?(left|right|middle)?", name[4])
    everything = reellama("inspect", demo_video, "--all")
    rows = [re.findall(r"^[\d-]+ .*%", out, re.MULTILINE) for out in (everything.out, result.out)]
    (hidden,) = re.findall(r"(\d+) more say nothing new \(--all\)", result.out)
    assert len(rows[0]) - len(rows[1]) == int(hidden) > 0
    assert everything.out.count("(nothing)") > 0


def test_a_free_token_that_repeats_a_word_says_nothing_new(demo_video: Path) -> None:
    clip = read_frames(demo_video, frames=1)
    free = [SlotReading(FREE_SLOT, (token((word, 0.5)),)) for word in (" car", " car", " bus")]
    named = SlotReading("concept", (token((" bus", 0.9)),))
    table = slot_table([named, *free], clip, everything=False)
    assert [str(cell) for cell in table.columns[2].cells] == ["bus", "car"]
    assert table.caption == "2 more say nothing new (--all)"
    assert slot_table([named, *free], clip, everything=True).row_count == 4


def test_programs_get_all_of_it(reellama: Run, demo_video: Path, mini: Bundle) -> None:
    result = reellama("inspect", demo_video, "--json", "--frames", "5")
    data = json.loads(result.out)
    assert len(data["frames"]) == 5 and data["bundle"] == "mini"
    tokens = [each for reading in data["fields"] for each in reading["tokens"]]
    assert [each["number"] for each in tokens] == list(range(mini.tokens))
    attention = np.array([each["attention"] for each in tokens if each["attention"]])
    assert attention.shape == (64, 5, 36)
    np.testing.assert_allclose(attention.sum((1, 2)), 1, atol=0.01)


def test_one_soft_token_is_shown_with_its_words(reellama: Run, demo_video: Path) -> None:
    result = reellama("inspect", demo_video, "--token", "6")
    assert result.status == 0, result.err
    assert result.out.startswith("soft token 6 (thing 1: name): star 100")
    assert len(re.findall(r"\d:\d\d\.\d \d+%", result.out)) == 16  # attention a frame
    classifier = reellama("inspect", demo_video, "--token", "65")
    assert "looks at all of the video alike" in classifier.out
    wrong = reellama("inspect", demo_video, "--token", "82")
    assert wrong.status == 1 and "they go from 0 to 81" in wrong.err


def test_a_terminal_shows_pictures(demo_video: Path) -> None:
    command = [*REELLAMA, "inspect", str(demo_video), "--token", "6"]
    with Terminal(command, env={"COLORTERM": "truecolor", "TERM": "xterm-256color"}) as terminal:
        screen = terminal.wait_for("It looks most at")
    assert "\u2580" in screen and "0:00.2" in screen


def test_the_page_needs_nothing_from_elsewhere(
    reellama: Run, demo_video: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    result = reellama("inspect", demo_video, "--html", page)
    assert (result.status, result.out) == (0, "")
    text = page.read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert "http" not in text and "url(" not in text
    assert "red star" in text and "looks most at" in text
    strips = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", text)
    sizes = {Image.open(io.BytesIO(base64.b64decode(strip))).size for strip in strips}
    assert len(strips) == 1 + 16 + 7  # the frames; those of the slots, and free tokens
    assert sizes == {(16 * 98, 54)}


def test_a_page_takes_names_and_words_as_text(mini: Bundle) -> None:
    looks = np.full((1, 4), 0.25, np.float32)
    reading = SlotReading("<i>", (token((" <b>", 1.0), looks=looks),))
    frames = [np.zeros((4, 4, 3), np.uint8)]
    page = AttentionPage("<s>.mp4", "<u>", frames, [0.0], [reading]).render()
    assert not re.search(r"<(i|b|u|s)>", page)
    assert "&lt;b&gt;" in page


def test_pictures_of_different_sizes_stand_side_by_side(reellama: Run, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, size in enumerate([(64, 48), (30, 60), (100, 20)]):
        Image.new("RGB", size, (200, 80 * number, 0)).save(folder / f"{number}.png")
    result = reellama("inspect", folder, "--html", tmp_path / "page.html")
    assert result.status == 0, result.err


def test_a_missing_video_or_bundle_is_said_in_a_line(reellama: Run, demo_video: Path) -> None:
    for arguments in (("nothing.mp4",), (demo_video, "--bundle", "nothing-there")):
        result = reellama("inspect", *arguments)
        assert result.status == 1 and result.err.count("\n") == 1
        assert "nothing" in result.err


def test_a_label_is_named_in_full_where_its_tokens_are_cut(smollm2: Path) -> None:
    with Tokenizer.from_path(smollm2) as tokenizer:
        ids = tokenizer.encode("sulphur-crested cockatoo")
        (reading,) = imagenet_readings([("sulphur-crested cockatoo", 0.4, ids[:3])], 7, tokenizer)
    assert reading.text == "sulphur-crested cockatoo" and reading.token_range == "7-9"
    assert reading.confidence == pytest.approx(0.4)
