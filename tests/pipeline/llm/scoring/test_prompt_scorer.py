"""The tokens of a prompt, with and without probabilities."""

import math
from typing import Any

import pytest

from reellama.gguf_tools.locate import find
from reellama.gguf_tools.runtime.backend import load_model
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm.scoring.prompt_scorer import PromptScorer


def test_a_prompt_without_probabilities_needs_no_context() -> None:
    tokenizer = Tokenizer.from_path(find.smollm2())
    no_model: Any = None
    scorer = PromptScorer(no_model, tokenizer, n_ctx=256)
    ids = tokenizer.encode("A fox 🦊 runs.")
    tokens = scorer.score(ids, 0)
    assert [token.id for token in tokens] == ids
    assert "".join(token.text for token in tokens) == "A fox 🦊 runs."
    assert all(math.isnan(token.p) and not token.alternatives for token in tokens)
    scorer.close()


def test_a_prompt_with_several_answers_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, decoded = Context.decode, []

    def counted(context: Context, *inputs: Any, **options: Any) -> None:
        decoded.append(inputs)
        decode(context, *inputs, **options)

    monkeypatch.setattr(Context, "decode", counted)
    tokenizer = Tokenizer.from_path(find.smollm2())
    ids = tokenizer.encode("A fox runs.")
    with load_model(find.smollm2()) as model:
        scorer = PromptScorer(model, tokenizer, n_ctx=256)
        tokens = scorer.score(ids, 2)
        assert scorer.score(ids, 2) == tokens and len(decoded) == 1
        assert [len(token.alternatives) for token in scorer.score(ids, 3)[1:]] == [3] * 3
        assert scorer.score(tokenizer.encode("A dog runs."), 3)[1].id != tokens[1].id
        assert len(decoded) == 3
        scorer.close()
