"""`reellama eval`: what a bundle is worth."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from models.bundle import Bundle
from models.material import MATERIAL
from pipeline import evaluate
from pipeline.cli.display import err, out


def run(
    bundle: str,
    clips: int,
    material: Path | None,
    styles: tuple[str, ...],
    record: str | None,
    *,
    as_json: bool,
) -> None:
    """Describe drawn clips of the test split and count what was right."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task("describing", total=clips)
        found = evaluate.evaluate(
            bundle,
            clips=clips,
            material=material or MATERIAL,
            styles=styles,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    if record:
        command = f"reellama eval {shlex.quote(bundle)} --clips {clips}"
        command += "".join(f" --style {style}" for style in styles)
        evaluate.record(Bundle.load(bundle), found, record, command)
    if as_json:
        sys.stdout.write(evaluate.to_json_text(found) + "\n")
    else:
        out.print(evaluate.report(found))
