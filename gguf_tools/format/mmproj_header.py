"""The header of an mmproj: the GGUF that holds the vision encoder and the projector for an LLM.

    header = mmproj_header(read_gguf("mmproj-SmolVLM2-F16.gguf"))
    header.projector_type, header.n_tokens(), header.width        # ("idefics3", 64, 2048)

Keys and defaults are those of llama.cpp's `tools/mtmd/clip.cpp`. Invalid values of a header become
None here; `reellama.gguf_tools.format.mmproj_checks` detects files that cannot be used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.header_cursor import HeaderCursor
from reellama.gguf_tools.format.reader import MAGIC, MAX_KEYS, MAX_NAME, VERSIONS, GGUFFile
from reellama.gguf_tools.format.vision_projector import FAMILIES, ProjectorFamily

MMPROJ_ARCHITECTURE, MMPROJ_TYPE = "clip", "mmproj"  # general.architecture, general.type
MAX_IMAGE_SIZE = 8192  # pixels; llama.cpp's limits, here and below
MAX_PATCH_SIZE = (1 << 16) - 1
MAX_NUMBER = 1 << 20  # of widths, layers and queries
LONG_QUERIES, SHORT_QUERIES = 96, 64  # of MiniCPM-V 2 and 2.5, and of those after
SHORT_VERSIONS = frozenset({3, 4, 5, 6, 100045})  # of clip.minicpmv_version
# Projectors whose tower is computed by clip.cpp's clip_graph_llava.
LLAVA_TOWERS = frozenset({"mlp", "mlp_norm", "ldp", "ldpv2", "adapter"})
DEEPSTACK = re.compile(r"v\.deepstack\.(\d+)\.fc1\.weight")


@dataclass(frozen=True)
class MmprojHeader:
    """The vision side of a header. Fields that are missing or invalid in the file are None.

    Attributes:
        path: of the file.
        has_vision, has_audio: whether the file has such an encoder.
        projector_type: "" if the header has none.
        family: of the projector; None for one that is not in FAMILIES.
        image_size: side of the tower's square input in pixels, 0 for any size.
        patch_size: side of a patch in pixels.
        merge: patches on a side of the square that becomes one token.
        n_queries: tokens of a picture, for tokens that lie on no grid.
        token_range: fewest and most tokens of a picture, for towers that take any size.
        tower_width, tower_layers: of the vision encoder.
        width: of a token; it must be the width of the LLM's embeddings.
        n_deepstack: further embeddings of each token, for the first layers of the LLM (Qwen3-VL).
        image_mean, image_std: of red, green and blue, to normalize pixels with.
        has_tiles: whether llama.cpp cuts large pictures into tiles.
        has_row_end: whether a token follows each row but the last.
        loses_first_patch: whether llama.cpp shifts the patches by one: it puts CLIP's class token
            behind them and reads it as the first (its issue 25814).
    """

    path: Path
    has_vision: bool
    has_audio: bool
    projector_type: str
    family: ProjectorFamily | None
    image_size: int | None
    patch_size: int | None
    merge: int
    n_queries: int | None
    token_range: tuple[int, int] | None
    tower_width: int | None
    tower_layers: int | None
    width: int | None
    n_deepstack: int
    image_mean: tuple[float, ...] | None
    image_std: tuple[float, ...] | None
    has_tiles: bool
    has_row_end: bool
    loses_first_patch: bool

    @property
    def token_side(self) -> int | None:
        """Side in pixels of the square that becomes one token."""
        return self.patch_size * self.merge if self.patch_size else None

    def grid(self, size: tuple[int, int] | None = None) -> tuple[int, int] | None:
        """Rows and columns of the tokens of a picture; None if they lie on no grid.

        size: width and height of the tower's input in pixels, for families that take any size.
        Others scale every picture to one size, and ignore it.
        """
        if self.family is None or not self.family.is_grid or not self.token_side:
            return None
        if side := self.family.grid_side:
            return side, side
        if not self.family.any_size:
            size = (self.image_size or 0,) * 2
        if size is None or min(size) < self.token_side:
            return None
        width, height = size
        return height // self.token_side, width // self.token_side

    def n_tokens(self, size: tuple[int, int] | None = None) -> int | None:
        """The number of tokens of a picture, or of a tile; None if it is unknown."""
        if self.family and not self.family.is_grid:
            return self.n_queries
        grid = self.grid(size)
        if grid is None or self.family is None:
            return None
        rows, columns = grid
        ends = rows - 1 if self.has_row_end else 0
        return rows * columns + ends + self.family.n_around


def mmproj_header(file: GGUFFile) -> MmprojHeader:
    """Return the vision side of a GGUF's header, which need not be that of an mmproj."""
    metadata = file.metadata
    projector_type = _projector_type(file)
    family = FAMILIES.get(projector_type)
    merge = family.merge if family else 1
    if family and family.merge_key:
        merge = _number(metadata, family.merge_key, MAX_PATCH_SIZE) or merge
    patch_size = _number(metadata, "clip.vision.patch_size", MAX_PATCH_SIZE)
    return MmprojHeader(
        path=file.path,
        has_vision=metadata.get("clip.has_vision_encoder") is True,
        has_audio=metadata.get("clip.has_audio_encoder") is True,
        projector_type=projector_type,
        family=family,
        image_size=_number(metadata, "clip.vision.image_size", MAX_IMAGE_SIZE, minimum=0),
        patch_size=patch_size,
        merge=merge,
        n_queries=_queries(metadata) if family and not family.is_grid else None,
        token_range=_token_range(metadata, family, patch_size, merge),
        tower_width=_number(metadata, "clip.vision.embedding_length"),
        tower_layers=_number(metadata, "clip.vision.block_count"),
        width=_width(file, family),
        n_deepstack=sum(1 for name in file.tensors if DEEPSTACK.fullmatch(name)),
        image_mean=_three(metadata.get("clip.vision.image_mean")),
        image_std=_three(metadata.get("clip.vision.image_std")),
        has_tiles=bool(family and family.tiles)
        or bool(metadata.get("clip.vision.image_grid_pinpoints")),
        has_row_end=bool(family and family.row_end and family.row_end in file.tensors),
        loses_first_patch=projector_type in LLAVA_TOWERS and "v.class_embd" in file.tensors,
    )


