"""Backgrounds of rendered clips: flat colours, gradients, noise, patterns, photographs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

# Photographs from the wheel of scikit-image that show no people and none of the object kinds.
_PHOTOGRAPHS = (
    ("skimage", "data/brick.png"),
    ("skimage", "data/grass.png"),
    ("skimage", "data/gravel.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/ihc.png"),
)
# Photographs in Debian packages: package -> pattern of files. The licences are in the packages'
# copyright files. The model card of a bundle that is trained with them must list them.
_WALLPAPER_FOLDER = Path("/usr/share/backgrounds")
_WALLPAPERS = {
    "mate-backgrounds": "mate/nature/*.jpg",
    "lomiri-wallpapers-16.04": "[!afu]*_by_*.jpg",  # without drawings
}


@dataclass(frozen=True)
class Background:
    """A background, drawn from a seed.

    form: a key of `_PAINTERS`, or "photo" for a crop of `photo`, uint8 RGB `[h, w, 3]`.
    """

    form: str
    seed: int
    photo: np.ndarray | None = field(default=None, repr=False, compare=False)

    def paint(self, width: int, height: int) -> Image.Image:
        """The background in RGB; the same size always gives the same pixels."""
        rng = np.random.default_rng(self.seed)
        if self.photo is not None:
            canvas = _photo(rng, width, height, self.photo)
        else:
            # All forms are smooth enough for half the size, which is faster to compute.
            coarse = _PAINTERS[self.form](rng, width // 2, height // 2)
            small = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
            canvas = small.resize((width, height), Image.Resampling.BILINEAR)
        if rng.random() < 0.3:
            canvas = _add_grain(rng, canvas)
        return canvas


def random_background(
    rng: np.random.Generator, photos: Sequence[np.ndarray] = (), *, p_photo: float = 0.3
) -> Background:
    """A random pattern, or a crop of one of `photos` with probability `p_photo`."""
    seed = int(rng.integers(2**32))
    if photos and rng.random() < p_photo:
        return Background("photo", seed, photos[int(rng.integers(len(photos)))])
    forms = list(_PAINTERS)
    return Background(forms[int(rng.integers(len(forms)))], seed)


def load_photos() -> list[np.ndarray]:
    """Photographs of installed packages, uint8 RGB [h, w, 3]; empty without the packages."""
    photos = []
    for package, name in _PHOTOGRAPHS:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / name).is_file():
                with Image.open(Path(folder) / name) as image:
                    image.thumbnail((512, 512))
                    photos.append(np.asarray(image.convert("RGB")))
    return photos


def load_wallpapers(assets: Path) -> list[np.ndarray]:
    """Photographs of Debian packages, installed or unpacked in `assets`; empty without them."""
    photos = []
    for package, pattern in _WALLPAPERS.items():
        own = assets / package
        folder = own if own.is_dir() else _WALLPAPER_FOLDER
        for path in sorted(folder.glob(pattern)):
            with Image.open(path) as image:
                image.draft("RGB", (768, 768))
                image.thumbnail((640, 640))
                photos.append(np.asarray(image.convert("RGB")))
    return photos


def _colour(rng: np.random.Generator) -> np.ndarray:
    """A colour of low or normal saturation, as in real scenes: float32 [3]."""
    colour = rng.uniform(0, 255, 3)
    grey = colour.mean()
    colour = grey + (colour - grey) * rng.uniform(0.2, 1.2)
    return np.clip(colour, 0, 255).astype(np.float32)


def _blend(share: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mix two colours `[3]` by the share `[h, w]` of the first: float32 `[h, w, 3]`."""
    share = share.astype(np.float32)[..., None]
    return second + share * (first - second)


def _axes(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """x [1, w] and y [h, 1], both from -1 to 1."""
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    return x, y


def _flat(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    return np.broadcast_to(_colour(rng), (height, width, 3))


def _linear(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    x, y = _axes(width, height)
    angle = rng.uniform(0, 2 * np.pi)
    share = (x * np.cos(angle) + y * np.sin(angle)) / 2.83 + 0.5
    return _blend(share, _colour(rng), _colour(rng))


def _radial(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    x, y = _axes(width, height)
    distance = np.hypot(x - rng.uniform(-0.8, 0.8), y - rng.uniform(-0.8, 0.8))
    return _blend(np.minimum(distance / rng.uniform(1.0, 2.0), 1), _colour(rng), _colour(rng))


def _noise(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    cells = int(rng.integers(3, 14))
    coarse = _colour(rng) + rng.normal(0, rng.uniform(10, 50), (cells, cells, 3))
    small = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32)


def _stripes(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    x, y = _axes(width, height)
    angle, waves = rng.uniform(0, 2 * np.pi), rng.uniform(2, 10)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * waves * np.pi)
    share = np.clip(wave * rng.uniform(0.6, 8.0) + 0.5, 0, 1)
    colour = _colour(rng)
    return _blend(share, colour, colour + rng.uniform(-70, 70, 3).astype(np.float32))


def _checks(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    x, y = _axes(width, height)
    cells = rng.uniform(1.5, 6)
    shift = rng.uniform(0, 2)
    share = (np.floor(x * cells + shift) + np.floor(y * cells * height / width + shift)) % 2
    colour = _colour(rng)
    return _blend(share, colour, colour + rng.uniform(-60, 60, 3).astype(np.float32))


def _photo(rng: np.random.Generator, width: int, height: int, photo: np.ndarray) -> Image.Image:
    """A random crop of the photograph, randomly mirrored, blurred and tinted."""
    tall, wide = photo.shape[:2]
    scale = min(tall / height, wide / width) * rng.uniform(0.4, 1.0)
    w, h = max(1, int(scale * width)), max(1, int(scale * height))
    left, top = int(rng.integers(wide - w + 1)), int(rng.integers(tall - h + 1))
    crop = photo[top : top + h, left : left + w]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    image = Image.fromarray(crop).resize((width, height), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(1, 5)))
    # A lookup table of 256 entries per channel changes contrast, tint and brightness.
    slopes = rng.uniform(0.4, 1.0) * rng.uniform(0.75, 1.25, (3, 1))
    table = (np.arange(256) - 128) * slopes + rng.uniform(80, 180)
    return image.point(np.clip(table, 0, 255).astype(int).ravel().tolist())


def _add_grain(rng: np.random.Generator, canvas: Image.Image) -> Image.Image:
    strength = int(rng.integers(4, 20))
    grain = rng.integers(-strength, strength + 1, (canvas.height, canvas.width, 1), dtype=np.int16)
    return Image.fromarray(np.clip(np.asarray(canvas) + grain, 0, 255).astype(np.uint8))


_PAINTERS = {
    "flat": _flat,
    "linear": _linear,
    "radial": _radial,
    "noise": _noise,
    "stripes": _stripes,
    "checks": _checks,
}
