"""Speed of several sequences at once: how they are read, and whose tokens count."""

import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.measuring import bench, bench_output
from reellama.gguf_tools.measuring.bench import grid
from reellama.gguf_tools.measuring.bench_runs import make_run
from reellama.gguf_tools.measuring.bench_tests import BenchTest
from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings

pytestmark = pytest.mark.measures


def test_several_sequences_at_once(tiny_llama: Path) -> None:
    names = ["pp16 x3", "tg4 @ d16 x3", "sp8 x3", "pp16+tg4 @ d8 x3"]
    tests = [BenchTest.parse(name) for name in names]
    setups = grid([tiny_llama], n_threads=[1], n_batch=[20], n_ubatch=[8])
    results = bench.run(setups, tests, 2)
    assert [result.test for result in results] == names
    for result, n in zip(results, (3 * 16, 3 * 4, 3 * 8, 3 * 20), strict=True):
        assert result.n_parallel == 3
        speeds = [1e9 * n / sample for sample in result.samples_ns]  # all sequences' tokens count
        assert result.avg_ts == pytest.approx(statistics.mean(speeds))
    assert json.loads(bench_output.as_json(results))[0]["samples_ts"][0] == pytest.approx(
        1e9 * 48 / results[0].samples_ns[0]
    )


def test_sequences_are_read_one_after_another_in_full_batches(tiny_llama: Path) -> None:
    """Whatever the batches are, each sequence ends with the logits that it has alone."""

    def last_logits(n_batch: int, n_parallel: int, n: int = 5) -> np.ndarray:
        settings = ContextSettings(n_batch=n_batch, n_ubatch=n_batch, n_threads=1)
        kinds = [BenchTest(kind, 5, n_parallel=n_parallel) for kind in ("pp", "tg")]
        with Context(model, 8, settings, n_seq=n_parallel, n_outputs=n_parallel) as context:
            read, write = (make_run(context, test) for test in kinds)
            read(kinds[0]._replace(n=n), 0)
            write(kinds[1]._replace(n=1), n)
            return context.logits(n_parallel).copy()

    with backend.load_model(tiny_llama, n_ctx=32) as model:
        alone = last_logits(8, 1)
        for n_batch in (4, 7, 32):
            assert np.allclose(last_logits(n_batch, 3), alone, atol=1e-3)
        assert not np.allclose(last_logits(8, 3, n=4), alone, atol=1e-3)


def test_too_many_sequences_are_refused(tiny_llama: Path) -> None:
    with pytest.raises(ReellamaError, match="257 sequences at once: llama.cpp takes 1 to 256"):
        bench.run(grid([tiny_llama]), [BenchTest("pp", 1, n_parallel=257)], 1)
    with pytest.raises(ReellamaError, match="9 sequences at once need -b 9 or more, and it is 8"):
        bench.run(grid([tiny_llama], n_batch=[8]), [BenchTest("tg", 1, n_parallel=9)], 1)
