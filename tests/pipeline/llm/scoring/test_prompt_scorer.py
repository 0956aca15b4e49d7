"""The tokens of a prompt, where nothing is asked about their probabilities."""

import math
from typing import Any

from reellama.gguf_tools.locate import find
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
