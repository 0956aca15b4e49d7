"""`reellama chat` in a pipe: a line in, an answer out, and the slash commands."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Result
from tests.helpers.full_disk import full_disk

pytestmark = pytest.mark.numeric

Chat = Callable[..., Result]


@pytest.fixture
def chat(reellama: Chat, small_bundle: Path, endless: Path) -> Chat:
    """Type lines into a chat about the given videos; each answer is of 4 tokens, "tick tock "."""

    def run(*lines: str, videos: tuple[Path, ...] = (), options: tuple[str, ...] = ()) -> Result:
        small = (f"--bundle={small_bundle}", "--threads=1", "--n-ctx=256", "--max-tokens=4")
        forced = (f"--grammar={endless}", *options)
        return reellama("chat", *videos, *small, *forced, stdin="\n".join(lines) + "\n")

    return run


def test_each_line_is_a_question_and_blank_lines_are_not(chat: Chat, square_video: Path) -> None:
    result = chat("What happens?", "", "  ", "Where?", "/show", videos=(square_video,))
    assert result.status == 0
    assert "2 turns" in result.err
    assert result.out.strip()


def test_the_frames_and_their_times_are_listed_where_pictures_cannot_be_drawn(
    chat: Chat, square_video: Path
) -> None:
    result = chat("/bye", videos=(square_video,))
    assert "square.mp4: 0:02.0, 8 frames" in result.err
    assert re.search(r"frames at 0:00\.1 0:00\.3 .* 0:01\.8\n", result.err)
    assert max(map(len, result.err.splitlines())) <= max(80, len(str(square_video)) + 50)


def test_bye_ends_the_chat(chat: Chat) -> None:
    result = chat("/bye", "What?")
    assert (result.status, result.out) == (0, "")


def test_help_names_every_command_and_fits_80_columns(chat: Chat) -> None:
    result = chat("/help")
    names = " ".join(line.split()[0] for line in result.err.splitlines()[:13])
    assert names == (
        "/add /frames /inspect /set /show /probs /retry /undo /save /load /clear /help /bye"
    )
    assert max(len(line.rstrip()) for line in result.err.splitlines()) <= 80


NONSENSE = [
    ("/shwo", "there is no command /shwo: did you mean /show?"),
    ("/zzz", "there is no command /zzz: /help lists them"),
    ("/add", "usage: /add FILE"),
    ("/add nothing.mp4", "nothing.mp4: no such file"),
    ("/add 'quote", "No closing quotation"),
    ("/add ~nobody-here/a.mp4", "~nobody-here/a.mp4: no such file"),
    (f"/add {'a' * 300}.mp4", "File name too long"),
    (f"/{'a' * 300}", "there is no command /aaaa"),
    ("/frames 3", "there is no video yet: /add FILE"),
    ("/inspect", "there is no video yet: /add FILE"),
    ("/inspect all", "usage: /inspect N"),
    ("/retry", "nothing was asked yet"),
    ("/undo", "nothing was asked yet"),
    ("/probs", "there is no answer yet"),
    ("/show me", "there is no /show me: video, turns, probs, settings, timings"),
    ("/save", "usage: /save FILE"),
    ("/save no/such/folder/x", "cannot save no/such/folder/x: No such file or directory"),
    ("/save /dev/null", "it is not a file"),
    ("/load", "there is no last conversation yet"),
    ("/load nothing.json", "cannot read nothing.json: No such file or directory"),
    ("/set temprature 1", "there is no setting temprature: did you mean temperature?"),
    ("/set temperature hot", "temperature takes a number, not hot"),
    ("/set temperature -1", "temperature is -1.0"),
    ("/set top_k 1.5", "top_k takes a whole number, not 1.5"),
    ("/set probs maybe", "probs is on or off"),
    ("/set grammar no.gbnf", "cannot read no.gbnf"),
]


def test_a_line_that_makes_no_sense_is_one_line_and_the_chat_goes_on(chat: Chat) -> None:
    result = chat(*(line for line, _ in NONSENSE), "/show")
    complaints = [line for line in result.err.splitlines() if line.startswith("reellama: ")]
    assert len(complaints) == len(NONSENSE)
    for complaint, (_, reason) in zip(complaints, NONSENSE, strict=True):
        assert reason in complaint
    assert "0 turns" in result.err.splitlines()[-1]
    assert result.status == 1  # a script learns that something failed


def test_a_file_dropped_on_the_terminal_is_recognized(chat: Chat, square_video: Path) -> None:
    assert f"to look at this file: /add {square_video}" in chat(str(square_video)).err


def test_videos_can_be_added_and_frames_changed(
    chat: Chat, square_video: Path, tmp_path: Path
) -> None:
    spaced = tmp_path / "my film.mp4"
    spaced.write_bytes(square_video.read_bytes())
    result = chat(f"/add {spaced}", "/frames 3", f"/add '{square_video}'", "/show")
    assert result.status == 0
    assert f"{spaced}: 0:02.0, 3 frames, 24 soft tokens" in result.err
    assert f"{square_video}: 0:02.0, 3 frames, 24 soft tokens" in result.err


def test_soft_tokens_can_be_inspected(chat: Chat, square_video: Path) -> None:
    result = chat("/inspect", "/inspect 0", "/inspect 24", videos=(square_video,))
    assert result.out == ""
    said = re.findall(r"^\d+ .* \d+%  0:0\d\.\d, ", result.err, re.MULTILINE)
    silent = re.findall(r"(\d+) more say nothing", result.err)
    assert len(said) + sum(map(int, silent)) == 24
    assert "soft token 0: " in result.err and "It looks most at 0:0" in result.err
    assert "there is no soft token 24: they go from 0 to 23" in result.err


def test_settings_change_answers(chat: Chat, square_video: Path, endless: Path) -> None:
    result = chat(
        "What?",
        "/set max_tokens 1",
        "/set temperature 0.5",
        "/set seed 7",
        "/set system Be brief.",
        "What?",
        "/set seed none",
        "/set stop zebra",
        f"/set grammar {endless}",
        "/set",
        videos=(square_video,),
    )
    assert result.status == 0
    settings = dict(re.findall(r"^(\w+) +(.*?) *$", result.err, re.MULTILINE))
    assert settings["max_tokens"] == "1"
    assert settings["temperature"] == "0.5"
    assert settings["seed"] == "none"
    assert settings["stop"] == "'zebra'"
    assert settings["system"] == "Be brief."


def test_retry_undo_and_clear_change_the_turns(chat: Chat, square_video: Path) -> None:
    result = chat(
        "one", "two", "/retry", "/show", "/undo", "/show", "/clear", "/show", videos=(square_video,)
    )
    counts = re.findall(r"(\d) turns?", result.err)
    assert counts == ["2", "1", "0"]
    assert "taken back: two" in result.err
    assert "the same again" in result.err
    assert result.err.count(f"{square_video}: ") == 4  # the video stays


def test_probs_shows_the_alternatives_of_the_last_answer(chat: Chat, square_video: Path) -> None:
    result = chat("What?", "/probs", videos=(square_video,))
    table = result.err.partition("instead of it")[2].splitlines()[1:]
    assert len(table) == 4
    assert all(re.search(r"\d+%", row) for row in table)


def test_save_asks_before_it_writes_over_a_file_of_another_conversation(
    chat: Chat, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text("mine")
    assert f"/save! {kept} writes over it" in chat(f"/save {kept}").err
    assert kept.read_text() == "mine"
    assert chat(f"/save! {kept}", f"/save {kept}").status == 0  # by now it is its own
    assert "turns" in kept.read_text()


def test_save_and_load_bring_turns_and_videos_back(
    chat: Chat, square_video: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "talk.json"
    chat("What happens?", f"/save {saved}", videos=(square_video,))
    result = chat(f"/load {saved}", "/show turns", "And then?", "/show")
    assert result.status == 0
    assert ">>> What happens?" in result.err
    assert str(square_video) in result.err
    assert "2 turns" in result.err


def test_load_without_a_path_brings_the_last_conversation_back(
    chat: Chat, square_video: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "data" / "reellama"
    kept.mkdir(parents=True)
    chat("What happens?", f"/save {kept / 'last-conversation.json'}", videos=(square_video,))
    assert "1 turn, " in chat("/load").err


def test_a_full_disk_while_saving_leaves_the_old_file(
    chat: Chat, square_video: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "talk.json"
    chat("What happens?", f"/save {saved}", videos=(square_video,))
    before = saved.read_text()
    with full_disk():
        result = chat("Something else?", f"/save! {saved}", videos=(square_video,))
    assert result.status == 1
    complaint = [line for line in result.err.splitlines() if line.startswith("reellama: ")]
    assert complaint == [
        f"reellama: cannot save {saved}: File too large; the old file is as it was"
    ]
    assert saved.read_text() == before
    assert json.loads(before)["turns"][0]["question"] == "What happens?"
    assert list(tmp_path.glob("*.json*")) == [saved]
    assert not list(tmp_path.glob(".talk*"))


def test_without_a_video_nothing_is_invented(chat: Chat) -> None:
    result = chat("What happens in the video?")
    assert result.status == 1
    assert result.out == ""
    assert result.err == "reellama: there is no video yet: /add FILE looks at one\n"
