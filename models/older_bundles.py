"""Translate the `bundle.json` of an older version into the present keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def updated_keys(data: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of any `bundle.json`, with its training stages as the flat list `stages`.

    Older files have the stages under `training`: as a list, or, still older, as the last stage with
    all earlier ones nested in its "before". The latter have no `slots` and `inverse_temperature`;
    the configs ("recipes") of their stages say both under other names.
    """
    data = dict(data)
    if "training" not in data:
        return data
    training = data.pop("training")
    nested = "stages" not in training
    stages = _nested_stages(training) if nested else list(training["stages"])
    data["stages"] = stages
    if nested:
        has_slots = any(stage["config"].get("see", {}).get("steps") for stage in stages)
        sharpness = stages[-1]["config"].get("sharpness", 1.0) if stages else 1.0
        data = {"slots": has_slots, "inverse_temperature": sharpness} | data
    return data


def _nested_stages(training: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The last stage and the stages nested in its "before" -> all stages, the first one first."""
    stages: list[dict[str, Any]] = []
    last: Mapping[str, Any] | None = training
    while last:
        results = {key: value for key, value in last.items() if key not in ("recipe", "before")}
        stages.insert(0, {"config": last.get("recipe", {}), **results})
        last = last.get("before")
    return stages
