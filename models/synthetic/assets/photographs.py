"""Cut-out photographs from the Debian package tuxpaint-stamps-default.

The licences are in the package's copyright file. `data/photographs.csv` lists the cut-outs for
evaluation, with their ImageNet classes. Training never draws objects of these kinds, so a bundle
can name them only by its ImageNet labels. `data/cutouts.csv` lists the cut-outs for training, where
they are objects without a name.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path

from PIL import Image

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.synthetic.assets.downloads import ASSETS
from reellama.models.synthetic.assets.picture_pool import UNNAMED
from reellama.models.synthetic.assets.pictures import DATA, Picture, fit_square

PACKAGE = "tuxpaint-stamps-default"
INSTALLED = Path("/usr/share/tuxpaint/stamps")
CUT_OUT_SIDE = 256  # pixels


def stamps_folder(assets: Path = ASSETS) -> Path:
    """The folder of the photographs: in `assets`, or where the package installs them.

    Raises ReellamaError when it is in neither place.
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
    """Unnamed cut-outs for training; empty without the package."""
    try:
        source = stamps_folder(assets)
    except ReellamaError:
        return []
    with (DATA / "cutouts.csv").open(newline="") as file:
        paths = [source / row["stamp"] for row in csv.DictReader(file)]
    pictures = []
    for path in paths:
        with Image.open(path) as image:
            rgba = fit_square(image.convert("RGBA"), CUT_OUT_SIDE)
        pictures.append(Picture(UNNAMED, "photograph", rgba))
    return pictures
