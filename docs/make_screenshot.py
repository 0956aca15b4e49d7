"""Draw docs/chat.svg from a real conversation, and docs/inspect.svg: `make screenshots`.

The program runs in a terminal (tmux) of 80 columns, the questions are typed into it, and what then
stands on the screen is drawn.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from rich.cells import cell_len
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS, ROWS = 80, 60  # ROWS: more than the conversation takes, so that nothing scrolls away
PROMPT = ">>>"
PATIENCE = 120.0  # seconds for one answer
CELL = (9, 18)  # pixels, width and height of a character
FOREGROUND, BACKGROUND = "#d8d8d8", "#1b1d23"
NO_BREAK = "\u00a0"  # a space that browsers do not join with its neighbours
UPPER_HALF = "\u2580"  # two pixels of a picture: its foreground above its background


class Terminal:
    """A tmux server of its own, with one command in it."""

    def __init__(self, command: list[str]) -> None:
        self._tmux = ["tmux", "-L", f"reellama-{os.getpid()}", "-f", os.devnull]
        size = ["-x", str(COLUMNS), "-y", str(ROWS)]
        # A home of its own: no history of other conversations, and none left behind.
        self._home = tempfile.TemporaryDirectory()
        environment = ["env", "COLORTERM=truecolor", f"XDG_DATA_HOME={self._home.name}"]
        line = shlex.join([*environment, *command])
        subprocess.run([*self._tmux, "new-session", "-d", *size, line], check=True)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False)  # gone if the program ended
        self._home.cleanup()

    def type(self, line: str) -> None:
        """Type a line and press Enter."""
        subprocess.run([*self._tmux, "send-keys", "-l", line], check=True)
        subprocess.run([*self._tmux, "send-keys", "Enter"], check=True)

    def screen(self, *, colour: bool = False) -> str:
        """What stands on the screen, with its colours as escape sequences or without."""
        command = [*self._tmux, "capture-pane", "-p", *(["-e"] if colour else [])]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip()

    def wait_for_prompts(self, count: int) -> None:
        """Wait until the prompt stands on the screen for the `count`-th time, and at its end."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            lines = self.screen().splitlines() or [""]
            prompts = sum(line.startswith(PROMPT) for line in lines)
            if prompts == count and lines[-1].startswith(PROMPT):
                return
            time.sleep(0.2)
        raise TimeoutError(f"no answer within {PATIENCE:.0f} s:\n{self.screen()}")


def converse(video: Path, questions: list[str]) -> str:
    """The screen, with colours, after `questions` were answered."""
    program = str(Path(sys.executable).with_name("reellama"))
    with Terminal([program, "chat", str(video)]) as terminal:
        for asked, question in enumerate(questions):
            terminal.wait_for_prompts(asked + 1)
            terminal.type(question)
        terminal.wait_for_prompts(len(questions) + 1)
        lines = terminal.screen(colour=True).splitlines()
    return "\n".join(lines[:-1])  # without the prompt that waits


def inspect(video: Path, token: int) -> str:
    """The screen, with colours, after a video and one soft token of it were inspected."""
    program = str(Path(sys.executable).with_name("reellama"))
    lines = []
    for options in ([], ["--token", str(token)]):
        command = ["inspect", str(video), *options]
        lines.append(f"printf '\\033[1m$ reellama {shlex.join(command)}\\033[0m\\n'")
        lines.append(f"{shlex.join([program, *command])} 2> {os.devnull}; echo")
    script = "; ".join([*lines, f"printf '{PROMPT}'", f"sleep {PATIENCE:.0f}"])
    with Terminal(["sh", "-c", script]) as terminal:
        terminal.wait_for_prompts(1)
        screen = terminal.screen(colour=True).splitlines()
    return "\n".join(screen[:-2])  # without the prompt that ends it


def draw(screen: str) -> str:
    """An SVG of the screen."""
    console = Console(width=COLUMNS, color_system="truecolor", force_terminal=True)
    lines = console.render_lines(Text.from_ansi(screen), pad=False)
    width, height = CELL[0] * (COLUMNS + 2), CELL[1] * (len(lines) + 1)
    shapes = [f'<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}"/>']
    for row, line in enumerate(lines):
        column = 0
        for segment in line:
            x, y = CELL[0] * (column + 1), CELL[1] * (row + 0.5)
            shapes += draw_segment(segment.text, segment.style or Style(), x, y)
            column += segment.cell_length
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="monospace" font-size="15" '
        'shape-rendering="crispEdges">'  # pictures without seams
    )
    return "\n".join([head, *shapes, "</svg>", ""])


def draw_segment(text: str, style: Style, x: float, y: float) -> Iterator[str]:
    """What one run of characters in one style looks like, its upper left corner at (x, y)."""
    width, height = CELL[0] * cell_len(text), CELL[1]
    front, back = colour(style.color, FOREGROUND), colour(style.bgcolor, BACKGROUND)
    picture = text.strip(UPPER_HALF) == ""
    if back != BACKGROUND:
        yield rectangle(x, y, width, height, back)
    if picture and front != back:
        yield rectangle(x, y, width, height / 2, front)
    if not picture and not text.isspace():
        weight = ' font-weight="bold"' if style.bold else ""
        opacity = ' opacity="0.6"' if style.dim else ""
        yield (
            f'<text x="{x:g}" y="{y + 0.75 * height:g}" textLength="{width}" fill="{front}"'
            f"{weight}{opacity}>{escape(text.replace(' ', NO_BREAK))}</text>"
        )


def rectangle(x: float, y: float, width: float, height: float, fill: str) -> str:
    """A filled rectangle."""
    return f'<path d="M{x:g} {y:g}h{width:g}v{height:g}h{-width:g}" fill="{fill}"/>'


def colour(value: Color | None, default: str) -> str:
    """A colour as `#rrggbb`."""
    return default if value is None or value.is_default else value.get_truecolor(MONOKAI).hex


def main() -> None:
    """`make_screenshot.py chat VIDEO SVG QUESTION...`, or `inspect VIDEO SVG TOKEN`."""
    command, video, svg, *words = sys.argv[1:]
    if command == "inspect":
        screen = inspect(Path(video), int(words[0]))
    else:
        screen = converse(Path(video), words)
    Path(svg).write_text(draw(screen), encoding="utf-8")


if __name__ == "__main__":
    main()
