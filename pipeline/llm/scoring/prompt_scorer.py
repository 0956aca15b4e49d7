"""How likely each token of a prompt was after those before it, in a context of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from reellama.gguf_tools.runtime.backend import Model
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings
from reellama.gguf_tools.runtime.free_cores import long_computation
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm.scoring.token_scorer import ScoredToken, Token, TokenScorer
from reellama.pipeline.llm.text_stream import TextStream

# Positions that are read at a time. The logits of each are kept until the next are read: those of
# 64 take 40 MB in a vocabulary of 152,000 tokens.
PIECE = 64


class PromptScorer:
    """Scores prompts of up to `n_ctx` tokens with a loaded model. Thread-safe."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        n_ctx: int,
        lora: Sequence[tuple[Path, float]] = (),
    ) -> None:
        self._model, self._n_ctx, self._lora = model, n_ctx, lora
        self._opened = ExitStack()
        self._scorer = TokenScorer(tokenizer, tokenizer.n_vocab)
        self._lock = threading.Lock()
        # The last result: each of several answers to one prompt asks for it.
        self._last_request: tuple[tuple[int, ...], int] | None = None
        self._last_tokens: list[Token] = []

    @cached_property
    def _context(self) -> Context:
        """The context, whose KV cache takes memory: it is made when a prompt is first decoded."""
        settings = ContextSettings(n_batch=PIECE, n_ubatch=PIECE)
        with ExitStack() as opened:
            context = opened.enter_context(
                Context(self._model, self._n_ctx, settings, n_outputs=PIECE)
            )
            if self._lora:
                context.set_adapters(self._lora)
            self._opened = opened.pop_all()
        return context

    def score(
        self, ids: Sequence[int], n_probs: int, check: Callable[[], None] = lambda: None
    ) -> list[Token]:
        """The tokens of a prompt, with `n_probs` alternatives each, or without probabilities for 0.

        The first one has no probability: its `p` is nan. Special tokens have their names as texts.
        `check` is called before each piece that is read, and may raise.
        """
        request = tuple(ids), n_probs
        with self._lock:
            if request != self._last_request:
                self._last_tokens = self._score(ids, n_probs, check)
                self._last_request = request
            return list(self._last_tokens)

    def _score(self, ids: Sequence[int], n_probs: int, check: Callable[[], None]) -> list[Token]:
        stream: TextStream[ScoredToken] = TextStream()
        texts = []
        best: list[tuple[int, float]] = []
        rows = self._rows(ids, check) if n_probs else None
        for token in ids:
            scored = self._scorer.score(token, best, visible_special_ids=(token,))
            texts += stream.push(scored, scored.piece)
            best = self._scorer.best(next(rows), n_probs) if rows is not None else []
        return [scored.with_text(text) for scored, text in [*texts, *stream.flush()]]

    def _rows(self, ids: Sequence[int], check: Callable[[], None]) -> Iterator[np.ndarray]:
        """The logits after each token, float32 [n_vocab]; they hold until the next ones."""
        self._context.clear()
        with long_computation():
            for start in range(0, len(ids), PIECE):
                check()
                piece = np.array(ids[start : start + PIECE], np.int32)
                self._context.decode(piece, start, first_output=0)
                yield from self._context.logits(len(piece))

    def close(self) -> None:
        """Free the context."""
        with self._lock:
            self._opened.close()


def without_prefix(tokens: Sequence[Token], text: str) -> list[Token]:
    """The tokens of a text, whose own texts are no more than that.

    What a tokenizer puts before a text, such as a token for the beginning or a space, is left out.
    """
    n_before = max(0, sum(len(token.text) for token in tokens) - len(text))
    kept = []
    for token in tokens:
        kept.append(replace(token, text=token.text[n_before:]))
        n_before = max(0, n_before - len(token.text))
    return kept
