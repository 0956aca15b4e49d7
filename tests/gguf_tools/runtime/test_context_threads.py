"""How many threads a context computes with."""

from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.runtime.backend import load_model
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings


@pytest.mark.parametrize("n_threads", [None, 2])
def test_a_block_is_computed_by_one_thread_and_what_follows_as_before(
    tiny_llama: Path, n_threads: int | None
) -> None:
    ids = np.arange(5, 9, dtype=np.int32)
    settings = ContextSettings(n_threads=n_threads)
    with load_model(tiny_llama) as model, Context(model, 64, settings) as context:
        before = context.n_threads
        with context.single_threaded():
            context.decode(ids, 0)
            assert context.n_threads == 1
        assert context.n_threads == before
