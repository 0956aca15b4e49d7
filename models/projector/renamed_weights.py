"""Modules whose weights load from older files too, which have other names for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn


class RenamedWeights(nn.Module):
    """A module that finds weights under the `old_names` of its parameters, buffers and children.

    `old_names` maps an old name to the present one. It says nothing of the names in a child, which
    has `old_names` of its own.
    """

    old_names: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(_rename_old_keys)


def _rename_old_keys(
    module: RenamedWeights, weights: dict[str, Tensor], prefix: str, *_: object
) -> None:
    for key in [key for key in weights if key.startswith(prefix)]:
        name, dot, rest = key.removeprefix(prefix).partition(".")
        if name in module.old_names:
            weights[f"{prefix}{module.old_names[name]}{dot}{rest}"] = weights.pop(key)
