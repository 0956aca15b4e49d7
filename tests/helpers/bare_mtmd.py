"""libmtmd by itself, to compare with: what llama.cpp makes of a picture."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp.llama_cpp as llama
import llama_cpp.mtmd_cpp as mtmd
import numpy as np

from reellama.gguf_tools.runtime.backend import load_model

IMAGE = 1  # of enum mtmd_input_chunk_type
FLASH_ATTENTION_OFF = 0  # of enum llama_flash_attn_type


def embed_picture(path: Path, mmproj: Path, picture: np.ndarray) -> list[np.ndarray]:
    """The embeddings of each part of a picture: float32 `[tokens, n_embd]` for a view or a tile.

    `picture` is uint8 RGB `[height, width, 3]`. Computed on one thread without flash attention.
    """
    with load_model(path) as model:
        context = _open(mmproj, model.ptr)
        chunks = mtmd.mtmd_input_chunks_init()
        height, width, _ = picture.shape
        pixels = (ctypes.c_uint8 * picture.size).from_buffer_copy(picture.tobytes())
        bitmap = mtmd.mtmd_bitmap_init(width, height, pixels)
        marker = mtmd.mtmd_get_marker(context)
        text = mtmd.mtmd_input_text(marker, len(marker), True, True)
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        assert mtmd.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1) == 0
        found = []
        for i in range(mtmd.mtmd_input_chunks_size(chunks)):
            chunk = mtmd.mtmd_input_chunks_get(chunks, i)
            if mtmd.mtmd_input_chunk_get_type(chunk) != IMAGE:
                continue
            assert mtmd.mtmd_encode_chunk(context, chunk) == 0
            shape = mtmd.mtmd_input_chunk_get_n_tokens(chunk), model.n_embd
            output = mtmd.mtmd_get_output_embd(context)
            found.append(np.ctypeslib.as_array(output, shape).copy())
        mtmd.mtmd_bitmap_free(bitmap)
        mtmd.mtmd_input_chunks_free(chunks)
        mtmd.mtmd_free(context)
    return found


def _open(mmproj: Path, model: object) -> object:
    parameters = mtmd.mtmd_context_params_default()
    parameters.use_gpu = parameters.warmup = parameters.print_timings = False
    parameters.n_threads = 1
    parameters.flash_attn_type = FLASH_ATTENTION_OFF
    mtmd.mtmd_log_set(_silent, None)
    context = mtmd.mtmd_init_from_file(bytes(mmproj), model, parameters)
    assert context, f"libmtmd cannot open {mmproj}"
    return context


# A global, because a callback must stay referenced for as long as libmtmd may call it.
_silent = llama.llama_log_callback(lambda _level, _text, _data: None)
