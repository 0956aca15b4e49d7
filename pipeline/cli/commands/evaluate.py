"""`reellama eval`: what a bundle is worth."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import BadParameter

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.temporary_folders import temporary_folder
from reellama.pipeline.cli.commands import evaluate_footage
from reellama.pipeline.cli.commands.evaluate_options import (
    CLIPS_PER_TASK,
    DESCRIBED_CLIPS,
    SPLIT_NAMES,
    QuestionOptions,
    RunOptions,
    write_text,
)
from reellama.pipeline.evaluation.tasks.benchmark_tasks import PHOTOGRAPHS, TASKS

if TYPE_CHECKING:
    from reellama.pipeline.evaluation.items import EvalItem
    from reellama.pipeline.evaluation.report import EvaluationReport


def run(bundle: str, questions: QuestionOptions, options: RunOptions) -> None:
    """Measure, then show, write and record what was found."""
    has_questions = bool(questions.data) or questions.benchmark
    if questions.data and questions.benchmark:
        raise BadParameter("give --data or --benchmark, not both")
    if options.quantize and not options.quantizations:
        raise BadParameter("--quantize needs --quantizations, the folder that the files go to")
    if not has_questions and (options.quantizations or options.html or questions.task):
        raise BadParameter("--quantizations, --html and --task need --data or --benchmark")
    if not questions.benchmark and questions.split != SPLIT_NAMES[0]:
        raise BadParameter(f"--split {questions.split} is of the benchmark: add --benchmark")
    if questions.seed and not (questions.benchmark or questions.bench):
        raise BadParameter("--seed chooses what --benchmark and --bench ask")
    if has_questions and questions.style:
        raise BadParameter("--style is of clips that are described: without --data or --benchmark")
    if questions.benchmark and not questions.task_names() <= TASKS.keys() | {PHOTOGRAPHS}:
        raise BadParameter(_no_such_task("the benchmark", TASKS))
    if options.record:
        _check_recordable(bundle)
    if questions.bench:
        evaluate_footage.run(bundle, questions, options)
        return
    if questions.train:
        raise BadParameter("--train is for the baselines of --bench")
    if options.plot and not options.quantizations:
        raise BadParameter("--plot draws what --quantizations or --bench yes-no measures")
    if options.quantizations and options.html:
        raise BadParameter("--html is a page about one LLM: leave --quantizations out")
    if not has_questions:
        _describe(bundle, questions, options)
    elif options.quantizations:
        _quantizations(bundle, questions, options, options.quantizations)
    else:
        _ask(bundle, questions, options)


def _check_recordable(bundle: str) -> None:
    """Raise BundleError, before hours are spent, for what has no folder to keep scores in."""
    from reellama.models.open_bundle import trained_bundle

    trained_bundle(bundle, "it has no folder to keep scores in; write them with --json FILE")


def command_line(bundle: str, questions: QuestionOptions, options: RunOptions) -> str:
    """The command that gives the same figures again."""
    words = ["reellama", "eval", bundle]
    if questions.data:
        words += ["--data", str(questions.data)]
    elif questions.benchmark:
        words += ["--benchmark", "--split", questions.split, "--seed", str(questions.seed)]
    if not questions.data:
        clips = questions.clips or (CLIPS_PER_TASK if questions.benchmark else DESCRIBED_CLIPS)
        words += ["--clips", str(clips)]
    for option, values in (("--task", questions.task), ("--style", questions.style)):
        words += [word for value in values or () for word in (option, value)]
    words += options.model_words()
    if options.quantizations:
        words += ["--quantizations", str(options.quantizations)]
        words += ["--quantize"] * options.quantize
    elif (questions.data or questions.benchmark) and not options.controls:
        words += ["--no-controls"]
    return shlex.join(words)


def _describe(bundle: str, questions: QuestionOptions, options: RunOptions) -> None:
    from reellama.models.bundle import Bundle
    from reellama.models.synthetic.assets.downloads import ASSETS
    from reellama.pipeline.cli.console import out
    from reellama.pipeline.cli.progress import progress_bar
    from reellama.pipeline.evaluation.report import record_scores
    from reellama.pipeline.evaluation.tasks import clip_descriptions

    with progress_bar("describing") as show:
        results = clip_descriptions.evaluate_descriptions(
            bundle,
            clips=questions.clips or DESCRIBED_CLIPS,
            assets=questions.assets or ASSETS,
            styles=tuple(questions.style or ()),
            progress=lambda done, total: show(done, total, "describing"),
            **({"llm": options.llm} if options.llm else {}),
            **({"frames": options.frames} if options.frames else {}),
            **options.chat(),
            **options.engine(),
        )
    if options.record:
        figures = results.figures(command_line(bundle, questions, options))
        record_scores(Bundle.load(bundle), options.record, figures)
    if options.json:
        write_text(options.json, clip_descriptions.to_json_text(results) + "\n")
    if str(options.json) != "-":
        out.print(clip_descriptions.format_report(results))


def _ask(bundle: str, questions: QuestionOptions, options: RunOptions) -> None:
    from reellama.models.bundle import Bundle
    from reellama.pipeline.cli.console import out
    from reellama.pipeline.cli.progress import progress_bar
    from reellama.pipeline.evaluation import report as reports
    from reellama.pipeline.evaluation.runner import evaluate

    with _items(questions) as (items, total, missing), progress_bar("loading") as show:
        results = evaluate(
            bundle,
            items,
            llm=options.llm,
            frames=options.frames,
            with_controls=options.controls,
            with_strips=options.html is not None,
            progress=lambda done: show(done, total, f"{done} questions asked"),
            **options.chat(),
            **options.engine(),
        )
    report = reports.build_report(
        results,
        command=command_line(bundle, questions, options),
        seed=questions.seed if questions.benchmark else None,
        missing=missing,
    )
    _write_files(report, options)
    if options.record:
        reports.record_scores(Bundle.load(bundle), options.record, report.figures())
    if str(options.json) != "-":
        out.print(reports.report_table(report))


def _write_files(report: EvaluationReport, options: RunOptions) -> None:
    from reellama.pipeline.evaluation.html_report import render_page
    from reellama.pipeline.evaluation.report import report_json

    if options.json:
        write_text(options.json, report_json(report))
    if options.html:
        write_text(options.html, render_page(report))


def _quantizations(
    bundle: str, questions: QuestionOptions, options: RunOptions, folder: Path
) -> None:
    import json

    from reellama.gguf_tools.locate import find
    from reellama.gguf_tools.measuring import plots
    from reellama.models.bundle import Bundle
    from reellama.models.cache_folders import ENCODED_FRAMES
    from reellama.models.open_bundle import open_bundle
    from reellama.pipeline.cli.console import note, out
    from reellama.pipeline.cli.progress import progress_bar
    from reellama.pipeline.evaluation import quantization_sweep
    from reellama.pipeline.evaluation.report import record_scores

    if options.plot:
        plots.check()
    opened = open_bundle(
        bundle, options.mmproj, use_gpu=options.gpu_layers != "0", cache=ENCODED_FRAMES
    )
    if options.quantize:
        quantization_sweep.quantize_all(
            find.resolve(options.llm) if options.llm else opened.llm_path(), folder
        )
    ggufs = quantization_sweep.list_ggufs(folder)
    with _items(questions) as (items, _, _), progress_bar("looking at videos") as show:
        rows = quantization_sweep.run_sweep(
            opened,
            items,
            ggufs,
            lambda done, total, what: show(done, total or 0, what),
            frames=options.frames,
            pooling=options.pooling_options(),
            **options.engine(),
        )
    figures: dict[str, Any] = {"command": command_line(bundle, questions, options)}
    if questions.benchmark:
        figures["seed"] = questions.seed
    figures["rows"] = [row.to_json() for row in rows]
    if options.record:
        record_scores(Bundle.load(bundle), options.record, figures)
    if options.json:
        write_text(options.json, json.dumps(figures, indent=2) + "\n")
    if str(options.json) != "-":
        out.print(quantization_sweep.tables(rows))
    if options.plot:
        title = f"{opened.name}: {rows[0].accuracy.of} questions to each quantization"
        note(f"drawn: {', '.join(map(str, quantization_sweep.plot(rows, options.plot, title)))}")


@contextmanager
def _items(
    questions: QuestionOptions,
) -> Iterator[tuple[Iterable[EvalItem], int, tuple[str, ...]]]:
    """What is asked, how many questions at most, and the names of missing videos."""
    tasks = questions.task_names()
    if questions.data:
        from reellama.pipeline.evaluation.tasks.question_files import load_questions

        loaded = load_questions(questions.data)
        items = [item for item in loaded.items if not tasks or item.task.lower() in tasks]
        if not items:
            tasks_there = {item.task for item in loaded.items}
            raise ReellamaError(_no_such_task(questions.data, tasks_there))
        yield items, len(items), loaded.missing
        return
    from reellama.models.synthetic.assets.downloads import ASSETS
    from reellama.pipeline.evaluation.tasks import photograph_naming, synthetic_benchmark

    clips = questions.clips or CLIPS_PER_TASK
    assets = questions.assets or ASSETS
    if questions.split == photograph_naming.SPLIT_NAME:
        with temporary_folder() as folder:
            photographs = photograph_naming.photograph_items(
                clips, questions.seed, folder, assets=assets
            )
            yield photographs, clips, ()
        return
    asked_tasks = [task for task in TASKS if not tasks or task in tasks]
    with temporary_folder() as folder:
        drawn = synthetic_benchmark.benchmark_items(
            questions.split, clips, questions.seed, folder, tasks=asked_tasks, assets=assets
        )
        yield drawn, clips * len(asked_tasks), ()


def _no_such_task(where: object, names: Iterable[str]) -> str:
    return f"{where} has no such task; it has {', '.join(sorted(names))}"
