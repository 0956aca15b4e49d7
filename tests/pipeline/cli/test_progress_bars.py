"""Progress bars and spinners: Ctrl-C while they are drawn leaves the terminal as it should be."""

from __future__ import annotations

import ast
import io
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from reellama.pipeline.cli.terminal.progress_bars import Bars, Spinner

ROOT = Path(__file__).parents[3]
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


class Screen(io.StringIO):
    """A terminal at which somebody presses Ctrl-C just when the `interrupted`th write comes."""

    def __init__(self, interrupted: int) -> None:
        super().__init__()
        self._left = interrupted

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._left -= 1
        if self._left == 0:
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


def bars(console: Console) -> None:
    with Bars(console=console, transient=True, auto_refresh=False) as drawn:
        drawn.add_task("reading", total=2)


def spinner(console: Console) -> None:
    with Spinner("thinking", console=console, refresh_per_second=1e-3):
        pass


# A spinner writes as it begins and as it ends, bars also when one is added.
@pytest.mark.parametrize(
    ("draw", "interrupted"),
    [(bars, 1), (bars, 2), (bars, 3), (bars, 4), (spinner, 1), (spinner, 2)],
)
def test_ctrl_c_at_any_write_comes_through_and_leaves_a_console_that_prints(
    draw: Callable[[Console], None], interrupted: int
) -> None:
    screen = Screen(interrupted)
    console = Console(file=screen, force_terminal=True, legacy_windows=False)
    with pytest.raises(KeyboardInterrupt):
        draw(console)
    console.print("stopped")
    text = screen.getvalue()
    assert text.rstrip().endswith("stopped")
    assert text.rfind(SHOW_CURSOR) >= text.rfind(HIDE_CURSOR)


@pytest.mark.parametrize("draw", [bars, spinner])
def test_a_dumb_terminal_gets_neither_bars_nor_empty_lines(draw: Callable[[Console], None]) -> None:
    screen = io.StringIO()
    draw(Console(file=screen, force_terminal=True, legacy_windows=False, _environ={"TERM": "dumb"}))
    assert screen.getvalue() == ""


def test_no_module_uses_richs_own_progress_bars() -> None:
    """Rich's own `Progress`, `track` and `status` may be interrupted half drawn."""
    unguarded = []
    for path in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "gguf_tools").rglob("*.py")]:
        if path.name == "progress_bars.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in getattr(node, "names", []) if hasattr(each, "name")]
            if isinstance(node, ast.ImportFrom) and node.module in {"rich.progress", "rich.status"}:
                unguarded += [path for name in names if name in {"Progress", "Status", "track"}]
            if isinstance(node, ast.Attribute) and node.attr == "status":
                value = node.value
                if isinstance(value, ast.Name) and value.id in {"err", "out", "console"}:
                    unguarded.append(path)
    assert unguarded == []
