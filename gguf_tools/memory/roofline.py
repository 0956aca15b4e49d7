"""An upper bound on generation speed: memory bandwidth divided by the bytes read for a token.

Generating a token reads every weight once, so the memory bandwidth limits the tokens a second: the
roofline model (Williams et al., "Roofline", 2009).
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from reellama.gguf_tools.format.reader import TOKEN_EMBEDDINGS, GGUFFile

TRIES = 6
MEMORY_BYTES = 64 << 20  # that each thread reads; larger than its share of the caches
OUTPUT = "output.weight"  # without it the token embeddings are the output matrix


def read_bandwidth(n_threads: int) -> float:
    """Bytes a second that `n_threads` threads together read from memory, in the best of TRIES."""
    parts = [np.zeros(MEMORY_BYTES // 4, np.float32) for _ in range(n_threads)]
    for part in parts:
        part.fill(1.0)  # untouched zeros may all share one page
    seconds = []
    with ThreadPoolExecutor(n_threads) as pool:  # numpy lets other threads run meanwhile
        for _ in range(TRIES):
            begin = time.perf_counter()
            list(pool.map(np.max, parts))
            seconds.append(time.perf_counter() - begin)
    return MEMORY_BYTES * n_threads / min(seconds)


def bytes_of_a_token(file: GGUFFile) -> int:
    """Bytes of weights that are read to generate one token, with all experts of a mixture.

    The token embeddings do not count, since only one row is read, unless they are the output matrix
    as well.
    """
    total = sum(tensor.n_bytes for tensor in file.tensors.values())
    embeddings = file.tensors.get(TOKEN_EMBEDDINGS)
    return total - (embeddings.n_bytes if embeddings and OUTPUT in file.tensors else 0)
