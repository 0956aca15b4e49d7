"""Modules whose weights load from older files too, which have other names for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import nn


class RenamedWeights(nn.Module):
    """A module that finds weights under the `old_names` of its parameters, buffers and children.

    `old_names` maps an old name to the present one. It says nothing of the names in a child, which
    has `old_names` of its own.
    """

    old_names: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(_rename_old_keys)


def names_in_file(module: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """What a file with weights of these `names` calls each weight, by its name in the module."""
    found = {name: name for name in names}
    for path, child in module.named_modules():
        if isinstance(child, RenamedWeights):
            _rename_old_keys(child, found, f"{path}." if path else "")
    return found


def _rename_old_keys(
    module: RenamedWeights, weights: dict[str, Any], prefix: str, *_: object
) -> None:
    for key in [key for key in weights if key.startswith(prefix)]:
        name, dot, rest = key.removeprefix(prefix).partition(".")
        if name in module.old_names:
            weights[f"{prefix}{module.old_names[name]}{dot}{rest}"] = weights.pop(key)
