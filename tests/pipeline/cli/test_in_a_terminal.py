"""What a person sees: `reellama` in a terminal of 80 columns."""

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.terminal import (
    CTRL_C,
    CTRL_D,
    ENTER,
    REELLAMA,
    ROOT,
    TAB,
    TIMEOUT_SECONDS,
    UP,
    Terminal,
)

pytestmark = pytest.mark.measures

PROMPT = "Ask about the video, or /help$"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "NO_COLOR": "",
    }


@pytest.fixture
def command(small_bundle: Path, square_video: Path, endless: Path) -> Callable[..., list[str]]:
    """A command on the small bundle whose answers never end by themselves."""

    def line(name: str, *arguments: str) -> list[str]:
        options = [f"--bundle={small_bundle}", "--threads=1", "--n-ctx=512", "--max-tokens=40"]
        options.append(f"--grammar={endless}")
        return [*REELLAMA, name, str(square_video), *arguments, *options]

    return line


def test_a_conversation_is_held_in_a_terminal(
    command: Callable[..., list[str]], env: dict[str, str], tmp_path: Path
) -> None:
    with Terminal(command("chat"), env=env) as terminal:
        # Frames are drawn, in colour, with their times.
        text = terminal.wait_for(PROMPT)
        assert "\u2580" * 9 in text
        assert "0:00.1" in text
        assert b"\x1b[38;2;" in terminal.raw

        # An answer comes word by word and breaks between words.
        terminal.type("What happens?" + ENTER)
        text = terminal.wait_for("ended at 40 tokens")
        answer = text.partition(">>> What happens?")[2].splitlines()[1:-1]
        assert {word for line in answer for word in line.split()} <= {"tick", "tock", "t", "ti"}
        assert max(map(len, answer)) <= 80

        # Ctrl-C stops the answer and not the program, and what there is of it is kept.
        terminal.wait_for(PROMPT)
        terminal.type("/set max_tokens 4000" + ENTER)
        terminal.wait_for("max_tokens  4000")
        terminal.type("Go on" + ENTER)
        terminal.wait_for(r">>> Go on\n(tick tock )+")
        terminal.type(CTRL_C)
        terminal.wait_for(r"^stopped\n>>> " + PROMPT)
        assert "^C" not in terminal.text()

        # At the prompt it clears the line; the arrow brings earlier lines back; Tab completes.
        terminal.type("never asked" + CTRL_C)
        terminal.wait_for(r"never asked\n>>> " + PROMPT)
        terminal.type("/sh" + TAB + "turns" + ENTER)
        text = terminal.wait_for(r"/show turns\n(.*\n)*>>> Go on\ntick(.*\n)*>>> " + PROMPT)
        assert ">>> never asked" not in text.partition("/show turns")[2]
        terminal.type(UP)
        terminal.wait_for(r">>> /show turns$")
        terminal.type(CTRL_C + "/probs" + ENTER)
        terminal.wait_for("instead of it")
        terminal.wait_for(PROMPT)

        # Were the terminal killed now, nothing would be lost but the lines on the screen.
        kept = tmp_path / "data" / "reellama"
        assert "+Go on" in (kept / "history").read_text()
        turns = json.loads((kept / "last-conversation.json").read_text())["turns"]
        assert [turn["question"] for turn in turns] == ["What happens?", "Go on"]
        assert all(turn["answer"].startswith("tick") for turn in turns)

        terminal.type(CTRL_D)
        assert terminal.wait_for_exit() == 0


def test_no_colour_is_drawn_with_no_color_set(
    command: Callable[..., list[str]], env: dict[str, str]
) -> None:
    with Terminal(command("chat", "--probs"), env={**env, "NO_COLOR": "1"}) as terminal:
        text = terminal.wait_for(PROMPT)
        assert "frames at 0:00.1" in text
        terminal.type("What happens?" + ENTER + "/bye" + ENTER)  # typed ahead
        assert terminal.wait_for_exit() == 0
        assert ">>> /bye" in terminal.text()
        assert b"38;2;" not in terminal.raw
        assert b"\x1b[31m" not in terminal.raw


