"""`reellama eval --bench`: what a bundle is worth on real footage."""

from __future__ import annotations

import json
import shlex

from typer import BadParameter

from reellama.pipeline.cli.commands.evaluate_options import (
    FOOTAGE_CLIPS,
    FOOTAGE_TASK_NAMES,
    QuestionOptions,
    RunOptions,
    write_text,
)


def run(bundle: str, questions: QuestionOptions, how: RunOptions) -> None:
    """Ask, then show, write and record what was found."""
    if not questions.data:
        raise BadParameter("--bench asks about the captioned clips of a file: give it as --data")
    if questions.benchmark or questions.task or how.quantizations or how.html:
        raise BadParameter("--bench goes without --benchmark, --task, --quantizations and --html")
    tasks = task_names(questions)
    if how.plot and "yes-no" not in tasks:
        raise BadParameter("--plot draws what --bench yes-no measures")

    from reellama.gguf_tools.measuring import plots
    from reellama.models.bundle import Bundle
    from reellama.pipeline.cli.console import note, out
    from reellama.pipeline.cli.progress import progress_bar
    from reellama.pipeline.evaluation.calibration import plot_reliability
    from reellama.pipeline.evaluation.captioned_clips import CaptionedSplit, read_captioned
    from reellama.pipeline.evaluation.footage_bench import evaluate_footage
    from reellama.pipeline.evaluation.footage_report import footage_table
    from reellama.pipeline.evaluation.report import record_scores

    if how.plot:
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
            with_controls=how.controls,
            command=command_line(bundle, questions, how),
            progress=lambda task, done: show(done, 0, f"{task}: {done} done"),
            **({"llm": how.llm} if how.llm else {}),
            **({"frames": how.frames} if how.frames else {}),
            **how.chat(),
            **how.engine(),
        )
    if how.record:
        record_scores(Bundle.load(bundle), how.record, report.figures())
    if how.json:
        write_text(how.json, json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n")
    if str(how.json) != "-":
        out.print(footage_table(list(report.scores.values())))
    if how.plot:
        asked = report.scores["yes-no"]
        title = f"{report.bundle}: yes or no, {asked.of}"
        note(f"drawn: {', '.join(map(str, plot_reliability(asked.reliability, how.plot, title)))}")


def task_names(questions: QuestionOptions) -> list[str]:
    """The tasks that are asked, in the order of the list of all."""
    asked = questions.bench or []
    return [name for name in FOOTAGE_TASK_NAMES if name in asked or "all" in asked]


def command_line(bundle: str, questions: QuestionOptions, how: RunOptions) -> str:
    """The command that gives the same figures again."""
    words = ["reellama", "eval", bundle]
    words += [word for name in questions.bench or () for word in ("--bench", name)]
    words += ["--data", str(questions.data)]
    words += ["--train", str(questions.train)] if questions.train else []
    words += ["--clips", str(questions.clips or FOOTAGE_CLIPS), "--seed", str(questions.seed)]
    words += how.model_words()
    return shlex.join(words + ["--no-controls"] * (not how.controls))
