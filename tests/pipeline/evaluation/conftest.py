"""A small set of real photographs with captions, from the wheel of scikit-image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

CAPTIONS = {
    "astronaut": "a woman in an orange suit smiles,a woman before a flag,the woman is smiling",
    "chelsea": "a cat looks up,a cat with green eyes,the face of a ginger cat",
    "coffee": "a cup of coffee with a spoon,a cup on a table,hot coffee in a cup",
    "motorcycle_left": "a motorcycle in a garage,a motorcycle stands there,motorcycles indoors",
    "rocket": "a rocket before its launch,a rocket at night,the rocket stands on its pad",
    "coins": "old coins in rows,many coins,coins on a grey ground",
}
CROPS = 2  # of each photograph: the left and the right part


@pytest.fixture(scope="session")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file of two parts of each photograph, which overlap, with four captions each."""
    folder = tmp_path_factory.mktemp("captioned")
    rows = []
    for name, captions in CAPTIONS.items():
        picture = np.asarray(_photograph(name).convert("RGB"))
        step = picture.shape[1] // 4
        for part in range(CROPS):
            path = folder / f"{name}-{part}.png"
            crop = Image.fromarray(picture[:, part * step : (part + 3) * step])
            crop.thumbnail((160, 160))
            crop.save(path)
            texts = [*captions.split(","), f"{captions.split(',')[0]} in part {part}"]
            rows.append({"video": path.name, "captions": texts})
    file = folder / "captioned.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def _photograph(name: str) -> Image.Image:
    folder = Path(skimage.__file__).parent / "data"
    return Image.open(next(folder.glob(f"{name}.*")))
