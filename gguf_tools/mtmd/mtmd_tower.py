"""The visual tower of a vision GGUF: an `mmproj` file in libmtmd, llama.cpp's multimodal library.

    with MtmdTower(mmproj, llm) as tower:
        layout = tower.layout(336, 336)
        embeddings = tower.encode(frames)     # [pictures, rows, columns, n_embd]

libmtmd scales, cuts and normalizes frames as their family requires, and its projector makes
embeddings for one LLM. A picture is one frame, or two if the family merges neighbours in time.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import mtmd_cpp as mtmd

from reellama.gguf_tools.closeable import Closeable
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.mmproj_header import mmproj_header
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.mtmd.tokenized_picture import TokenizedPicture
from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.gguf_tools.threads import default_threads

DEFAULT_IMAGE_SIZE = 224  # side of the tower's input in pixels, if the header has none
# Largest number of embeddings in a batch, for families that support batches. A larger number takes
# more memory and saves no time.
BATCH_TOKENS = 1024
MAX_LAYOUTS = 64  # that are cached
# Families that put the whole picture before its tiles; all others put it after them.
OVERVIEW_FIRST = frozenset({"resampler", "minicpmv4_6"})


class VisionTowerError(ReellamaError):
    """An `mmproj` that cannot be used, or a frame that cannot be encoded."""


@dataclass(frozen=True)
class PictureLayout:
    """How a family puts a picture of one size into the prompt.

    Attributes:
        begin, end: token ids around the embeddings of the whole picture.
        rows, columns: of the embeddings; one row if they lie on no grid.
        tiled: the parts of a picture with its tiles in order: token ids, or None for an image (a
            tile or the whole picture).
        image_tokens: number of embeddings of each of these images. The numbers differ where
            pictures keep their shape.
    """

    begin: tuple[int, ...]
    end: tuple[int, ...]
    rows: int
    columns: int
    tiled: tuple[tuple[int, ...] | None, ...]
    image_tokens: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Number of embeddings of the whole picture."""
        return self.rows * self.columns

    @property
    def n_tiled_cells(self) -> int:
        """Cells of the context that the picture takes with all of its tiles."""
        return sum(self.image_tokens) + sum(map(len, filter(None, self.tiled)))


