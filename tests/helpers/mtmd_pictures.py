"""What libmtmd, llama.cpp's own library for pictures, makes of a picture of some size."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp import mtmd_cpp as mtmd

IMAGE = 1  # of enum mtmd_input_chunk_type


@contextmanager
def opened(llm: Path, mmproj: Path) -> Iterator[Any]:
    """An `mtmd_context *`, NULL where libmtmd refuses the pair. No weight is computed with."""
    options = llama_cpp.llama_model_default_params()
    options.use_extra_bufts, options.n_gpu_layers = False, 0
    model = llama_cpp.llama_model_load_from_file(str(llm).encode(), options)
    how = mtmd.mtmd_context_params_default()
    how.use_gpu, how.warmup, how.n_threads = False, False, 1
    context = mtmd.mtmd_init_from_file(str(mmproj).encode(), model, how)
    try:
        yield context
    finally:
        if context:
            mtmd.mtmd_free(context)
        llama_cpp.llama_model_free(model)


def n_tokens(context: Any, *sizes: tuple[int, int]) -> list[int]:
    """How many tokens each image of pictures of these sizes, (width, height), becomes.

    A picture of several tiles is several images; frames of a video may become one.
    """
    parts = []
    for size in sizes:
        bitmap = mtmd.mtmd_bitmap_init(*size, None)
        mtmd.mtmd_bitmap_set_mergeable(bitmap, True)
        parts.append(mtmd.mtmd_input_part(bitmap=bitmap))
    pointers = (ctypes.POINTER(mtmd.mtmd_input_part) * len(parts))(*map(ctypes.pointer, parts))
    chunks = mtmd.mtmd_input_chunks_init()
    try:
        assert mtmd.mtmd_tokenize_from_parts(context, chunks, pointers, len(parts), False) == 0
        found = (
            mtmd.mtmd_input_chunks_get(chunks, i)
            for i in range(mtmd.mtmd_input_chunks_size(chunks))
        )
        return [
            mtmd.mtmd_input_chunk_get_n_tokens(chunk)
            for chunk in found
            if mtmd.mtmd_input_chunk_get_type(chunk) == IMAGE
        ]
    finally:
        mtmd.mtmd_input_chunks_free(chunks)
        for part in parts:
            mtmd.mtmd_bitmap_free(part.bitmap)
