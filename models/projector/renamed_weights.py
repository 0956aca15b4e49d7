"""Modules that also load weights from older files, where parameters have other names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import nn


class RenamedWeights(nn.Module):
    """A module that loads weights under the `old_names` of its parameters, buffers and children.

    `old_names` maps an old name to the present one. Names inside of a child are in the `old_names`
    of the child.
    """

    old_names: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(_rename_old_keys)


def names_in_file(module: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Name of each weight in the module -> its name in a file that holds `names`."""
    file_names = {name: name for name in names}
    for path, child in module.named_modules():
        if isinstance(child, RenamedWeights):
            _rename_old_keys(child, file_names, f"{path}." if path else "")
    return file_names


def _rename_old_keys(
    module: RenamedWeights, weights: dict[str, Any], prefix: str, *_: object
) -> None:
    """Rename the keys of `weights` in place; a pre-hook of `load_state_dict`."""
    for key in [key for key in weights if key.startswith(prefix)]:
        name, dot, rest = key.removeprefix(prefix).partition(".")
        if name in module.old_names:
            weights[f"{prefix}{module.old_names[name]}{dot}{rest}"] = weights.pop(key)
