"""Generated tokens: their text, probabilities, and why the answer ended."""

import math
from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.llm.engine import ContextOverflow, Engine, PromptPart, Sampling, Text, Token
from tests.helpers import bare_llama
from tests.helpers.forced_sampling import FOREVER, ROUNDING, saying

pytestmark = pytest.mark.numeric

PROMPT: list[PromptPart] = [
    Text("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n", special=True),
    Text("<|im_start|>assistant\n", special=True),
]


def chosen_from(engine: Engine, tokens: list[Token]) -> np.ndarray:
    """The logits that llama.cpp has by itself for each token of an answer to PROMPT."""
    parts = (part for part in PROMPT if isinstance(part, Text))
    prompt = [i for part in parts for i in engine.tokenizer.encode(part.text, special=part.special)]
    return bare_llama.logits(engine.path, prompt, [token.id for token in tokens], engine.n_ctx)


def test_temperature_0_says_the_same_twice(engine: Engine) -> None:
    first = list(engine.generate(PROMPT, max_tokens=20))
    engine.clear()
    assert list(engine.generate(PROMPT, max_tokens=20)) == first
    assert engine.last.n_generated == len(first)


def test_the_llm_of_mini_knows_and_ends(smollm2: Path) -> None:
    with Engine(smollm2, n_ctx=64, n_threads=1) as engine:
        assert "Paris" in "".join(token.text for token in engine.generate(PROMPT, max_tokens=20))
        assert engine.last.stop_reason == "stop"


def test_temperature_0_takes_the_likeliest_token_every_time(engine: Engine) -> None:
    tokens = list(engine.generate(PROMPT, max_tokens=6))
    best = chosen_from(engine, tokens).argmax(axis=1)
    assert [token.id for token in tokens] == best.tolist()


def test_probabilities_are_the_softmax_of_the_models_own_logits(engine: Engine) -> None:
    tokens = list(engine.generate(PROMPT, saying("Rome"), max_tokens=3, n_probs=7))
    for token, row in zip(tokens, chosen_from(engine, tokens).astype(np.float64), strict=True):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        best = np.argsort(-p)[:7]
        assert token.p == pytest.approx(p[token.id], rel=1e-4)
        assert [text for text, _ in token.alternatives] == [
            engine.tokenizer.decode([i]) for i in best
        ]
        assert [p for _, p in token.alternatives] == pytest.approx(p[best], rel=1e-4)


def test_without_n_probs_no_probabilities_are_computed(engine: Engine) -> None:
    [token] = engine.generate(PROMPT, max_tokens=1, n_probs=0)
    assert math.isnan(token.p)
    assert token.alternatives == []


def test_looking_at_probabilities_changes_no_token(engine: Engine) -> None:
    """With them the likeliest is known already; without, llama.cpp's sampler finds it."""
    ids = []
    for n_probs in (5, 0):
        engine.clear()  # so that both read the same, and round alike
        tokens = engine.generate(PROMPT, max_tokens=24, n_probs=n_probs)
        ids.append([token.id for token in tokens])
    assert ids[0] == ids[1]


def test_a_stop_string_that_spans_tokens_is_not_shown(engine: Engine) -> None:
    tokens = list(engine.generate(PROMPT, saying("one two three END four"), stop=["three END"]))
    assert "".join(token.text for token in tokens) == "one two "
    assert engine.last.stop_reason == "stop string"
    assert engine.last.n_generated > len(tokens) + 1  # it took more than one token to see it


def test_a_stop_string_that_does_not_come_costs_no_text(engine: Engine) -> None:
    tokens = engine.generate(PROMPT, saying("one two three"), stop=["three END", "e!"])
    assert "".join(token.text for token in tokens) == "one two three"
    assert engine.last.stop_reason == "stop"


def test_characters_of_several_tokens_stream_whole(engine: Engine) -> None:
    text = "🦊 Ünïcödé 視頻 🎬"
    tokens = list(engine.generate(PROMPT, saying(text)))
    assert "".join(token.text for token in tokens) == text
    assert "" in [token.text for token in tokens]  # some token ends inside a character
    assert "\ufffd" not in "".join(token.text for token in tokens)


def test_max_tokens_ends_an_answer(engine: Engine) -> None:
    assert len(list(engine.generate(PROMPT, FOREVER, max_tokens=3))) == 3
    assert engine.last.stop_reason == "length"
    assert list(engine.generate(PROMPT, max_tokens=0)) == []


def test_a_full_context_ends_an_answer(tiny_llama: Path) -> None:
    with Engine(tiny_llama, n_ctx=256, n_threads=1) as engine:
        endless = Sampling(grammar="root ::= [a-z] root")
        tokens = list(engine.generate([Text("x" * 245)], endless, max_tokens=-1))
        assert engine.last.stop_reason == "context"
        assert engine.n_past == 256
        # BOS and 245 were there; the last token is not decoded.
        assert len(tokens) == 256 - 246 + 1
        assert len(list(engine.generate([Text("y")], endless, max_tokens=5))) == 5


def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_read(tiny_llama: Path) -> None:
    with Engine(tiny_llama, n_ctx=256, n_threads=1) as engine:
        engine.prefill([Text("abc")])
        with pytest.raises(ContextOverflow, match=r"takes 257 positions, .* has 256") as caught:
            next(engine.generate([Text("x" * 256)]))
        assert (caught.value.n_prompt, caught.value.n_ctx) == (257, 256)
        assert engine.n_past == 4
        assert engine.prefill([Text("x" * 255)]).n_read == 255


def test_an_empty_prompt_is_refused(engine: Engine) -> None:
    with pytest.raises(ReellamaError, match="prompt is empty"):
        engine.generate([])


def test_an_answer_ends_when_the_engine_is_used_for_another(engine: Engine) -> None:
    first = engine.generate(PROMPT, FOREVER)
    next(first)
    second = engine.generate(PROMPT, saying("Rome"))
    (token, *_) = second
    with pytest.raises(ReellamaError, match="used for something else"):
        next(first)
    engine.clear()
    (fresh_token, *_) = engine.generate(PROMPT, saying("Rome"))
    assert token.id == fresh_token.id
    assert abs(math.log(token.p / fresh_token.p)) < ROUNDING


def test_a_closed_engine_says_so(tiny_llama: Path) -> None:
    engine = Engine(tiny_llama, n_ctx=256)
    engine.close()
    with pytest.raises(ReellamaError, match="closed"):
        engine.prefill([Text("a")])
    engine.close()
