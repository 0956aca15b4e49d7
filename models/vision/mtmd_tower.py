"""The visual tower of a vision GGUF: an `mmproj` file in libmtmd, llama.cpp's multimodal library.

    with MtmdTower(mmproj, llm) as tower:
        layout = tower.layout(336, 336)
        embeddings = tower.encode(frames)     # [pictures, rows, columns, n_embd]

libmtmd scales, cuts and normalizes the frames as their family wants it, and its projector makes
embeddings for one LLM. A picture is one frame, or two where the family merges neighbours in time.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from llama_cpp import mtmd_cpp as mtmd

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.runtime.context_options import default_threads
from reellama.models.vision.mtmd_picture import TokenizedPicture

# Most embeddings that libmtmd computes at once, where a family can: more take memory, not time.
BATCH_TOKENS = 1024
# Families whose embeddings of a picture are learned queries, without a place in it.
WITHOUT_GRID = frozenset({"resampler", "minicpmv4_6", "glm_edge"})
# Families that show the whole picture before its tiles; all others show it after them.
OVERVIEW_FIRST = frozenset({"resampler", "minicpmv4_6"})


class VisionTowerError(ReellamaError):
    """An `mmproj` that cannot be used, or a frame that it cannot take."""


@dataclass(frozen=True)
class PictureLayout:
    """How a family puts a picture of one size into the prompt.

    begin, end: token ids around its embeddings.
    rows, columns: of the embeddings; one row where they have no place in the picture.
    offsets: int32 `[3, rows x columns]`, positions in time, down and to the right, for M-RoPE.
    n_positions: how far the position after the embeddings is from the first.
    n_frames: how many frames make one picture.
    """

    begin: tuple[int, ...]
    end: tuple[int, ...]
    rows: int
    columns: int
    offsets: np.ndarray
    n_positions: int
    n_frames: int

    @property
    def n_tokens(self) -> int:
        """Embeddings of a picture."""
        return self.rows * self.columns

    @property
    def n_cells(self) -> int:
        """What a picture takes in the KV cache."""
        return len(self.begin) + self.n_tokens + len(self.end)


class MtmdTower:
    """The encoder and projector of `mmproj`, for the LLM `llm`, whose weights are not loaded.

    Not thread-safe. Raises VisionTowerError, or GGUFError for a broken LLM.
    """

    def __init__(
        self, mmproj: Path, llm: Path, *, n_threads: int | None = None, use_gpu: bool = False
    ) -> None:
        self.path = mmproj
        metadata = read_gguf(mmproj).metadata
        self.family = str(
            metadata.get("clip.vision.projector_type") or metadata.get("clip.projector_type")
        )
        size = metadata.get("clip.vision.image_size")
        self.image_size = size if isinstance(size, int) else 224
        self._model = backend.load_model(llm, weights=False)
        pointer = _open(mmproj, self._model, n_threads or default_threads(), use_gpu)
        self._pointer = pointer
        self._free = weakref.finalize(self, _free, pointer, self._model)
        if not mtmd.mtmd_support_vision(pointer):
            self.close()
            raise VisionTowerError(f"{mmproj} hears and does not see: take one for pictures")
        self.n_embd = self._model.n_embd
        self.has_mrope = bool(mtmd.mtmd_decode_use_mrope(pointer))
        self.causal = not mtmd.mtmd_decode_use_non_causal(pointer, None)
        pair = TokenizedPicture(pointer, [(self.image_size, self.image_size)] * 2)
        self.n_merged_frames = 2 if len(pair.images) == 1 else 1
        self.layout = lru_cache(maxsize=64)(self._layout)

    @property
    def ptr(self) -> Any:
        """The `mtmd_context *`. Raises VisionTowerError when the tower was closed."""
        if not self._free.alive:
            raise VisionTowerError(f"the tower {self.path} was closed: make another one")
        return self._pointer

    def encode(
        self, frames: Sequence[np.ndarray], progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """uint8 RGB frames of one size -> float32 `[pictures, rows, columns, n_embd]`."""
        if len({frame.shape for frame in frames}) != 1:
            raise VisionTowerError("frames of different sizes: scale them to one")
        height, width = frames[0].shape[:2]
        layout = self.layout(width, height)
        groups = [frames[i : i + layout.n_frames] for i in range(0, len(frames), layout.n_frames)]
        embeddings: list[np.ndarray] = []
        while len(embeddings) < len(groups):
            embeddings += self._encode_batch(groups[len(embeddings) :], layout.n_tokens)
            if progress:
                progress(min(len(embeddings) * layout.n_frames, len(frames)), len(frames))
        shape = (len(groups), layout.rows, layout.columns, self.n_embd)
        return np.stack(embeddings).reshape(shape)

    def close(self) -> None:
        """Free the tower."""
        self._free()

    def __enter__(self) -> MtmdTower:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _layout(self, width: int, height: int) -> PictureLayout:
        """How a frame of this size stands in the prompt; `layout` remembers it."""
        picture = TokenizedPicture(self.ptr, [(width, height)])
        image = self._overview(picture)
        begin, end = picture.ids_around(image)
        if image > 0:  # its tiles come before it, and before them what opens the picture
            begin = begin[1:] if self.family == "idefics3" else begin or picture.ids_around(0)[0]
        n_tokens, n_positions = picture.size_of(image)
        offsets = picture.offsets_of(image)
        rows, columns = self._grid(n_tokens, offsets)
        return PictureLayout(begin, end, rows, columns, offsets, n_positions, self.n_merged_frames)

    def _overview(self, picture: TokenizedPicture) -> int:
        """Which of its images shows the whole picture. Tiles are for documents, not for video."""
        return 0 if self.family in OVERVIEW_FIRST else len(picture.images) - 1

    def _grid(self, n_tokens: int, offsets: np.ndarray) -> tuple[int, int]:
        """Rows and columns of a picture's embeddings; one row where they are no grid."""
        rows = columns = round(n_tokens**0.5)
        if self.has_mrope:
            rows, columns = int(offsets[1].max()) + 1, int(offsets[2].max()) + 1
        if rows * columns != n_tokens or self.family in WITHOUT_GRID:
            return 1, n_tokens
        return rows, columns

    def _encode_batch(
        self, groups: Sequence[Sequence[np.ndarray]], n_tokens: int
    ) -> list[np.ndarray]:
        """`[n_tokens, n_embd]` for each of the first groups, as many as libmtmd takes at once."""
        batch = mtmd.mtmd_batch_init(self.ptr)
        pictures: list[TokenizedPicture] = []  # they own what the batch points to
        chunks: list[Any] = []
        try:
            for group in groups:
                picture = TokenizedPicture(self.ptr, group)
                pictures.append(picture)
                chunk = picture.images[self._overview(picture)]
                if mtmd.mtmd_batch_add_chunk(batch, chunk):
                    break
                chunks.append(chunk)
            if not chunks or mtmd.mtmd_batch_encode(batch):
                reason = " ".join(backend.last_errors()[-1:])
                raise VisionTowerError(f"{self.path} could not encode a frame: {reason}")
            shape = (n_tokens, self.n_embd)
            rows = [mtmd.mtmd_batch_get_output_embd(batch, chunk) for chunk in chunks]
            return [np.ctypeslib.as_array(row, shape).copy() for row in rows]
        finally:
            mtmd.mtmd_batch_free(batch)


def _open(mmproj: Path, model: backend.Model, n_threads: int, use_gpu: bool) -> Any:
    """The `mtmd_context *` of a file. Closes the model where there is none."""
    parameters = mtmd.mtmd_context_params_default()
    parameters.use_gpu = use_gpu
    parameters.print_timings = False
    parameters.warmup = False  # it would encode a picture, as the first frame does
    parameters.n_threads = n_threads
    parameters.batch_max_tokens = BATCH_TOKENS
    mtmd.mtmd_helper_log_set(backend.log_callback, ctypes.c_void_p(None))
    pointer = mtmd.mtmd_init_from_file(os.fsencode(mmproj), model.ptr, parameters)
    if not pointer:
        path = model.path
        model.close()
        reason = " ".join((backend.last_errors() or ["it gave no reason"])[-1].split())
        raise VisionTowerError(f"llama.cpp cannot use {mmproj} with {path}: {reason}")
    return pointer


def _free(pointer: Any, model: backend.Model) -> None:
    mtmd.mtmd_free(pointer)
    model.close()
