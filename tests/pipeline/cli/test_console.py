"""What is drawn around an answer: the strip of frames, and words that do not break at the edge."""

import io
import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from reellama.pipeline.cli.answer_printer import AnswerPrinter
from reellama.pipeline.cli.console import confidence_color, strip_control
from reellama.pipeline.cli.filmstrip import MAX_LINES, Filmstrip
from reellama.pipeline.video.timestamps import format_time

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def console(width: int = 80, colours: str = "truecolor") -> Console:
    return Console(
        file=io.TextIOWrapper(io.BytesIO(), "utf-8"),
        force_terminal=colours != "none",
        color_system=None if colours == "none" else colours,  # type: ignore[arg-type]
        width=width,
        legacy_windows=False,
        no_color=False,
    )


def written(to: Console) -> str:
    to.file.seek(0)
    return to.file.read()


def draw(strip: Filmstrip, to: Console) -> str:
    to.print(strip)
    return written(to)


def frames(n: int, height: int, width: int) -> list[np.ndarray]:
    return [np.full((height, width, 3), (255, 0, 0), np.uint8) for _ in range(n)]


@given(
    n=st.integers(1, 70),
    height=st.integers(1, 900),
    width=st.integers(1, 900),
    columns=st.integers(12, 200),
)
def test_a_strip_of_any_frames_fits_the_terminal(
    n: int, height: int, width: int, columns: int
) -> None:
    strip = Filmstrip(frames(n, height, width), [float(i) for i in range(n)])
    lines = ANSI.sub("", draw(strip, console(columns))).splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) <= MAX_LINES + 1
    assert "0:00.0" in "".join(lines)


def test_pictures_have_the_colours_of_the_frames() -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:20] = (10, 200, 30)
    text = draw(Filmstrip([picture], [0.0]), console())
    first, *_, last = [line for line in text.splitlines() if "\u2580" in line]
    assert "38;2;10;200;30;48;2;10;200;30" in first
    assert "38;2;0;0;0;48;2;0;0;0" in last


@pytest.mark.parametrize("colours", ["none", "standard"])
def test_where_pictures_cannot_be_drawn_the_times_are_listed(colours: str) -> None:
    strip = Filmstrip(frames(30, 9, 16), [float(i) for i in range(30)])
    lines = ANSI.sub("", draw(strip, console(60, colours))).splitlines()
    assert lines[0].startswith("frames at 0:00.0 0:01.0")
    assert "".join(lines).count(":") == 30
    assert max(map(len, lines)) <= 60


def test_256_colours_are_enough_for_pictures() -> None:
    assert "\x1b[38;5;" in draw(Filmstrip(frames(2, 9, 16), [0.0, 1.0]), console(80, "256"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00.0"),
        (7.48, "0:07.5"),
        (59.96, "1:00.0"),
        (3599.99, "1:00:00.0"),
        (3723, "1:02:03.0"),
    ],
)
def test_times_are_written_as_people_do(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


def pieces(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


WORDS = st.lists(st.text(st.sampled_from("abcdefg.,"), min_size=1, max_size=12), min_size=1)


@given(words=WORDS, cuts=st.lists(st.integers(0, 999)), width=st.integers(13, 90))
def test_however_a_text_arrives_its_words_stay_whole(
    words: list[str], cuts: list[int], width: int
) -> None:
    screen = console(width)
    printer = AnswerPrinter(screen)
    for piece in pieces(" ".join(words), cuts):
        printer.write(piece)
    printer.finish()
    lines = written(screen).splitlines()
    assert " ".join(lines).split() == words
    assert max(map(len, lines)) <= width


@given(text=st.text(st.sampled_from("ab \n")), cuts=st.lists(st.integers(0, 99)))
def test_into_a_pipe_the_text_goes_as_it_is_but_for_its_ends(text: str, cuts: list[int]) -> None:
    pipe = console(10, "none")
    printer = AnswerPrinter(pipe)
    for piece in pieces(text, cuts):
        printer.write(piece)
    printer.finish()
    assert written(pipe) == (text.strip() + "\n" if text.strip() else "")


def test_a_long_text_without_spaces_is_not_held_back() -> None:
    screen = console(20)
    printer = AnswerPrinter(screen)
    for _ in range(30):
        printer.write("\u8a9e")
    assert written(screen).count("\u8a9e") >= 24


def test_names_and_answers_cannot_drive_the_terminal() -> None:
    assert strip_control("a\x1b[2Jb\x07c\nd\u9999\x9b1m") == "a[2Jbc\nd\u99991m"


def test_sureness_goes_from_red_over_yellow_to_green() -> None:
    assert [confidence_color(p) for p in (0.0, 0.5, 1.0)] == [
        "rgb(220,0,40)",
        "rgb(220,190,40)",
        "rgb(0,190,40)",
    ]