class MtmdTower(Closeable):
    """The encoder and projector of an `mmproj`. Not thread-safe.

    Args:
        mmproj: the file.
        llm: its LLM, of which only the vocabulary is loaded.
        n_threads: None for `default_threads`.
        use_gpu: whether to compute on a GPU.

    Attributes:
        image_size: side of the tower's input in pixels.
        n_embd: width of the embeddings.
        has_mrope: whether the LLM uses M-RoPE positions.
        causal: whether the LLM reads the embeddings with a causal mask.
        n_merged_frames: number of frames in a picture.

    Raises:
        VisionTowerError: the `mmproj` cannot be used.
        GGUFError: the LLM cannot be loaded.
    """

    def __init__(
        self, mmproj: Path, llm: Path, *, n_threads: int | None = None, use_gpu: bool = False
    ) -> None:
        self.path = mmproj
        self.header = mmproj_header(read_gguf(mmproj))
        self.image_size = self.header.image_size or DEFAULT_IMAGE_SIZE
        self._model = backend.load_model(llm, weights=False)
        self.tokenizer = Tokenizer(self._model)
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
        self._layouts: dict[tuple[int, int], PictureLayout] = {}

    @property
    def ptr(self) -> Any:
        """The `mtmd_context *`. Raises VisionTowerError when the tower was closed."""
        if not self._free.alive:
            raise VisionTowerError(f"the tower {self.path} was closed: make another one")
        return self._pointer

    def encode(
        self,
        frames: Sequence[np.ndarray],
        *,
        tiles: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """uint8 RGB frames `[H, W, 3]` of one size -> float32 `[pictures, rows, columns, n_embd]`.

        tiles: whether to encode the tiles of pictures, too. The tokens of all images of a picture
        then follow each other in one row.
        """
        if len({frame.shape for frame in frames}) != 1:
            raise VisionTowerError("frames of different sizes: scale them to one")
        height, width = frames[0].shape[:2]
        layout = self.layout(width, height)
        embeddings: list[np.ndarray] = []
        # Process a few pictures at a time, because libmtmd stores them as float32.
        step = self.n_merged_frames * max(1, BATCH_TOKENS // layout.n_tokens)
        for start in range(0, len(frames), step):
            embeddings += self._encode_some(frames[start : start + step], tiles)
            if progress:
                progress(min(start + step, len(frames)), len(frames))
        n_pictures = -(-len(frames) // self.n_merged_frames)
        rows, columns = (1, -1) if tiles else (layout.rows, layout.columns)
        return np.concatenate(embeddings).reshape(n_pictures, rows, columns, self.n_embd)

    def close(self) -> None:
        """Free the tower."""
        self._free()

    def layout(self, width: int, height: int) -> PictureLayout:
        """How a frame of this size stands in the prompt. Cached."""
        size = (width, height)
        # Not by `lru_cache`: it would hold this object, which is then freed much later.
        if size not in self._layouts:
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            self._layouts[size] = self._layout(width, height)
        return self._layouts[size]

    def _layout(self, width: int, height: int) -> PictureLayout:
        picture = TokenizedPicture(self.ptr, [(width, height)])
        image = self._overview(picture)
        begin, end = picture.ids_around(image)
        if image > 0:  # the tiles come before the whole picture, and begin tokens before them
            begin = (
                begin[1:]
                if self.header.projector_type == "idefics3"
                else begin or picture.ids_around(0)[0]
            )
        rows, columns = self._grid(picture, image, (width, height))
        counts = tuple(picture.n_tokens(i) for i in range(len(picture.images)))
        return PictureLayout(begin, end, rows, columns, picture.segments, counts)

    def _overview(self, picture: TokenizedPicture) -> int:
        """The index of the image that shows the whole picture."""
        return 0 if self.header.projector_type in OVERVIEW_FIRST else len(picture.images) - 1

    def _grid(
        self, picture: TokenizedPicture, image: int, size: tuple[int, int]
    ) -> tuple[int, int]:
        """Rows and columns of a picture's embeddings; one row where they are no grid."""
        n_tokens = picture.n_tokens(image)
        rows = columns = round(n_tokens**0.5)
        if (own := self.header.grid(size)) and own[0] * own[1] == n_tokens:
            rows, columns = own
        if self.has_mrope:
            _, y, x = picture.offsets(image)
            rows, columns = int(y.max()) + 1, int(x.max()) + 1
        family = self.header.family
        if rows * columns != n_tokens or family is None or not family.is_grid:
            return 1, n_tokens
        return rows, columns

    def _encode_some(self, frames: Sequence[np.ndarray], tiles: bool) -> list[np.ndarray]:
        """`[tokens, n_embd]` for each image of some frames, with or without the tiles."""
        step = self.n_merged_frames
        pictures = [
            TokenizedPicture(self.ptr, frames[i : i + step]) for i in range(0, len(frames), step)
        ]
        images = [
            (picture.images[i], picture.n_tokens(i))
            for picture in pictures
            for i in (range(len(picture.images)) if tiles else [self._overview(picture)])
        ]
        embeddings: list[np.ndarray] = []
        while len(embeddings) < len(images):
            embeddings += self._encode_batch(images[len(embeddings) :])
        return embeddings

    def _encode_batch(self, images: Sequence[tuple[Any, int]]) -> list[np.ndarray]:
        """Embeddings `[tokens, n_embd]` of each of the first images, as many as fit a batch.

        images: chunks of libmtmd, and how many tokens each has.
        """
        batch = mtmd.mtmd_batch_init(self.ptr)
        try:
            added = list(
                takewhile(lambda image: not mtmd.mtmd_batch_add_chunk(batch, image[0]), images)
            )
            if not added or mtmd.mtmd_batch_encode(batch):
                reason = " ".join(backend.last_errors()[-1:])
                raise VisionTowerError(f"{self.path} could not encode a frame: {reason}")
            outputs = [(mtmd.mtmd_batch_get_output_embd(batch, image), n) for image, n in added]
            return [np.ctypeslib.as_array(rows, (n, self.n_embd)).copy() for rows, n in outputs]
        finally:
            mtmd.mtmd_batch_free(batch)


def _open(mmproj: Path, model: backend.Model, n_threads: int, use_gpu: bool) -> Any:
    """The `mtmd_context *` of a file. On an error, it closes the model."""
    parameters = mtmd.mtmd_context_params_default()
    parameters.use_gpu = use_gpu
    parameters.print_timings = False
    parameters.warmup = False  # a warm-up encodes a picture, which the first frame does anyway
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
