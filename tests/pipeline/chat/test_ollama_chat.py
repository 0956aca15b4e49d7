"""`--llm ollama:NAME`: the bundle takes notes on the video, and a model of Ollama's talks."""

import json
import math
import socket
from collections.abc import Callable, Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread

import pytest

from reellama.pipeline.chat.ollama_chat import MAX_PICTURES, PICTURE_SIDE, OllamaVideoChat
from reellama.pipeline.chat.video_notes import Note
from reellama.pipeline.llm.generation_options import Sampling
from reellama.pipeline.llm.ollama_model import OllamaError, OllamaModel
from tests.conftest import Result
from tests.helpers.film import corners, steady, write_film
from tests.helpers.ollama_server import Ollama, serve

Run = Callable[..., Result]
CAPABILITIES = {
    "talker": ["completion"],
    "seer": ["completion", "vision"],
    "thinker": ["completion", "thinking"],
}


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ollama]:
    """A server with three models, where OLLAMA_HOST says."""
    with serve(dict(CAPABILITIES)) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        yield server


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """OLLAMA_HOST is a port that is taken, so that nobody else listens at it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("OLLAMA_HOST", host)
        yield host


@pytest.fixture
def small(small_bundle: Path) -> list[str]:
    return [f"--bundle={small_bundle}", "--threads=1", "--n-ctx=1024"]


@pytest.fixture(scope="module")
def video_chat(square_video: Path, small_bundle: Path) -> Iterator[OllamaVideoChat]:
    options = {"bundle": small_bundle, "n_ctx": 1024, "n_threads": 1}
    video_chat = OllamaVideoChat(square_video, model="talker", **options)
    yield video_chat
    video_chat.close()


def test_ask_answers_in_the_words_of_the_named_model(
    reellama: Run, ollama: Ollama, square_video: Path, small: list[str]
) -> None:
    result = reellama("ask", square_video, "What is it?", "--llm=ollama:talker", *small)
    assert (result.status, result.out, result.err) == (0, "A red square.\n", "")
    (chat,) = ollama.chats
    assert chat["model"] == "talker"
    assert [message["role"] for message in chat["messages"]] == ["system", "user"]
    assert chat["messages"][1] == {"role": "user", "content": "What is it?"}


def test_the_named_model_gets_the_notes_of_the_bundle_with_times(
    ollama: Ollama, video_chat: OllamaVideoChat
) -> None:
    (video,) = video_chat.videos
    video_chat.conversation.clear()
    video_chat.ask("What is it?")
    system = ollama.chats[-1]["messages"][0]["content"]
    assert system.startswith(video_chat.bundle.system)
    assert "square.mp4, 2.0 seconds long" in system
    assert f"- 0:00.0 to 0:02.0: {video.notes[0].text}" in system  # type: ignore[attr-defined]


def test_a_longer_video_is_watched_part_by_part_as_well(small_bundle: Path, tmp_path: Path) -> None:
    film = write_film(tmp_path / "long.mp4", steady(12), draw=corners)
    with OllamaVideoChat(film, model="talker", bundle=small_bundle, n_threads=1) as video_chat:
        (video,) = video_chat.videos
    times = [(note.start, note.end) for note in video.notes]  # type: ignore[attr-defined]
    assert times == [(0, 12), (0, 4), (4, 8), (8, 12)]


def test_a_model_with_vision_gets_bounded_pictures_once(
    reellama: Run, ollama: Ollama, square_video: Path, small: list[str]
) -> None:
    big = [*small, "--n-ctx=8192", "--frames=20"]
    result = reellama("chat", square_video, "--llm=ollama:seer", *big, stdin="One?\nTwo?\n")
    assert result.status == 0
    first, second = ollama.chats
    user = second["messages"][1]
    assert len(user["images"]) == MAX_PICTURES
    assert user["images"] == first["messages"][1]["images"]  # what the server has read already
    assert user["content"].startswith("(Pictures: square.mp4 at 0:00.")
    assert all("images" not in message for message in second["messages"][2:])
    assert set(ollama.pictures) == {(320, 240)}
    assert max(ollama.pictures[0]) <= PICTURE_SIDE


def test_a_small_context_gets_fewer_pictures(
    reellama: Run, ollama: Ollama, square_video: Path, small: list[str]
) -> None:
    reellama("ask", square_video, "What?", "--llm=ollama:seer", *small)
    assert len(ollama.pictures) == 1


def test_earlier_turns_go_along_and_the_oldest_leave_a_full_context(
    ollama: Ollama, video_chat: OllamaVideoChat
) -> None:
    video_chat.conversation.clear()
    dropped: list[int] = []
    video_chat.conversation.on_drop = dropped.append
    for i in range(4):
        video_chat.ask(f"Question {i}: " + "and then " * 150, max_tokens=8)
    messages = ollama.chats[-1]["messages"]
    assert messages[0]["role"] == "system"
    assert "square.mp4" in messages[0]["content"]
    assert messages[-1]["content"].startswith("Question 3")
    assert len(messages) < 2 + 2 * 3
    assert len(video_chat.turns) == 4
    assert sum(dropped) == video_chat.conversation.dropped > 0


def test_options_reach_the_server_under_its_names(
    reellama: Run, ollama: Ollama, square_video: Path, small: list[str], tmp_path: Path
) -> None:
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    options = ["--temperature=0.5", "--seed=7", "--top-k=3", "--min-p=0.1", "--max-tokens=9"]
    options += ["--stop=END"]
    schema = f"--json-schema={tmp_path / 'schema.json'}"
    reellama("ask", square_video, "?", "--llm=ollama:talker", *small, *options, schema)
    (chat,) = ollama.chats
    expected = {"temperature": 0.5, "seed": 7, "top_k": 3, "min_p": 0.1, "num_predict": 9}
    assert chat["options"].items() >= {**expected, "num_ctx": 1024}.items()
    assert chat["options"]["stop"] == ["END"]
    assert chat["format"] == {"type": "object"}


def test_json_names_the_model_and_counts_what_the_server_counted(
    reellama: Run, ollama: Ollama, square_video: Path, small: list[str]
) -> None:
    result = reellama(
        "ask", square_video, "What?", "--llm=ollama:talker", "--json", "--probs", *small
    )
    data = json.loads(result.out)
    assert (data["llm"], data["answer"]) == ("ollama:talker", "A red square.")
    assert data["stop_reason"] == "stop"
    assert data["timings"]["n_prompt"] == 40
    assert data["timings"]["tokens_per_second"] == pytest.approx(4)
    assert data["tokens"][1]["p"] == pytest.approx(math.exp(-0.5))
    assert data["tokens"][1]["alternatives"][1] == ["?", pytest.approx(math.exp(-2))]


def test_an_older_server_gives_no_probabilities(
    reellama: Run, ollama: Ollama, square_video: Path, small: list[str]
) -> None:
    ollama.logprobs = False
    command = ["ask", square_video, "What?", "--llm=ollama:talker", "--probs", *small]
    data = json.loads(reellama(*command, "--json").out)
    assert [token["p"] for token in data["tokens"]] == [None] * 4
    assert reellama(*command).out == "A red square.\n"


def test_a_model_that_thinks_is_asked_to_answer_at_once(ollama: Ollama) -> None:
    list(OllamaModel("thinker").generate([{"role": "user", "content": "Why?"}]))
    list(OllamaModel("talker").generate([{"role": "user", "content": "Why?"}]))
    assert [chat.get("think") for chat in ollama.chats] == [False, None]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--llm=ollama:nobody"], "Ollama has no model nobody: get it with `ollama pull nobody`"),
        (["--llm=ollama:talker", "--grammar={}"], "takes no GBNF grammar"),
    ],
)
def test_what_cannot_be_is_one_line(
    reellama: Run,
    ollama: Ollama,
    square_video: Path,
    small: list[str],
    endless: Path,
    options: list[str],
    reason: str,
) -> None:
    options = [option.format(endless) for option in options]
    result = reellama("ask", square_video, "What?", *options, *small)
    assert (result.status, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert reason in line


def test_without_a_server_ask_says_so_in_one_line(
    reellama: Run, nowhere: str, square_video: Path, small: list[str]
) -> None:
    result = reellama("ask", square_video, "What?", "--llm=ollama:talker", *small)
    assert (result.status, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert f"no Ollama server answers at {nowhere}" in line
    assert "ollama serve" in line


def test_without_a_server_a_chat_goes_on(
    reellama: Run, nowhere: str, square_video: Path, small: list[str]
) -> None:
    lines = "What?\n/show turns\n/show\n"
    result = reellama("chat", square_video, "--llm=ollama:talker", *small, stdin=lines)
    complaints = [line for line in result.err.splitlines() if line.startswith("reellama: ")]
    assert len(complaints) == 2  # at the start, and at the question
    assert all(nowhere in line for line in complaints)
    assert "0 turns, 0 of 1024 positions" in result.err
    assert "LLM ollama:talker" in result.err


def test_a_password_in_ollama_host_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://me:secret@127.0.0.1:1")
    with pytest.raises(OllamaError, match=r"at 127\.0\.0\.1:1:"):
        _ = OllamaModel("talker").capabilities


def test_a_server_of_another_kind_is_one_line() -> None:
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        Thread(target=server.handle_request, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        with pytest.raises(OllamaError, match=f"what answers at {host} is no Ollama server"):
            _ = OllamaModel("talker", host).capabilities


@pytest.mark.parametrize("host", ["http://[::1", "127.0.0.1:many"])
def test_an_ollama_host_that_is_no_address_is_one_line(host: str) -> None:
    with pytest.raises(OllamaError, match="OLLAMA_HOST"):
        _ = OllamaModel("talker", host).capabilities


def test_a_server_that_dies_in_the_middle_loses_nothing(
    reellama: Run, ollama: Ollama, square_video: Path, small: list[str]
) -> None:
    ollama.cuts = {1: 2}
    lines = "One?\nTwo?\nTwo?\n/show turns\n"
    result = reellama("chat", square_video, "--llm=ollama:talker", *small, stdin=lines)
    complaints = [line for line in result.err.splitlines() if line.startswith("reellama: ")]
    assert len(complaints) == 1
    assert "went away in the middle: start it, then ask again" in complaints[0]
    assert result.err.count(">>> Two?") == 1
    assert result.err.count(">>> One?") == 1
    asked = [message["content"] for message in ollama.chats[2]["messages"][1:]]
    assert asked == ["One?", "A red square.", "Two?"]
    assert result.status == 1  # a script learns that something failed


def test_a_retry_that_fails_keeps_the_answer_there_was(
    ollama: Ollama, video_chat: OllamaVideoChat
) -> None:
    video_chat.conversation.clear()
    video_chat.ask("What?")
    ollama.fail = "model runner has unexpectedly stopped"
    with pytest.raises(OllamaError, match="unexpectedly stopped"):
        list(video_chat.retry())
    assert [turn.answer for turn in video_chat.turns] == ["A red square."]
    list(video_chat.retry())
    assert len(video_chat.turns) == 1


def test_an_answer_stopped_by_the_person_is_kept(
    ollama: Ollama, video_chat: OllamaVideoChat
) -> None:
    video_chat.conversation.clear()
    answer = video_chat.stream("What?")
    assert next(answer).text + next(answer).text == "A red"
    answer.close()
    assert [turn.answer for turn in video_chat.turns] == ["A red"]


def test_a_saved_conversation_goes_on_with_ollama(
    ollama: Ollama, video_chat: OllamaVideoChat, tmp_path: Path
) -> None:
    video_chat.conversation.clear()
    video_chat.ask("What?", sampling=Sampling())
    video_chat.save(tmp_path / "talk.json")
    video_chat.load(tmp_path / "talk.json")
    video_chat.ask("And then?")
    contents = [message["content"] for message in ollama.chats[-1]["messages"][1:]]
    assert contents == ["What?", "A red square.", "And then?"]
    assert isinstance(video_chat.videos[0].notes[0], Note)  # type: ignore[attr-defined]
