"""Generates several answers at once: sequences of one llama.cpp context.

Every step decodes the next token of all answers together with a chunk of the prompts that are
still being read, so that a long prompt delays no answer: continuous batching, as in Orca (OSDI
2022), with chunked prefill, as in Sarathi-Serve (OSDI 2024). It is fast because the weights are
read once for all of them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm.batching.generation_job import (
    Failed,
    GenerationJob,
    JobUpdate,
    Stopped,
    deliver,
)
from reellama.pipeline.llm.batching.scheduler import JobQueue
from reellama.pipeline.llm.batching.sequence_slots import JobState, SequenceSlot
from reellama.pipeline.llm.batching.step_planner import N_BATCH, SequenceSpan, StepPlanner
from reellama.pipeline.llm.cached_tokens import CachedTokens
from reellama.pipeline.llm.prompt import PromptPart, Text, TokenizedPrompt, tokenize_prompt
from reellama.pipeline.llm.scoring.token_scorer import TokenScorer
from reellama.pipeline.llm.text_stream import TextStream
from reellama.pipeline.llm.token_sampling import Sampler

# A prompt prefers a sequence if it can reuse more than this share of the sequence's cells.
MIN_REUSED_SHARE = 0.5


class Batcher:
    """A model with `n_parallel` sequences of `n_ctx` positions each, and the thread that runs it.

    Any number of jobs may wait for a sequence. An error in one job ends that job alone. `close`
    ends all jobs with `Stopped`, which `submit` raises from then on. If the thread itself ends with
    an error, `failure` is that error, all jobs end with it, and `on_failure` is called in the
    thread.
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
        self.lora = lora
        self.n_ctx = self._ctx.n_ctx
        self.n_embd = self._ctx.n_embd
        self.tokenizer = Tokenizer(self.model)
        tokens = self.model.file.metadata.get("tokenizer.ggml.tokens")
        lengths = (len(token.encode()) for token in tokens) if isinstance(tokens, list) else ()
        self._longest_token = max(lengths, default=256)  # bytes
        self._scorer = TokenScorer(self.tokenizer, self._ctx.n_vocab)
        self._slots = [SequenceSlot(CachedTokens(self._ctx.ptr, i)) for i in range(n_parallel)]
        self._inbox: queue.SimpleQueue[JobState | None] = queue.SimpleQueue()
        self._queue, self._planner = JobQueue(), StepPlanner()
        # Delivered after each step, so that callbacks do not delay it.
        self._pending_updates: list[tuple[GenerationJob, JobUpdate]] = []
        self.failure: BaseException | None = None
        self._on_failure = on_failure
        self._closed = False
        self._close_lock = (
            threading.Lock()
        )  # no job enters the inbox after the None that ends the thread
        self._thread = threading.Thread(target=self._run, name=f"batcher {path.name}", daemon=True)
        self._thread.start()

    def tokenize_prompt(self, prompt: Sequence[PromptPart]) -> TokenizedPrompt:
        """Tokenize a prompt.

        Raises ReellamaError for soft tokens that do not fit the model, and, before tokenizing, for
        texts that cannot fit the context.
        """
        n_characters = sum(len(part.text) for part in prompt if isinstance(part, Text))
        if (n_min := self.min_positions(n_characters)) > self.n_ctx:
            raise _too_long(f"at least {n_min}", self.n_ctx)
        tokenized = tokenize_prompt(prompt, self.tokenizer, self.n_embd)
        if not tokenized.keys:
            raise ReellamaError("the prompt is empty")
        return tokenized

    def min_positions(self, n_characters: int) -> int:
        """A lower bound of the positions that a text takes, without tokenizing it."""
        return n_characters // self._longest_token

    def submit(self, job: GenerationJob) -> None:
        """Queue a job until a sequence is free.

        The grammar is parsed here, in the caller's thread, so that it delays no other job. Raises
        ReellamaError for a prompt that is too long or options that cannot be used, and Stopped
        after `close`.
        """
        job.limit = min(job.limit, self.n_ctx)
        check_fits(len(job.prompt.keys), job.limit)
        if self._closed:
            raise Stopped
        sampler = Sampler(job.options.sampling, self.model, self.n_ctx)
        state = JobState(job, sampler, TextStream(job.options.stop), job.prompt)
        special_ids = self.tokenizer.single_tokens(job.visible_special_tokens)
        state.visible_special_ids = frozenset(special_ids)
        state.stage_started_at = time.perf_counter()
        with self._close_lock:
            if self._closed:
                raise Stopped
            self._inbox.put(state)

    def close(self) -> None:
        """Stop the thread, and free the model."""
        with self._close_lock:
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
        except BaseException as error:  # noqa: BLE001  # all jobs end with it
            self.failure = error
            reason = Failed(error)
        with self._close_lock:
            self._closed = True
        for slot in self._slots:
            self._end(slot, reason)
        self._deliver_updates()
        while not self._inbox.empty():
            if (state := self._inbox.get()) is not None:
                self._queue.add(state, self._slots)
        for state in self._queue.waiting:
            deliver(state.job, reason)
        if self.failure is not None:
            self._on_failure()

    def _answer_all(self) -> None:
        """Run steps until `close` is called."""
        while self._admit():
            busy = [slot for slot in self._slots if slot.state is not None]
            try:
                self._step(busy)
            except Exception as error:  # noqa: BLE001  # these jobs end with it
                for slot in busy:
                    slot.cache.clear()  # the content of the KV cache is not certain now
                    self._end(slot, error)
            self._deliver_updates()

    def _admit(self) -> bool:
        """Give sequences to waiting jobs; without any job, wait for one. False after `close`."""
        for slot in self._slots:
            if slot.state is not None and slot.state.job.cancelled:
                self._end(slot, None)
        self._deliver_updates()
        while True:
            waiting = self._queue.waiting
            idle = all(slot.state is None for slot in self._slots) and not waiting
            try:
                while True:
                    state = self._inbox.get(block=idle)
                    if state is None:
                        return False
                    self._queue.add(state, self._slots)
                    idle = False
            except queue.Empty:
                pass
            for state in self._queue.drop_cancelled():
                deliver(state.job, None)
            if (preemption := self._queue.preempt(self._slots)) is not None:
                state, slot = preemption
                self._preempt(slot)
                self._begin(state, [slot])
            free = [slot for slot in self._slots if slot.state is None]
            while free and (next_job := self._queue.next_job(self._slots, free)):
                self._begin(next_job, free)
                free = [slot for slot in free if slot.state is None]
            if len(free) < len(self._slots):
                return True

    def _begin(self, state: JobState, free: Sequence[SequenceSlot]) -> None:
        """Start a job on one of these sequences. An error ends this job alone."""
        try:
            self._start(state, free)
        except Exception as error:  # noqa: BLE001
            deliver(state.job, error)

    def _start(self, state: JobState, free: Sequence[SequenceSlot]) -> None:
        """Take the sequence that has most of the prompt, or else the least recently used one."""
        job, keys = state.job, state.prompt.keys

        def preference(slot: SequenceSlot) -> tuple[int, float]:
            common = slot.cache.common_prefix(keys)
            is_enough = common > MIN_REUSED_SHARE * len(slot.cache)
            return (common if is_enough else 0, -slot.last_used_at)

        slot = max(free, key=preference)
        # The last position is always read for its logits.
        common = min(slot.cache.common_prefix(keys), len(keys) - 1)
        reused = slot.cache.truncate(state.prompt.reusable(common))
        if not state.was_preempted:
            job.stats.prompt_tokens, job.stats.reused_tokens = len(keys), reused
        state.work = -max(0, state.n_preempted_cells - reused)
        state.start_prefill(state.prompt.spans_after(reused))
        if not state.generated_ids:
            now = time.perf_counter()
            job.stats.queue_seconds += now - state.stage_started_at
            state.stage_started_at = now
        state.started_at = state.started_at or time.perf_counter()
        slot.state = state

    def _preempt(self, slot: SequenceSlot) -> None:
        """Put a job back into the queue. Its prompt then includes the tokens generated so far."""
        state, slot.state = slot.state, None
        assert state is not None
        slot.last_used_at = time.monotonic()
        state.was_preempted, state.n_preempted_cells = True, len(slot.cache)
        state.pending.clear()
        state.prompt = state.job.prompt.followed_by(state.generated_ids)
        if not state.generated_ids:
            now = time.perf_counter()
            state.job.stats.prompt_seconds += now - state.stage_started_at
            state.stage_started_at = now
        self._queue.add(state, self._slots)

    def _step(self, busy: Sequence[SequenceSlot]) -> None:
        """Decode a batch of soft tokens, if there are any, and a batch of token ids."""
        for soft in (True, False):
            if pieces := self._planner.next_pieces(busy, soft):
                # llama.cpp computes sequences together if their ids are consecutive.
                pieces.sort(key=lambda piece: piece.sequence)
                self._decode(pieces)
                ends = accumulate(len(piece.tokens) for piece in pieces)
                for piece, end in zip(pieces, ends, strict=True):
                    self._advance(self._slots[piece.sequence], piece, end - 1)

    def _decode(self, pieces: Sequence[SequenceSpan]) -> None:
        if all(piece.is_token for piece in pieces):  # the usual case: no prompt is being read
            self._ctx.decode_one_token_per_sequence(
                [piece.tokens.keys[0] for piece in pieces],  # type: ignore[misc]  # ids
                [piece.tokens.start for piece in pieces],
                [piece.sequence for piece in pieces],
            )
        else:
            spans = [piece.span for piece in pieces]
            self._ctx.decode_batch(spans, causal=pieces[0].tokens.causal)

    def _advance(self, slot: SequenceSlot, piece: SequenceSpan, index: int) -> None:
        """Account for a decoded piece, and sample the next token if it has logits."""
        state = slot.state
        assert state is not None
        slot.cache.extend(piece.tokens)
        self._queue.count_work(state, len(piece.tokens), piece.wants_logits)
        if state.pending:
            rest = state.pending.popleft()[len(piece.tokens) :]
            if len(rest):
                state.pending.appendleft(rest)
        if not piece.wants_logits:
            return
        stats, now = state.job.stats, time.perf_counter()
        if stats.generated_tokens == 0:
            stats.prompt_seconds += now - state.stage_started_at
            state.stage_started_at = now
        stats.generate_seconds = now - state.stage_started_at
        try:
            self._sample(slot, state, index)
        except Exception as error:  # noqa: BLE001  # such as a grammar that allows no next token
            self._end(slot, error)

    def _sample(self, slot: SequenceSlot, state: JobState, index: int) -> None:
        job, stats = state.job, state.job.stats
        if job.options.max_tokens == 0:
            stats.stop_reason = "length"
            return self._end(slot, None)
        logits = self._ctx.logits_at(index)
        best = self._scorer.best(logits, job.options.n_probs)
        if job.options.sampling.takes_likeliest:
            token = int(logits.argmax())
        else:
            token = state.sampler.sample(self._ctx.ptr, lambda: logits, index)
        if self.tokenizer.is_eog(token):
            stats.stop_reason, stats.end_token = "stop", token
        else:
            state.generated_ids.append(token)
            stats.generated_tokens += 1
            scored = self._scorer.score(token, best, state.visible_special_ids)
            for released, text in state.stream.push(scored, scored.piece):
                self._pending_updates.append((job, released.with_text(text)))
            full = len(slot.cache) >= job.limit or stats.generated_tokens == job.options.max_tokens
            stats.stop_reason = "stop" if state.stream.stopped else "length" if full else None
            stats.stop_text = state.stream.stop_text
        if stats.stop_reason:
            if not state.stream.stopped:
                for released, text in state.stream.flush():
                    self._pending_updates.append((job, released.with_text(text)))
            self._end(slot, None)
        return None

    def _end(self, slot: SequenceSlot, error: Exception | None) -> None:
        """Free a sequence. Its cells stay in the KV cache, for prompts that can reuse them."""
        state, slot.state = slot.state, None
        slot.last_used_at = time.monotonic()
        if state is not None:
            self._pending_updates.append((state.job, error))

    def _deliver_updates(self) -> None:
        updates, self._pending_updates = self._pending_updates, []
        for job, update in updates:
            deliver(job, update)


def check_fits(n_prompt: int, limit: int) -> None:
    """Raise ReellamaError for a prompt that leaves no position of `limit` for an answer."""
    if n_prompt >= limit:
        raise _too_long(str(n_prompt), limit)


def _too_long(n_prompt: str, limit: int) -> ReellamaError:
    return ReellamaError(
        f"the prompt takes {n_prompt} positions, but the context has {limit}: send less, or start "
        "the server with a larger --n-ctx"
    )