@pytest.mark.slow
def test_probs_colours_each_token(
    command: Callable[..., list[str]], env: dict[str, str], small_bundle: Path, tmp_path: Path
) -> None:
    knowing = shutil.copytree(small_bundle, tmp_path / "knowing")  # of an LLM that comes to expect
    description = json.loads((knowing / "bundle.json").read_text())
    (knowing / "bundle.json").write_text(json.dumps(description | {"llm": "mini-llm"}))
    line = [*command("ask", "What happens?", "--probs"), f"--bundle={knowing}"]
    with Terminal(line, env=env) as terminal:
        assert terminal.wait_for_exit() == 0
        colours = terminal.colours("tick tock tick tock") - {"default"}
        assert len(colours) > 1  # the first tick is a surprise, and later ones are not
        assert all(int(colour[4:], 16) == 40 for colour in colours)


def test_ctrl_c_while_frames_are_read_ends_with_one_line(
    command: Callable[..., list[str]], env: dict[str, str], tmp_path: Path
) -> None:
    env["REELLAMA_CACHE"] = str(tmp_path / "cache")  # of frames that are known there is no bar
    with Terminal(command("chat"), env=env) as terminal:
        terminal.wait_for("reading|looking at")
        terminal.type(CTRL_C)
        assert terminal.wait_for_exit() == 130
        # The terminal itself writes ^C; where the bar had just gone, nothing takes that away.
        last = terminal.text().strip().splitlines()[-1]
        assert last.removeprefix("^C") == "reellama: stopped", terminal.raw
        assert "Traceback" not in terminal.text()


def test_ctrl_c_just_before_a_progress_bar_would_be_ended_takes_it_away(
    env: dict[str, str],
) -> None:
    code = (
        "from reellama.pipeline.cli import console, main\n"
        "def interrupted(arguments):\n"
        "    console.err.status('reading').start()\n"
        "    raise KeyboardInterrupt\n"
        "main._status = interrupted\n"
        "main.main()\n"
    )
    with Terminal([sys.executable, "-c", code], env=env) as terminal:
        assert terminal.wait_for_exit() == 130
        assert terminal.text().strip() == "reellama: stopped"
        assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")  # the cursor


class Tmux:
    """A session of tmux, the terminal that many people use."""

    def __init__(self, folder: Path) -> None:
        self._tmux = ["tmux", "-S", str(folder / "socket"), "-f", "/dev/null"]

    def start(self, command: list[str], env: dict[str, str]) -> None:
        line = shlex.join(["env", *(f"{key}={value}" for key, value in env.items()), *command])
        self._run("new-session", "-d", "-x", "80", "-y", "40", "-c", str(ROOT), line)

    def type(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def wait_for(self, text: str) -> str:
        until = time.monotonic() + TIMEOUT_SECONDS
        while text not in (screen := self._run("capture-pane", "-p")):
            assert time.monotonic() < until, screen
            time.sleep(0.1)
        return screen

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True)
        return done.stdout


@pytest.fixture
def tmux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tmux]:
    session = Tmux(tmp_path_factory.mktemp("t"))
    yield session
    session.close()


if shutil.which("tmux"):  # .ci/run installs it; the tests above need nothing beside Python

    def test_in_tmux(command: Callable[..., list[str]], env: dict[str, str], tmux: Tmux) -> None:
        tmux.start(command("chat"), {**env, "TERM": "screen-256color", "COLORTERM": ""})
        tmux.wait_for("Ask about the video")
        tmux.type("What happens?", "Enter")
        screen = tmux.wait_for("ended at 40 tokens")
        assert "tick tock tick tock" in screen
        assert "\u2580" * 9 in screen
