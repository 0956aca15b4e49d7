"""Multiple-choice accuracy of a model, computed as in `llama-perplexity`.

The answer with the highest score is chosen. A score is the mean log-probability of an answer's
tokens, from the first token that differs between answers. WinoGrande scores the text after the
answer instead.
https://github.com/ggml-org/llama.cpp/tree/master/tools/perplexity
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.measuring import divergence
from reellama.gguf_tools.multiple_choice.task_files import READERS, Task
from reellama.gguf_tools.runtime.backend import GpuLayers, Model, load_model
from reellama.gguf_tools.runtime.batch import BatchSpan
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings
from reellama.gguf_tools.text import text_chunks

N_SEQUENCES = 4  # of llama-perplexity's context for these scores, each of n_ctx positions
MIN_TRAILING = 3  # WinoGrande: with at most this many tokens after the answer, it is scored too
Z = 1.95996398454  # standard deviations of a 95% interval of a normal distribution

Progress = Callable[[int, int, float], None]  # tasks done, total tasks, accuracy so far


@dataclass(frozen=True)
class ChoiceScore:
    """The accuracy of a model on a benchmark."""

    model: Path
    file: Path
    benchmark: str
    n_tasks: int
    n_right: int
    n_skipped: int  # lines of the file without a task
    answers: list[int]  # the answer that it chose, from 0 on, for each task
    # Nats a token, for each answer of each task; NaN where nothing of an answer is scored.
    scores: list[list[float]]
    share: float
    error: float  # the standard error of the share
    low: float  # 95% interval of the share, after Wilson
    high: float
    chance: float

    def to_json(self) -> dict[str, Any]:
        """This object as plain values."""
        scores = [
            [None if math.isnan(score) else score for score in task_scores]
            for task_scores in self.scores
        ]
        paths = {"model": str(self.model), "file": str(self.file)}
        return asdict(self) | paths | {"scores": scores}


class _Tokenized(NamedTuple):
    """A task's texts as tokens."""

    answers: list[np.ndarray]  # int32, a row of tokens for each
    n_common: int  # tokens that all begin with
    prefix_lengths: list[int]  # WinoGrande: tokens up to and with the answer, else none

    @property
    def n_tokens(self) -> int:
        """Positions in a batch."""
        return self.n_common + sum(len(tokens) - self.n_common for tokens in self.answers)


class _Scored(NamedTuple):
    """Which logits predict the tokens of an answer, and these tokens."""

    rows: list[int]
    tokens: np.ndarray


def measure_choices(
    path: str | Path,
    file: str | Path,
    benchmark: str,
    *,
    n_tasks: int | None = None,
    n_ctx: int = text_chunks.N_CTX,
    n_threads: int | None = None,
    n_gpu_layers: GpuLayers = 0,
    lora: Sequence[tuple[Path, float]] = (),
    progress: Progress | None = None,
) -> ChoiceScore:
    """Score a model on a benchmark.

    Args:
        path: the model.
        file: the tasks.
        benchmark: format of the file: hellaswag, winogrande or multiple-choice.
        n_tasks: largest number of tasks; None for all.
        n_ctx: positions of each of N_SEQUENCES sequences.
        n_threads, n_gpu_layers: see `ContextSettings` and `load_model`.
        lora: GGUF adapters and their scales.
        progress: called after each group of tasks.

    Raises:
        GGUFError: the model cannot be loaded.
        ReellamaError: the file has another format, or a task does not fit the context.
    """
    file = Path(file)
    read = READERS[benchmark](file, n_tasks)
    with load_model(path, n_gpu_layers=n_gpu_layers, n_ctx=n_ctx) as model:
        tokenized = [_tokenize(model, task) for task in read.tasks]
        n_seq = max(N_SEQUENCES, *(len(task.answers) for task in tokenized))
        groups = list(_groups(tokenized, n_seq, N_SEQUENCES * n_ctx, file))
        settings = ContextSettings(n_batch=N_SEQUENCES * n_ctx, n_threads=n_threads)
        n_outputs = max(sum(map(_n_rows, group)) for group in groups)
        with Context(
            model, N_SEQUENCES * n_ctx, settings, n_seq=n_seq, n_outputs=n_outputs, unified=True
        ) as context:
            if lora:
                context.set_adapters(lora)
            scores, answers, n_right = _score_tasks(context, groups, read.tasks, progress)
    n = len(scores)
    share = n_right / n
    low, high = wilson_interval(share, n)
    return ChoiceScore(
        model=Path(path),
        file=file,
        benchmark=benchmark,
        n_tasks=n,
        n_right=n_right,
        n_skipped=read.n_skipped,
        answers=answers,
        scores=scores,
        share=share,
        error=math.sqrt(share * (1 - share) / max(n - 1, 1)),
        low=low,
        high=high,
        chance=n / sum(map(len, scores)),
    )


