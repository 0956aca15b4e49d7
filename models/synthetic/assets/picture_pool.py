"""The pictures that one clip is drawn with: those of one style, and photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reellama.models.synthetic.assets.picture_variants import photo_patch, tint
from reellama.models.synthetic.assets.pictures import Picture
from reellama.models.synthetic.assets.shapes import COLOURS

UNNAMED = "something"  # the kind of an object without a name


@dataclass(frozen=True)
class PicturePool:
    """Images for one clip.

    Attributes:
        pictures: cut-out pictures of one style.
        names: of object kinds; those that are not in the clip serve as wrong answers.
        photos: for backgrounds, uint8 RGB `[h, w, 3]`.
        cut_outs: photographs of objects without a name.
        tint_share: probability that a picture is drawn in shades of one colour.
    """

    pictures: Sequence[Picture]
    names: Sequence[str]
    photos: Sequence[np.ndarray] = ()
    cut_outs: Sequence[Picture] = ()
    tint_share: float = 0.15

    def pick(self, rng: np.random.Generator, count: int = 1) -> list[Picture]:
        """`count` random pictures of different kinds."""
        picked: list[Picture] = []
        while len(picked) < count:
            picture = self.pictures[int(rng.integers(len(self.pictures)))]
            if all(picture.kind != other.kind for other in picked):
                picked.append(picture)
        return [self._tint(rng, p) if rng.random() < self.tint_share else p for p in picked]

    def unnamed_picture(self, rng: np.random.Generator) -> Picture:
        """An object without a name: a cut-out, or a random patch of a photograph."""
        if self.cut_outs and rng.random() < 0.6:
            return self.cut_outs[int(rng.integers(len(self.cut_outs)))]
        return photo_patch(rng, self.photos[int(rng.integers(len(self.photos)))], UNNAMED)

    def _tint(self, rng: np.random.Generator, picture: Picture) -> Picture:
        if picture.style == "shapes":
            return picture
        return tint(picture, str(rng.choice(list(COLOURS))))
