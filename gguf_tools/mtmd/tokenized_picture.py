"""A picture tokenized by libmtmd: images to encode, and the token ids around them."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_cpp import mtmd_cpp as mtmd

from reellama.gguf_tools.errors import ReellamaError

IMAGE = 1  # of enum mtmd_input_chunk_type


class TokenizedPicture:
    """One or more neighbouring frames, tokenized together so that the family may merge them.

    Args:
        context: an `mtmd_context *`.
        frames: uint8 RGB `[height, width, 3]`, or `(width, height)` for the layout only.

    Attributes:
        images: an `mtmd_input_chunk *` for each picture or tile that the frames become.
    """

    def __init__(self, context: Any, frames: Sequence[np.ndarray | tuple[int, int]]) -> None:
        self._chunks = mtmd.mtmd_input_chunks_init()
        self._free = weakref.finalize(self, mtmd.mtmd_input_chunks_free, self._chunks)
        bitmaps = [_bitmap(frame) for frame in frames]
        parts = [mtmd.mtmd_input_part(bitmap=bitmap) for bitmap in bitmaps]
        pointers = (ctypes.POINTER(mtmd.mtmd_input_part) * len(parts))(*map(ctypes.pointer, parts))
        status = mtmd.mtmd_tokenize_from_parts(context, self._chunks, pointers, len(parts), False)
        for bitmap in bitmaps:
            mtmd.mtmd_bitmap_free(bitmap)
        if status:
            raise ReellamaError(f"libmtmd cannot take a frame (status {status})")
        n = mtmd.mtmd_input_chunks_size(self._chunks)
        self._all = [mtmd.mtmd_input_chunks_get(self._chunks, i) for i in range(n)]
        self._at = [i for i in range(n) if mtmd.mtmd_input_chunk_get_type(self._all[i]) == IMAGE]
        self.images = [self._all[i] for i in self._at]

    def ids_around(self, image: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids right before and right after an image."""
        return self._ids(self._at[image] - 1), self._ids(self._at[image] + 1)

    @property
    def segments(self) -> tuple[tuple[int, ...] | None, ...]:
        """All parts in order: token ids, or None for an image."""
        return tuple(None if i in self._at else self._ids(i) for i in range(len(self._all)))

    def n_tokens(self, image: int) -> int:
        """Number of embeddings of an image."""
        return int(mtmd.mtmd_input_chunk_get_n_tokens(self.images[image]))

    def offsets(self, image: int) -> np.ndarray:
        """M-RoPE positions (t, y, x) of an image's embeddings, int32 `[3, n]`."""
        tokens = mtmd.mtmd_input_chunk_get_tokens_image(self.images[image])
        n = self.n_tokens(image)
        positions = (mtmd.mtmd_image_tokens_get_decoder_pos(tokens, 0, i) for i in range(n))
        return np.array([(pos.t, pos.y, pos.x) for pos in positions], np.int32).T

    def _ids(self, index: int) -> tuple[int, ...]:
        if not 0 <= index < len(self._all) or index in self._at:
            return ()
        n = ctypes.c_size_t()
        ids = mtmd.mtmd_input_chunk_get_tokens_text(self._all[index], ctypes.byref(n))
        return tuple(ids[: n.value])


def _bitmap(frame: np.ndarray | tuple[int, int]) -> Any:
    if isinstance(frame, tuple):
        bitmap = mtmd.mtmd_bitmap_init(*frame, None)
    else:
        height, width, _ = frame.shape
        pixels = np.ascontiguousarray(frame)
        data = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmap = mtmd.mtmd_bitmap_init(width, height, data)
    mtmd.mtmd_bitmap_set_mergeable(bitmap, True)
    return bitmap
