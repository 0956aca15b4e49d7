"""docs/vision-models.md says of each family, and each pooling, what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from reellama.gguf_tools.format.vision_projector import FAMILIES
from reellama.models.token_pooling.options import AUTO, POOLING_METHODS

PAGE = (Path(__file__).parents[1] / "docs/vision-models.md").read_text()


def table(first_heading: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading, cell by cell."""
    lines = PAGE.split(f"| {first_heading} |")[1].splitlines()[2:]
    rows = [line for line in lines[: lines.index("")] if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_every_family_has_its_row() -> None:
    rows = table("models")
    assert [row[0] for row in rows] == [family.models for family in FAMILIES.values()]
    for family, row in zip(FAMILIES.values(), rows, strict=True):
        _, name, pooled, positions, see_each_other, merged, checked = row
        assert name == ("`mlp`, with a norm" if family.name == "mlp_norm" else f"`{family.name}`")
        in_grid = family.is_grid and not family.n_around and not family.row_end
        assert pooled == ("within and between frames" if in_grid else "between frames")
        assert positions == ("M-RoPE" if family.mrope else "")
        assert see_each_other.startswith("yes") == family.non_causal
        assert merged == (str(family.merged_frames) if family.merged_frames > 1 else "")
        assert checked


def test_every_pooling_has_its_row() -> None:
    names = [re.sub("`", "", row[0]) for row in table("`--pooling`")]
    assert names == [AUTO, *POOLING_METHODS]
