"""Several answers at once from one model: sequences side by side in one llama.cpp context.

Every step decodes the next token of all answers together with a piece of the prompts that are
still being read, so a long prompt holds nobody up (continuous batching, as in Orca, OSDI 2022).
Reading the weights once for all of them is what makes it quick.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.runtime.context import BatchSpan, Context, ContextSettings
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm.generation_job import (
    Failed,
    GenerationJob,
    Stopped,
    tell,
)
from reellama.pipeline.llm.kv_cache import KVCache
from reellama.pipeline.llm.prompt import (
    PromptPart,
    Text,
    TokenizedPrompt,
    TokenSpan,
    tokenize_prompt,
)
from reellama.pipeline.llm.text_stream import TextStream
from reellama.pipeline.llm.token_sampling import Sampler
from reellama.pipeline.llm.token_scorer import ScoredToken, TokenScorer

N_BATCH = 512  # positions a step
# Of these, positions of prompts while answers grow: their readers wait for the step to end.
N_READ = 64
# A new prompt takes over the sequence that it goes on from if it keeps more than this share of it.
MIN_REUSED_SHARE = 0.5


@dataclass(eq=False)
class _Answer:
    """A job, and what its answer is made with."""

    job: GenerationJob
    sampler: Sampler
    stream: TextStream[ScoredToken]
    unread: deque[TokenSpan] = field(default_factory=deque)  # of the prompt
    since: float = 0.0
    chosen: int | None = None  # the last token, not decoded yet
    shown: frozenset[int] = frozenset()  # special tokens that are part of the text


@dataclass(frozen=True)
class _SlotSpan:
    """Tokens that go into a batch with others: their sequence, and whether the logits of the last
    one are wanted."""

    tokens: TokenSpan
    sequence: int
    wants_logits: bool

    @property
    def span(self) -> BatchSpan:
        tokens = self.tokens
        first_output = len(tokens) - self.wants_logits
        return BatchSpan(tokens.inputs, tokens.start, self.sequence, first_output, tokens.offsets)


@dataclass(eq=False)
class _Slot:
    """A sequence: what its memory holds, and the answer that is using it."""

    cache: KVCache
    answer: _Answer | None = None
    used: float = 0.0  # when, by the monotonic clock


class Batcher:
    """A model with `n_parallel` sequences of `n_ctx` positions each, and the thread that runs it.

    What waits for a sequence waits here without limit. What goes wrong with one job ends that job
    alone. `close` ends all of them with `Stopped`, and so does `submit` from then on. Should the
    thread itself end by an error, `failure` is that error, all jobs end with it, and `on_failure`
    is called, in that thread.
    Raises ReellamaError for a model or adapter that cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_parallel: int = 4,
        n_ctx: int = 4096,
        n_threads: int | None = None,
        n_gpu_layers: backend.GpuLayers = 0,
        lora: Sequence[tuple[Path, float]] = (),
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        with ExitStack() as opened:
            self.model = opened.enter_context(
                backend.load_model(path, n_gpu_layers=n_gpu_layers, n_ctx=n_parallel * n_ctx)
            )
            self._ctx = Context(
                self.model,
                n_ctx,
                ContextSettings(n_batch=N_BATCH, n_ubatch=N_BATCH, n_threads=n_threads),
                n_seq=n_parallel,
                n_outputs=n_parallel,
                swa_full=True,
            )
            opened.callback(self._ctx.close)
            if lora:
                self._ctx.set_adapters(lora)
            self._opened = opened.pop_all()
        self.n_ctx = self._ctx.n_ctx
        self.n_embd = self._ctx.n_embd
        self.tokenizer = Tokenizer(self.model)
        tokens = self.model.file.metadata.get("tokenizer.ggml.tokens")
        lengths = (len(token.encode()) for token in tokens) if isinstance(tokens, list) else ()
        self._longest_token = max(lengths, default=256)  # bytes
        self._drafts = TokenScorer(self.tokenizer, self._ctx.n_vocab)
        self._slots = [_Slot(KVCache(self._ctx.ptr, i)) for i in range(n_parallel)]
        self._inbox: queue.SimpleQueue[_Answer | None] = queue.SimpleQueue()
        self._waiting: deque[_Answer] = deque()
        self.failure: BaseException | None = None
        self._on_failure = on_failure
        self._closed = False
        self._closing = threading.Lock()  # no job comes in after the None that ends the thread
        self._thread = threading.Thread(target=self._run, name=f"batcher {path.name}", daemon=True)
        self._thread.start()

    def tokenize_prompt(self, prompt: Sequence[PromptPart]) -> TokenizedPrompt:
        """Tokenize a prompt.

        Raises ReellamaError for soft tokens that do not fit the model, and for texts that cannot
        fit the context: of those it reads nothing.
        """
        least = self.least_positions(sum(len(p.text) for p in prompt if isinstance(p, Text)))
        if least > self.n_ctx:
            raise _too_long(f"at least {least}", self.n_ctx)
        layout = tokenize_prompt(prompt, self.tokenizer, self.n_embd)
        if not layout.keys:
            raise ReellamaError("the prompt is empty")
        return layout

    def least_positions(self, n_characters: int) -> int:
        """Positions that a text of so many characters takes at least: told without reading it."""
        return n_characters // self._longest_token

    def submit(self, job: GenerationJob) -> None:
        """Answer a job as soon as a sequence is free.

        Its grammar is parsed here, in the caller's thread, so that it holds nobody up. Raises
        ReellamaError for a prompt that is too long or options that cannot be used, and Stopped
        after `close`.
        """
        job.limit = min(job.limit, self.n_ctx)
        if len(job.layout.keys) >= job.limit:
            raise _too_long(str(len(job.layout.keys)), job.limit)
        if self._closed:
            raise Stopped
        sampler = Sampler(job.options.sampling, self.model, self.n_ctx)
        shown = frozenset(self.tokenizer.single_tokens(job.shown))
        answer = _Answer(job, sampler, TextStream(job.options.stop), shown=shown)
        answer.since = time.perf_counter()
        with self._closing:
            if self._closed:
                raise Stopped
            self._inbox.put(answer)

    def close(self) -> None:
        """Stop, and free the model."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._inbox.put(None)
        self._thread.join()
        self._opened.close()

    def _run(self) -> None:
        reason: Exception = Stopped()
        try:
            self._answer_all()
        except BaseException as error:  # noqa: BLE001  # nobody else would hear of it
            self.failure = error
            reason = Failed(error)
        with self._closing:
            self._closed = True
        for slot in self._slots:
            self._end(slot, reason)
        while not self._inbox.empty():
            if (answer := self._inbox.get()) is not None:
                self._waiting.append(answer)
        for answer in self._waiting:
            tell(answer.job, reason)
        if self.failure is not None:
            self._on_failure()

    def _answer_all(self) -> None:
        """Answer until the end is asked for."""
        while self._admit():
            busy = [slot for slot in self._slots if slot.answer is not None]
            try:
                self._step(busy)
            except Exception as error:  # noqa: BLE001  # those who wait must hear of it
                for slot in busy:
                    slot.cache.clear()  # what the memory holds is not certain now
                    self._end(slot, error)

    def _admit(self) -> bool:
        """Give free sequences to those who wait; with nothing to do, wait. False means the end."""
        for slot in self._slots:
            if slot.answer is not None and slot.answer.job.cancelled:
                self._end(slot, None)
        while True:
            idle = all(slot.answer is None for slot in self._slots) and not self._waiting
            try:
                while True:
                    answer = self._inbox.get(block=idle)
                    if answer is None:
                        return False
                    self._waiting.append(answer)
                    idle = False
            except queue.Empty:
                pass
            free = [slot for slot in self._slots if slot.answer is None]
            for answer in [each for each in self._waiting if each.job.cancelled]:
                self._waiting.remove(answer)
                tell(answer.job, None)
            while free and self._waiting:
                answer = self._next_in_line()
                try:
                    self._begin(answer, free)
                except Exception as error:  # noqa: BLE001  # it ends this job alone
                    tell(answer.job, error)
                free = [slot for slot in free if slot.answer is None]
            if len(free) < len(self._slots):
                return True

    def _next_in_line(self) -> _Answer:
        """Take the one that waits the longest of the client that has the fewest answers now."""
        running = Counter(slot.answer.job.client for slot in self._slots if slot.answer)
        answer = min(self._waiting, key=lambda each: running[each.job.client])
        self._waiting.remove(answer)
        return answer

    def _begin(self, answer: _Answer, free: Sequence[_Slot]) -> None:
        """Start on the sequence that holds most of the prompt, or on the one unused the longest."""
        job = answer.job

        def kept(slot: _Slot) -> int:
            common = slot.cache.common_prefix(job.layout.keys)
            return common if common > MIN_REUSED_SHARE * len(slot.cache) else 0

        slot = max(free, key=lambda slot: (kept(slot), -slot.used))
        keys = job.layout.keys
        # The last position is always read: its logits are needed.
        common = min(slot.cache.common_prefix(keys), len(keys) - 1)
        reused = slot.cache.keep(job.layout.reusable(common))
        job.stats.prompt_tokens, job.stats.reused_tokens = len(keys), reused
        answer.unread, now = deque(job.layout.spans_after(reused)), time.perf_counter()
        job.stats.queue_seconds, answer.since = now - answer.since, now
        slot.answer = answer

    def _step(self, busy: Sequence[_Slot]) -> None:
        """One batch of soft tokens where any are next, and one of token ids."""
        for soft in (True, False):
            if pieces := _pieces(busy, soft):
                # llama.cpp computes neighbours together when their numbers follow each other.
                pieces.sort(key=lambda piece: piece.sequence)
                self._ctx.decode_batch(
                    [piece.span for piece in pieces], causal=pieces[0].tokens.causal
                )
                ends = accumulate(len(piece.tokens) for piece in pieces)
                for piece, end in zip(pieces, ends, strict=True):
                    self._advance(self._slots[piece.sequence], piece, end - 1)

    def _advance(self, slot: _Slot, piece: _SlotSpan, index: int) -> None:
        """Note that a piece was decoded; choose the next token where its logits are there."""
        answer = slot.answer
        assert answer is not None
        slot.cache.extend(piece.tokens)
        if answer.unread:
            rest = answer.unread.popleft()[len(piece.tokens) :]
            if len(rest):
                answer.unread.appendleft(rest)
        if not piece.wants_logits:
            return
        stats, now = answer.job.stats, time.perf_counter()
        if stats.generated_tokens == 0:
            stats.prompt_seconds, answer.since = now - answer.since, now
        stats.generate_seconds = now - answer.since
        try:
            self._choose(slot, answer, index)
        except Exception as error:  # noqa: BLE001  # such as a grammar that lets nothing follow
            self._end(slot, error)

    def _choose(self, slot: _Slot, answer: _Answer, index: int) -> None:
        job, stats = answer.job, answer.job.stats
        if job.options.max_tokens == 0:
            stats.stop_reason = "length"
            return self._end(slot, None)
        logits = self._ctx.logits_at(index)
        best = self._drafts.best(logits, job.options.n_probs)
        if job.options.sampling.takes_likeliest:
            token = int(logits.argmax())
        else:
            token = answer.sampler.sample(self._ctx.ptr, lambda: logits, index)
        if self.tokenizer.is_eog(token):
            stats.stop_reason, stats.end_token = "stop", token
        else:
            answer.chosen = token
            stats.generated_tokens += 1
            draft = self._drafts.score(token, best, answer.shown)
            for released, text in answer.stream.push(draft, draft.piece):
                tell(job, released.with_text(text))
            full = len(slot.cache) >= job.limit or stats.generated_tokens == job.options.max_tokens
            stats.stop_reason = "stop" if answer.stream.stopped else "length" if full else None
            stats.stop_text = answer.stream.stop_text
        if stats.stop_reason:
            if not answer.stream.stopped:
                for released, text in answer.stream.flush():
                    tell(job, released.with_text(text))
            self._end(slot, None)
        return None

    def _end(self, slot: _Slot, error: Exception | None) -> None:
        """Free a sequence. Its memory stays: the next question may go on from it."""
        answer, slot.answer = slot.answer, None
        slot.used = time.monotonic()
        if answer is not None:
            tell(answer.job, error)


def _too_long(n_prompt: str, limit: int) -> ReellamaError:
    return ReellamaError(
        f"the prompt takes {n_prompt} positions, but the context has {limit}: send less, or start "
        "the server with a larger --n-ctx"
    )


def _pieces(busy: Sequence[_Slot], soft: bool) -> list[_SlotSpan]:
    """What is decoded next, of this kind: a token of each answer that grows, pieces of prompts.

    Prompts share the room, and what short ones leave goes to the long ones.
    """
    growing = [slot for slot in busy if slot.answer and not slot.answer.unread]
    reading = sorted((slot for slot in busy if slot not in growing), key=_n_unread)
    pieces = [piece for slot in growing if (piece := _next_piece(slot, soft, 1))]
    room = N_READ if growing else N_BATCH
    for i, slot in enumerate(reading):
        share = room // (len(reading) - i)
        if share and (piece := _next_piece(slot, soft, share)):
            if not piece.tokens.causal:  # llama.cpp has one kind of mask for a batch
                if not pieces:
                    return [piece]
                continue
            pieces.append(piece)
            room -= len(piece.tokens)
    return pieces


def _n_unread(slot: _Slot) -> int:
    return sum(map(len, slot.answer.unread)) if slot.answer else 0


def _next_piece(slot: _Slot, soft: bool, room: int) -> _SlotSpan | None:
    """What this sequence decodes next, if it is of this kind: at most `room` positions, or all
    tokens that see each other."""
    answer, sequence = slot.answer, slot.cache.sequence
    if answer is None:
        return None
    if not answer.unread:
        if soft or answer.chosen is None:
            return None
        return _SlotSpan(TokenSpan([answer.chosen], slot.cache.end), sequence, wants_logits=True)
    span = answer.unread[0]
    if (span.soft is not None) != soft:
        return None
    piece = span[:room] if span.causal else span
    last = len(answer.unread) == 1 and len(piece) == len(span)
    return _SlotSpan(piece, sequence, wants_logits=last)
