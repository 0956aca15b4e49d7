"""Pictures derived from others: tinted in one colour, or random patches of a photograph."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from reellama.models.synthetic.assets.pictures import PICTURE_SIZE, Picture
from reellama.models.synthetic.assets.shapes import COLOURS


def tint(picture: Picture, colour: str) -> Picture:
    """The picture in shades of one colour of `COLOURS`, named after it: "blue dog"."""
    rgba = picture.rgba.astype(np.float32)
    light = rgba[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32) / 255  # luma of Rec. 601
    shade = 0.35 + 0.65 * light[..., None]
    rgb = shade * np.array(COLOURS[colour], np.float32)
    pixels = np.concatenate([rgb, rgba[..., 3:]], axis=-1).astype(np.uint8)
    return Picture(f"{colour} {_plain(picture.kind)}", picture.style, pixels, picture.lettered)


def _plain(kind: str) -> str:
    """The kind without a colour of its own: "brown bear" -> "bear"."""
    first, _, noun = kind.partition(" ")
    other_colours = ("black", "brown", "orange", "pink", "grey", "light")
    return noun if noun and (first in COLOURS or first in other_colours) else kind


def photo_patch(rng: np.random.Generator, photo: np.ndarray, kind: str) -> Picture:
    """A patch of a photograph with a random outline and soft edges: an object without a name."""
    height, width = photo.shape[:2]
    side = int(min(height, width) * rng.uniform(0.2, 0.6))
    left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    crop = Image.fromarray(photo[top : top + side, left : left + side])
    mask = Image.new("L", (PICTURE_SIZE, PICTURE_SIZE))
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(5, 11))))
    reach = rng.uniform(0.55, 1.0, len(angles)) * (PICTURE_SIZE / 2 - 3)
    stretch = rng.uniform(0.4, 1.0, 2)
    middle = PICTURE_SIZE / 2
    corners = [
        (middle + float(stretch[0] * r * np.cos(a)), middle + float(stretch[1] * r * np.sin(a)))
        for a, r in zip(angles, reach, strict=True)
    ]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 4))))
    rgba = crop.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BILINEAR).convert("RGBA")
    rgba.putalpha(mask)
    return Picture(kind, "patch", np.asarray(rgba))
