"""`reellama eval --bench`: what a bundle is worth on real footage."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from typer import BadParameter

from reellama.pipeline.cli.commands.evaluate_options import (
    FOOTAGE_CLIPS,
    FOOTAGE_TASK_NAMES,
    QuestionOptions,
    RunOptions,
    write_text,
)

if TYPE_CHECKING:
    from reellama.pipeline.evaluation.footage_bench import FootageReport


def run(bundle: str, questions: QuestionOptions, options: RunOptions) -> None:
    """Ask, then show, write and record what was found."""
    if not questions.data:
        raise BadParameter("--bench asks about the captioned clips of a file: give it as --data")
    if questions.benchmark or questions.task or options.quantizations or options.html:
        raise BadParameter("--bench goes without --benchmark, --task, --quantizations and --html")
    tasks = task_names(questions)
    if options.plot and "yes-no" not in tasks:
        raise BadParameter("--plot draws what --bench yes-no measures")

    from reellama.gguf_tools.measuring import plots
    from reellama.pipeline.cli.progress import progress_bar
    from reellama.pipeline.evaluation.captioned_clips import CaptionedSplit, read_captioned
    from reellama.pipeline.evaluation.footage_bench import evaluate_footage

    if options.plot:
        plots.check()
    split = CaptionedSplit(
        read_captioned(questions.data),
        read_captioned(questions.train) if questions.train else [],
        questions.clips or FOOTAGE_CLIPS,
        questions.seed,
    )
    with progress_bar("loading") as show:
        report = evaluate_footage(
            bundle,
            split,
            tasks,
            with_controls=options.controls,
            command=command_line(bundle, questions, options),
            progress=lambda task, done: show(done, 0, f"{task}: {done} done"),
            **({"llm": options.llm} if options.llm else {}),
            **({"frames": options.frames} if options.frames else {}),
            **options.chat(),
            **options.engine(),
        )
    _write_report(report, bundle, options)


def _write_report(report: FootageReport, bundle: str, options: RunOptions) -> None:
    """Show what was found, and record, write and draw what the options ask for."""
    from reellama.models.bundle import Bundle
    from reellama.pipeline.cli.console import note, out
    from reellama.pipeline.evaluation.calibration import plot_reliability
    from reellama.pipeline.evaluation.footage_report import footage_table
    from reellama.pipeline.evaluation.report import record_scores

    if options.record:
        record_scores(Bundle.load(bundle), options.record, report.figures())
    if options.json:
        write_text(options.json, json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n")
    if str(options.json) != "-":
        out.print(footage_table(list(report.scores.values())))
    if options.plot:
        yes_no = report.scores["yes-no"]
        title = f"{report.bundle}: yes or no, {yes_no.of}"
        files = plot_reliability(yes_no.reliability, options.plot, title)
        note(f"drawn: {', '.join(map(str, files))}")


def task_names(questions: QuestionOptions) -> list[str]:
    """The tasks that are asked, in the order of the list of all."""
    asked = questions.bench or []
    return [name for name in FOOTAGE_TASK_NAMES if name in asked or "all" in asked]


def command_line(bundle: str, questions: QuestionOptions, options: RunOptions) -> str:
    """The command that gives the same figures again."""
    words = ["reellama", "eval", bundle]
    words += [word for name in questions.bench or () for word in ("--bench", name)]
    words += ["--data", str(questions.data)]
    words += ["--train", str(questions.train)] if questions.train else []
    words += ["--clips", str(questions.clips or FOOTAGE_CLIPS), "--seed", str(questions.seed)]
    words += options.model_words()
    return shlex.join(words + ["--no-controls"] * (not options.controls))
