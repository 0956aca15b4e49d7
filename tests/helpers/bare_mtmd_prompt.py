"""llama.cpp's own way with pictures: a prompt of texts and pictures read by libmtmd's helper."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
from llama_cpp import mtmd_cpp as mtmd

from reellama.gguf_tools.runtime import backend


def last_logits(
    llm: Path, mmproj: Path, prompt: Sequence[str | np.ndarray], *, merge: bool = False
) -> np.ndarray:
    """Logits `[n_vocab]` after a prompt of texts and uint8 RGB pictures `[H, W, 3]`.

    merge: whether neighbouring pictures are frames of one video.
    """
    backend.init()
    with backend.load_model(llm) as model:
        parameters = llama.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = 2048, 512, 512
        parameters.n_threads = parameters.n_threads_batch = 1
        parameters.swa_full = True
        context = llama.llama_init_from_model(model.ptr, parameters)
        options = mtmd.mtmd_context_params_default()
        options.use_gpu = options.print_timings = False
        options.n_threads = 1
        mtmd.mtmd_helper_log_set(backend.log_callback, ctypes.c_void_p(None))
        vision = mtmd.mtmd_init_from_file(os.fsencode(mmproj), model.ptr, options)
        marker = mtmd.mtmd_get_marker(vision)
        text = b"".join(part.encode() if isinstance(part, str) else marker for part in prompt)
        pictures = [np.ascontiguousarray(p) for p in prompt if not isinstance(p, str)]
        bitmaps = [_bitmap(picture, merge) for picture in pictures]
        chunks = mtmd.mtmd_input_chunks_init()
        whole = mtmd.mtmd_input_text(
            text=text, text_len=len(text), add_special=True, parse_special=True
        )
        array = (mtmd.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
        status = mtmd.mtmd_tokenize(vision, chunks, ctypes.byref(whole), array, len(bitmaps))
        assert status == 0, status
        n_past = ctypes.c_int32(0)
        status = mtmd.mtmd_helper_eval_chunks(
            vision, context, chunks, 0, 0, 512, True, ctypes.byref(n_past)
        )
        assert status == 0, status
        n_vocab = llama.llama_vocab_n_tokens(model.vocab)
        logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (n_vocab,)).copy()
        for bitmap in bitmaps:
            mtmd.mtmd_bitmap_free(bitmap)
        mtmd.mtmd_input_chunks_free(chunks)
        mtmd.mtmd_free(vision)
        llama.llama_free(context)
    return logits


def _bitmap(picture: np.ndarray, merge: bool) -> mtmd.mtmd_bitmap_p:
    height, width, _ = picture.shape
    pixels = picture.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    bitmap = mtmd.mtmd_bitmap_init(width, height, pixels)
    assert bitmap
    mtmd.mtmd_bitmap_set_mergeable(bitmap, merge)
    return bitmap
