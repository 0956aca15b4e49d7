"""Train the stages of a config one after the other; finished stages are skipped.

Every stage makes a bundle, in a folder with the stage's name. A later stage with that name in
`init_from` continues from the bundle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.bundle import Bundle
from reellama.models.bundle_config import BundleConfig
from reellama.models.config_tables import unknown_name_error
from reellama.models.training import distributed
from reellama.models.training.captions.clip_sources import ReadVideo
from reellama.models.training.config import MultiStageConfig, StageConfig, comparable
from reellama.models.training.train_stage import train_stage


def train_stages(
    config: MultiStageConfig,
    out: Path,
    *,
    work: Path,
    assets: Path,
    report: Callable[[str], None],
    only: str | None = None,
    processes: int | None = None,
    read_video: ReadVideo | None = None,
) -> Bundle:
    """Train what is left of the stages, and return the bundle of the last one.

    Args:
        config: the stages.
        out: folder for the folders of the bundles.
        work: folder for checkpoints, from which a killed run continues.
        assets: the download folder of picture sets.
        report: receives lines of progress.
        only: name of the only stage to train; stages that it continues from must be finished.
        processes: number of processes that share each step, in place of the stages' own.
        read_video: reads footage, for stages that train on it.

    Raises:
        ReellamaError: a finished stage was trained with other settings, or see `train_stage`.
    """
    stages = selected(config, only)
    bundles = {stage.stage: out / stage.stage for stage in config.stages}
    for stage in stages:
        if is_finished(config, stage, out):
            report(f"{stage.stage}: finished, in {out / stage.stage}")
            continue
        _check_parents(config, stage, out)
        report(f"{stage.stage}: from {stage.init_from or 'new weights'}")
        train = partial(
            train_stage,
            stage if processes is None else replace(stage, processes=processes),
            out / stage.stage,
            work=work / stage.stage,
            assets=assets,
            report=report,
            bundles=bundles,
            read_video=read_video,
        )
        if (processes or stage.processes) == 1 or distributed.is_launched():
            train()
        else:
            distributed.spawn(train, processes or stage.processes)
        report(f"{stage.stage}: written to {out / stage.stage}")
    return Bundle.load(out / stages[-1].stage)


def selected(config: MultiStageConfig, only: str | None) -> list[StageConfig]:
    """The stage called `only`, or all for None. Raises ReellamaError for an unknown name."""
    stages = [stage for stage in config.stages if only in (None, stage.stage)]
    if not stages:
        raise unknown_name_error("stage", str(only), [stage.stage for stage in config.stages])
    return stages


def is_finished(config: MultiStageConfig, stage: StageConfig, out: Path) -> bool:
    """Whether the bundle of a stage exists.

    Raises ReellamaError if the stage, or one that it continues from, has other settings now.
    """
    path = out / stage.stage / "bundle.json"
    if not path.exists():
        return False
    recorded = {record.get("stage"): record["config"] for record in BundleConfig.read(path).stages}
    for part in _lineage(config, stage):
        now = json.loads(json.dumps(part.to_json()))  # lists for tuples, as in the file
        difference = _first_difference(comparable(recorded.get(part.stage, {})), comparable(now))
        if difference:
            raise ReellamaError(
                f"{path}: was trained with another {difference} of stage {part.stage}; remove its "
                "folder to train it again, or choose another --out"
            )
    return True


def _lineage(config: MultiStageConfig, stage: StageConfig) -> list[StageConfig]:
    """The stages of the config that a stage continues from, in order, and the stage itself."""
    by_name = {other.stage: other for other in config.stages}
    lineage = [stage]
    while lineage[0].init_from in by_name:
        lineage.insert(0, by_name[lineage[0].init_from])
    return lineage


def _check_parents(config: MultiStageConfig, stage: StageConfig, out: Path) -> None:
    """Raise ReellamaError unless the stages that a stage needs are finished."""
    names = {other.stage for other in config.stages}
    for name in (stage.init_from, stage.average_with):
        if name in names and not (out / name / "bundle.json").exists():
            raise ReellamaError(
                f"stage {stage.stage} begins with {name}, which is not in {out}; train that first"
            )


def _first_difference(recorded: Mapping[str, Any], now: Mapping[str, Any], name: str = "") -> str:
    """The first key whose value differs, such as "align.steps"; "" if none does."""
    for key in [*now, *(key for key in recorded if key not in now)]:
        before, after = recorded.get(key), now.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            return _first_difference(before, after, f"{name}{key}.")
        return f"{name}{key}"
    return ""