def is_mmproj(metadata: Mapping[str, Any]) -> bool:
    """Whether a header is that of an mmproj, by its metadata."""
    kinds = metadata.get("general.architecture"), metadata.get("general.type")
    return kinds[0] == MMPROJ_ARCHITECTURE or kinds[1] == MMPROJ_TYPE


def is_mmproj_file(path: Path) -> bool:
    """Whether a file is an mmproj, by its first keys; False where they cannot be read.

    The vocabulary, which makes a header long, comes after these keys and is not read.
    """
    try:
        with path.open("rb") as file:
            cursor = HeaderCursor(file, path.stat().st_size, path)
            if cursor.take(len(MAGIC)) != MAGIC or cursor.number("<I") not in VERSIONS:
                return False
            cursor.number("<Q")
            metadata: dict[str, Any] = {}
            for _ in range(cursor.count(MAX_KEYS, "keys")):
                key = cursor.string()
                if key.startswith("tokenizer."):
                    break
                metadata[key] = cursor.value()
            return is_mmproj(metadata)
    except (OSError, ValueError, GGUFError):
        return False


def has_builtin_tower(file: GGUFFile) -> bool:
    """Whether an LLM's own file includes a vision encoder, as in some of Ollama's models."""
    return not is_mmproj(file.metadata) and any(name.startswith("v.") for name in file.tensors)


def _projector_type(file: GGUFFile) -> str:
    """The family's name: for both senses, or the one for pictures."""
    for key in ("clip.projector_type", "clip.vision.projector_type"):
        name = file.metadata.get(key)
        if isinstance(name, str) and name and name.isprintable() and len(name) < MAX_NAME:
            if name == "mlp" and "mm.3.weight" in file.tensors:
                return "mlp_norm"
            return "qwen2.5vl_merger" if name == "qwen2.5o" else name
    return ""


def _width(file: GGUFFile, family: ProjectorFamily | None) -> int | None:
    """The width of a token: that of the projector's last tensor, or else the header's value."""
    if family:
        name, axis = family.width_at
        tensor = file.tensors.get(name)
        if tensor is not None and axis < len(tensor.shape):
            return tensor.shape[axis]
    return _number(file.metadata, "clip.vision.projection_dim")


def _queries(metadata: Mapping[str, Any]) -> int:
    """The number of queries of MiniCPM-V's resampler; older files have only a version."""
    stored = _number(metadata, "clip.minicpmv_query_num")
    is_short = _number(metadata, "clip.minicpmv_version") in SHORT_VERSIONS
    return stored or (SHORT_QUERIES if is_short else LONG_QUERIES)


def _token_range(
    metadata: Mapping[str, Any], family: ProjectorFamily | None, patch_size: int | None, merge: int
) -> tuple[int, int] | None:
    if family is None or not family.any_size:
        return None
    limits = [
        _number(metadata, f"clip.vision.image_{end}_pixels", MAX_IMAGE_SIZE**2)
        for end in ("min", "max")
    ]
    min_pixels, max_pixels = limits
    if family.pixel_limits and min_pixels and max_pixels and patch_size:
        area = (patch_size * merge) ** 2
        return max(1, min_pixels // area), max(1, max_pixels // area)
    return family.token_range


def _number(
    metadata: Mapping[str, Any], key: str, maximum: int = MAX_NUMBER, minimum: int = 1
) -> int | None:
    value = metadata.get(key)
    return value if type(value) is int and minimum <= value <= maximum else None


def _three(value: Any) -> tuple[float, ...] | None:
    """The three numbers of red, green and blue."""
    if not isinstance(value, list) or len(value) < 3:
        return None
    numbers = [x for x in value[:3] if isinstance(x, (int, float)) and math.isfinite(x)]
    return tuple(map(float, numbers)) if len(numbers) == 3 else None