def _score_tasks(
    context: Context,
    groups: list[list[_Tokenized]],
    tasks: Sequence[Task],
    progress: Progress | None,
) -> tuple[list[list[float]], list[int], int]:
    """Return the scores and the chosen answer of each task, and the number of right answers."""
    scores: list[list[float]] = []
    answers: list[int] = []
    n_right = 0
    for group in groups:
        for task_scores in _score_group(context, group):
            task = tasks[len(scores)]
            answers.append(_choose(task_scores, is_pair=bool(task.prefixes)))
            scores.append(task_scores)
            n_right += answers[-1] in task.right
        if progress:
            progress(len(scores), len(tasks), n_right / len(scores))
    return scores, answers, n_right


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share of n, which is valid near 0 and 1, too.

    https://doi.org/10.1080/01621459.1927.10502953
    """
    z = Z * Z / n
    middle, half = share + z / 2, math.sqrt(z * (share * (1 - share) + z / 4))
    return (middle - half) / (1 + z), (middle + half) / (1 + z)


def _tokenize(model: Model, task: Task) -> _Tokenized:
    answers = [text_chunks.tokenize(model, text) for text in task.texts]
    # One token at least is left to score, even where an answer is the beginning of another.
    longest = min(map(len, answers)) - (0 if task.prefixes else 1)
    first, n_common = answers[0], 0
    while n_common < longest and all(tokens[n_common] == first[n_common] for tokens in answers):
        n_common += 1
    if not n_common and not task.prefixes:
        raise ReellamaError(
            f"the answers of {task.texts[0].decode(errors='replace')!r} have no token in common "
            f"for {model.path}: nothing could be predicted from"
        )
    prefix_lengths = [len(text_chunks.tokenize(model, prefix)) for prefix in task.prefixes]
    return _Tokenized(answers, n_common, prefix_lengths)


def _groups(
    tasks: list[_Tokenized], n_seq: int, n_positions: int, file: Path
) -> Iterator[list[_Tokenized]]:
    """Tasks that are read together: as many as the context has sequences and positions for."""
    group: list[_Tokenized] = []
    for number, task in enumerate(tasks):
        if task.n_tokens > n_positions:
            raise ReellamaError(
                f"{file}: task {number + 1} of those that were taken has {task.n_tokens:,} "
                f"tokens, but --ctx leaves room for {n_positions:,}: raise it"
            )
        extended = [*group, task]
        if (
            sum(len(member.answers) for member in extended) > n_seq
            or sum(member.n_tokens for member in extended) > n_positions
        ):
            yield group
            group = []
        group.append(task)
    yield group


def _n_rows(task: _Tokenized) -> int:
    """Number of rows of logits for a task: for its last common token, and for its answers' tokens.

    An answer's last token predicts nothing, but llama-perplexity computes its logits in WinoGrande.
    """
    lengths = sum(len(tokens) - task.n_common for tokens in task.answers)
    return 1 + lengths - (0 if task.prefix_lengths else len(task.answers))


def _spans(task: _Tokenized, first_sequence: int) -> Iterator[BatchSpan]:
    """The spans to decode for a task: the common tokens for all sequences, then each answer."""
    n, common = task.n_common, task.answers[0][: task.n_common]
    if n:
        yield BatchSpan(common, 0, first_sequence, n - 1, n_sequences=len(task.answers))
    for sequence, tokens in enumerate(task.answers, first_sequence):
        last = len(tokens) if task.prefix_lengths else len(tokens) - 1
        if last > n:
            yield BatchSpan(tokens[n:last], n, sequence, 0)
        if len(tokens) > last:
            yield BatchSpan(tokens[last:], last, sequence, 1)


def _score_group(context: Context, group: list[_Tokenized]) -> list[list[float]]:
    """The score of each answer of each task: nats a token."""
    sequences = np.cumsum([0, *(len(task.answers) for task in group)]).tolist()
    spans = [
        span
        for task, first in zip(group, sequences[:-1], strict=True)
        for span in _spans(task, first)
    ]
    context.clear()
    context.decode_batch(spans)
    logits = context.logits(sum(len(span.inputs) - span.first_output for span in spans))
    scores, first_row = [], 0
    for task in group:
        scored = _winogrande_rows(task) if task.prefix_lengths else _ending_rows(task)
        scores.append([_mean_log_probability(logits, first_row, answer) for answer in scored])
        first_row += _n_rows(task)
    return scores


def _ending_rows(task: _Tokenized) -> Iterator[_Scored]:
    """The scored tokens in HellaSwag and multiple choice: all after the common ones."""
    row = 1
    for tokens in task.answers:
        n = len(tokens) - task.n_common - 1
        yield _Scored([0, *range(row, row + n)], tokens[task.n_common :])
        row += n


def _winogrande_rows(task: _Tokenized) -> Iterator[_Scored]:
    """The scored tokens in WinoGrande: those after the answer, without the sentence's last one.

    With few tokens after it, the answer is scored as well. Two mistakes of llama-perplexity are
    reproduced, so that scores are equal. In that case, the second answer's first token is predicted
    from the first answer's last row. And if a sentence begins with the gap and the model has no
    BOS, all rows are one too late, because a common token is counted that does not exist.
    """
    n_common, before = task.n_common, 0
    is_behind = all(len(tokens) - n_common > MIN_TRAILING for tokens in task.answers)
    for tokens, prefix_length in zip(task.answers, task.prefix_lengths, strict=True):
        base = prefix_length if is_behind else n_common
        n = len(tokens) - base - (1 if len(tokens) - base > 1 else 0)
        if not base:  # nothing predicts the first token
            n = 0
        first = before + base - n_common
        yield _Scored(list(range(first, first + n)), tokens[base : base + max(n, 0)])
        before += len(tokens) - n_common


def _mean_log_probability(logits: np.ndarray, first_row: int, answer: _Scored) -> float:
    if not answer.rows:
        return math.nan
    rows = np.clip(np.add(answer.rows, first_row), 0, len(logits) - 1)
    return -float(divergence.negative_log_likelihoods(logits[rows], answer.tokens).mean())


def _choose(scores: list[float], *, is_pair: bool) -> int:
    """The answer with the highest score; of equal ones the first, but in WinoGrande the second."""
    if is_pair:
        return 0 if scores[0] > scores[1] else 1
    return int(np.argmax(scores))
