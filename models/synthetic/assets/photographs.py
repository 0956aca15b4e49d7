"""Photographs of things that training never saw, panned and zoomed, with their right names.

They are the cut-outs of the Debian package tuxpaint-stamps-default (licences: its copyright
file) that are photographs of a kind that ImageNet has; `data/photographs.csv` names them and their
classes. Training draws nothing of their kinds: what a bundle knows of them, it knows from ImageNet.
Other cut-outs, `data/cutouts.csv`, teach it what photographs look like, and no names.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path

from PIL import Image

from gguf_tools.errors import ReellamaError
from models.synthetic.assets.downloads import ASSETS
from models.synthetic.assets.picture_pool import UNNAMED
from models.synthetic.assets.pictures import DATA, Picture, fit_square

PACKAGE = "tuxpaint-stamps-default"
INSTALLED = Path("/usr/share/tuxpaint/stamps")
CUT_OUT_SIDE = 256  # and of one that is trained with


def stamps_folder(assets: Path = ASSETS) -> Path:
    """The folder of the photographs: installed, or in `material`.

    Raises ReellamaError when it is in neither.
    """
    for folder in (assets / PACKAGE, INSTALLED):
        if folder.is_dir():
            return folder
    raise ReellamaError(
        f"no photographs: install Debian's {PACKAGE}, or put its folder `stamps` there as "
        f"{assets / PACKAGE}"
    )


@functools.cache
def load_cut_outs(assets: Path = ASSETS) -> list[Picture]:
    """Photographs of other kinds, for training: things without a name; none without the package."""
    try:
        source = stamps_folder(assets)
    except ReellamaError:
        return []
    with (DATA / "cutouts.csv").open(newline="") as file:
        paths = [source / row["stamp"] for row in csv.DictReader(file)]
    found = []
    for path in paths:
        with Image.open(path) as image:
            rgba = fit_square(image.convert("RGBA"), CUT_OUT_SIDE)
        found.append(Picture(UNNAMED, "photograph", rgba))
    return found
