"""What a `bundle.json` of an older version says, in the keys of the present one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def updated_keys(data: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of any `bundle.json` with its stages as the flat list `stages`.

    Older files have them under `training`: as a list, or the last one as a "recipe" with all
    others nested in its "before". Those did not store what the projector was trained for, which
    the recipes say under other names.
    """
    data = dict(data)
    if "training" not in data:
        return data
    training = data.pop("training")
    nested = "stages" not in training
    stages = _nested_stages(training) if nested else list(training["stages"])
    data["stages"] = stages
    if nested:
        filled = any(stage["config"].get("see", {}).get("steps") for stage in stages)
        sharpness = stages[-1]["config"].get("sharpness", 1.0) if stages else 1.0
        data = {"slots": filled, "inverse_temperature": sharpness} | data
    return data


def _nested_stages(training: Mapping[str, Any]) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = []
    last: Mapping[str, Any] | None = training
    while last:
        rest = {key: value for key, value in last.items() if key not in ("recipe", "before")}
        stages.insert(0, {"config": last.get("recipe", {}), **rest})
        last = last.get("before")
    return stages
