"""Soft tokens go in exactly: a model's own embedding rows give the logits of their tokens."""

from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.format import reader
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm.engine import Engine, Text
from tests.helpers import tiny_model

pytestmark = pytest.mark.numeric

TEXT = (
    "The old lighthouse keeper climbed the narrow stairs every evening, carrying a small lamp "
    "and a book about distant islands. When the wind rose over the bay, he wrote down the hour, "
    "the colour of the clouds, and the names of the ships that passed. Nobody ever asked him to "
    "read these notes aloud, but he kept them in order for many years."
)
N = 64  # positions compared


@pytest.mark.parametrize("model", ["smollm2", "gemma"])
def test_embedding_rows_give_the_logits_of_their_tokens(
    model: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(model)
    scale = np.float32(reader.read_gguf(path).embedding_scale)
    with Engine(path, n_ctx=256, n_threads=1) as engine:
        text, ids = first_tokens(engine.tokenizer)
        rows = reader.token_embeddings(path, ids)
        by_token = engine.logits_all([Text(text)])
        by_row = engine.logits_all([rows * scale])
        assert by_token.shape == by_row.shape == (N, engine.tokenizer.n_vocab)
        assert (by_token.argmax(axis=1) == by_row.argmax(axis=1)).all()
        assert np.abs(by_token - by_row).max() < 0.001
        if scale != 1:  # without it, hardly a prediction agrees
            unscaled = engine.logits_all([rows[:16]])
            assert (by_token[:16].argmax(axis=1) == unscaled.argmax(axis=1)).mean() < 0.2


def first_tokens(tokenizer: Tokenizer) -> tuple[str, list[int]]:
    """The text of the first N tokens of TEXT, among them the one that a model wants in front."""
    bos = [tokenizer.bos] if tokenizer.add_bos and tokenizer.bos is not None else []
    ids = [*bos, *tokenizer.encode(TEXT)][:N]
    text = tokenizer.decode(ids)
    assert [*bos, *tokenizer.encode(text)] == ids
    assert len(ids) == N
    return text, ids


@pytest.mark.parametrize("arch", ["llama", "qwen2vl", "mamba"])
def test_every_kind_of_position_takes_soft_tokens(arch: str, tmp_path: Path) -> None:
    """qwen2vl has positions in time, height and width; mamba has a state in place of a cache."""
    path = tiny_model.write(tmp_path / "model.gguf", arch)
    text = "soft tokens, hard tokens"
    with Engine(path, n_ctx=256, n_batch=8, n_threads=1) as engine:
        rows = reader.token_embeddings(path, engine.tokenizer.encode(text[5:12]))
        by_token = engine.logits_all([Text(text)])
        by_row = engine.logits_all([Text(text[:5]), rows, Text(text[12:])])
    np.testing.assert_allclose(by_row, by_token, atol=1e-3)
