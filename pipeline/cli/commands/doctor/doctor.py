"""`reellama doctor`: what is there, what it can do, and how to mend what is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict

from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from typer import Exit

from reellama.pipeline.cli.commands.doctor.doctor_checks import SECTIONS, Finding, examine
from reellama.pipeline.cli.console import err, out, strip_control
from reellama.pipeline.cli.terminal.progress_bars import Spinner

MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "bad": ("✗", "red")}
ASCII_MARKS = {"ok": "ok", "note": "!", "bad": "X"}


def run(*, as_json: bool, speed: bool = False) -> None:
    """Examine everything, or `speed` alone; raises Exit(1) when something will not work."""
    findings: dict[str, list[Finding]] = {}
    for section, check in (_speed() if speed else SECTIONS).items():
        with Spinner(f"[dim]looking at: {section}", console=err):
            findings[section] = list(examine(check))
        if not as_json:
            out.print(Text(section, "bold"))
            out.print(Padding.indent(_table(findings[section]), 2))
    bad = [finding for found in findings.values() for finding in found if finding.state == "bad"]
    if as_json:
        checks = [{"section": name, **asdict(f)} for name, found in findings.items() for f in found]
        data = {"ok": not bad, "checks": checks}
        sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    elif not bad and not speed:
        out.print("Everything that reellama needs is there.")
    elif bad:
        out.print(f"{len(bad)} thing{'s' * (len(bad) > 1)} to mend.")
    if bad:
        raise Exit(1)


def _speed() -> dict[str, Callable[[], Iterator[Finding]]]:
    from reellama.pipeline.cli.commands.doctor.doctor_speed import speed

    return {"Speed": speed}


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark, colour = MARKS[finding.state]
        if not out.encoding.startswith("utf"):
            mark = ASCII_MARKS[finding.state]
        detail = Text(strip_control(finding.detail))
        if finding.mend:
            detail.append(f"\n{strip_control(finding.mend)}", "bold")
        table.add_row(Text(mark, colour), Text(strip_control(finding.name)), detail)
    return table
