"""Run the stages of a config one after the other: what is finished is skipped, the rest goes on.

Every stage makes a bundle in a folder of its own, named for the stage. A later stage that names it
in `init_from` learns on from there.
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
        out: receives a folder for each stage.
        work: keeps what a later run of an unfinished stage goes on with.
        only: the name of the one stage to train; those before it must be finished.
        processes: that share each step, in place of what each stage says.
        read_video: reads footage, for stages that learn from it.

    Raises ReellamaError for a finished stage that was trained with other settings.
    """
    stages = selected(config, only)
    for stage in stages:
        if is_finished(config, stage, out):
            report(f"{stage.stage}: finished, in {out / stage.stage}")
            continue
        _check_parents(config, stage, out)
        report(f"{stage.stage}: from {stage.init_from or 'new weights'}")
        ready = partial(
            train_stage,
            stage if processes is None else replace(stage, processes=processes),
            out / stage.stage,
            work=work / stage.stage,
            assets=assets,
            report=report,
            bundles={one.stage: out / one.stage for one in config.stages},
            read_video=read_video,
        )
        if (processes or stage.processes) == 1 or distributed.is_launched():
            ready()
        else:
            distributed.spawn(ready, processes or stage.processes)
        report(f"{stage.stage}: written to {out / stage.stage}")
    return Bundle.load(out / stages[-1].stage)


def selected(config: MultiStageConfig, only: str | None) -> list[StageConfig]:
    """The stage called `only`, or all; raises ReellamaError when there is none of that name."""
    stages = [one for one in config.stages if only in (None, one.stage)]
    if not stages:
        raise unknown_name_error("stage", str(only), [one.stage for one in config.stages])
    return stages


def is_finished(config: MultiStageConfig, stage: StageConfig, out: Path) -> bool:
    """Whether the bundle of a stage is there.

    Raises ReellamaError when the stage, or one that it comes from, has other settings now.
    """
    path = out / stage.stage / "bundle.json"
    if not path.exists():
        return False
    recorded = {one.get("stage"): one["config"] for one in BundleConfig.read(path).stages}
    for one in _line(config, stage):
        now = json.loads(json.dumps(one.to_json()))  # lists for tuples, as in the file
        difference = _first_difference(comparable(recorded.get(one.stage, {})), comparable(now))
        if difference:
            raise ReellamaError(
                f"{path}: was trained with another {difference} of stage {one.stage}; remove its "
                "folder to train it again, or choose another --out"
            )
    return True


def _line(config: MultiStageConfig, stage: StageConfig) -> list[StageConfig]:
    """A stage and those of the config that it comes from, the first one first."""
    by_name = {one.stage: one for one in config.stages}
    line = [stage]
    while line[0].init_from in by_name:
        line.insert(0, by_name[line[0].init_from])
    return line


def _check_parents(config: MultiStageConfig, stage: StageConfig, out: Path) -> None:
    for name in (stage.init_from, stage.average_with):
        if (
            any(name == one.stage for one in config.stages)
            and not (out / name / "bundle.json").exists()
        ):
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
