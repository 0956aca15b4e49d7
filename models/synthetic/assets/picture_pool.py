"""What one clip may be drawn with: pictures of one style, photographs, names of what is absent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.synthetic.assets.picture_variants import photo_patch, tint
from models.synthetic.assets.pictures import Picture
from models.synthetic.assets.shapes import COLOURS

UNNAMED = "something"  # the kind of what has no name


@dataclass(frozen=True)
class PicturePool:
    """What a story may use: pictures of one style, names that are asked for in vain, photos, and
    photographs of things that have no name here."""

    pictures: Sequence[Picture]
    names: Sequence[str]
    photos: Sequence[np.ndarray] = ()
    cut_outs: Sequence[Picture] = ()
    tint_share: float = 0.15  # share of the pictures that are drawn in shades of one colour

    def pick(self, rng: np.random.Generator, count: int = 1) -> list[Picture]:
        """Pictures of different kinds."""
        found: list[Picture] = []
        while len(found) < count:
            picture = self.pictures[int(rng.integers(len(self.pictures)))]
            if all(picture.kind != other.kind for other in found):
                found.append(picture)
        return [self._tint(rng, p) if rng.random() < self.tint_share else p for p in found]

    def unnamed_picture(self, rng: np.random.Generator) -> Picture:
        """A thing out of a photograph: cut out by hand, or a blob of anything."""
        if self.cut_outs and rng.random() < 0.6:
            return self.cut_outs[int(rng.integers(len(self.cut_outs)))]
        return photo_patch(rng, self.photos[int(rng.integers(len(self.photos)))], UNNAMED)

    def _tint(self, rng: np.random.Generator, picture: Picture) -> Picture:
        if picture.style == "shapes":
            return picture
        return tint(picture, str(rng.choice(list(COLOURS))))
