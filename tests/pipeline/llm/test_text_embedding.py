"""Texts as unit vectors: as many as are wanted, of as much text as fits."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime.backend import load_model
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm import text_embedding
from reellama.pipeline.llm.text_embedding import TextEmbedder, shortened

N_CTX = 64


@pytest.fixture(scope="module")
def embedder(tiny_llama: Path) -> Iterator[TextEmbedder]:
    with load_model(tiny_llama) as model:
        embedder = TextEmbedder(model, Tokenizer(model), N_CTX)
        yield embedder
        embedder.close()


def test_vectors_have_length_one_also_when_they_are_cut(embedder: TextEmbedder) -> None:
    (one, _), (other, n_tokens) = embedder.embed("a"), embedder.embed("another")
    assert n_tokens >= 7 and one != other
    for vector in (one, other, shortened(one, 7)):
        assert np.linalg.norm(vector) == pytest.approx(1)
    assert len(shortened(one, 7)) == 7
    assert np.dot(shortened(one, 7), one[:7]) > 0


def test_a_long_text_is_truncated_or_refused(embedder: TextEmbedder) -> None:
    vector, n_tokens = embedder.embed("x" * 10**7)
    assert n_tokens == N_CTX
    assert embedder.embed("x" * N_CTX)[0] == pytest.approx(vector)
    with pytest.raises(ReellamaError, match=f"more than {N_CTX} tokens"):
        embedder.embed("x" * 10**7, truncate=False)


def test_a_text_in_pieces_has_the_vector_of_the_whole(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = []
    with load_model(tiny_llama) as model:
        for piece in (N_CTX, 10):
            monkeypatch.setattr(text_embedding, "CHUNK", piece)
            embedder = TextEmbedder(model, Tokenizer(model), N_CTX)
            vectors.append(embedder.embed("a text of some length, to be read in pieces")[0])
            embedder.close()
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-5)


def test_a_long_text_ends_when_the_model_is_unloaded(tiny_llama: Path) -> None:
    with load_model(tiny_llama) as model:
        embedder = TextEmbedder(model, Tokenizer(model), 1 << 15)
        errors: list[ReellamaError] = []
        begun = threading.Event()

        def embed() -> None:
            begun.set()
            try:
                while True:
                    embedder.embed("x" * (1 << 15))
            except ReellamaError as error:
                errors.append(error)

        embedding = threading.Thread(target=embed)
        embedding.start()
        assert begun.wait(30)
        embedder.close()
        embedding.join(30)
        assert "unloaded" in str(errors[0])
