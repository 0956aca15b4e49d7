"""Measure how well a model predicts a text, and its divergence from a reference model.

The text is read as in `llama-perplexity` (`reellama.gguf_tools.text.text_chunks`): in chunks of
`n_ctx` tokens, each from an empty context, with the first token replaced by BOS if the model uses
one. Only the second half of each chunk is scored, so that every scored token has at least n_ctx / 2
tokens before it.
https://github.com/ggml-org/llama.cpp/tree/master/tools/perplexity
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from reellama.gguf_tools.atomic_write import check_writable
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.measuring import divergence
from reellama.gguf_tools.measuring.divergence import Estimate, TokenDifferences
from reellama.gguf_tools.measuring.saved_logits import SavedLogits, read_logits, saving_logits
from reellama.gguf_tools.runtime.backend import GpuLayers, Model, load_model
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings
from reellama.gguf_tools.text import text_chunks
from reellama.gguf_tools.text.text_chunks import Block
from reellama.gguf_tools.user_paths import expand_user

# Twelve short pieces of English prose, written for this project.
ENGLISH_TEXT = Path(__file__).parent / "data" / "english.txt"
CTX_STEP = 256  # llama.cpp rounds a context up to a multiple of this
MIN_CTX = 8  # smaller chunks have hardly any tokens to score

Progress = Callable[[float, int, float], None]  # chunks done, total chunks, perplexity so far


@dataclass(frozen=True)
class Divergence:
    """The divergence of a model from a reference, over all scored tokens. KL in nats."""

    reference: Path
    reference_perplexity: Estimate
    log_ratio: Estimate  # ln of the perplexity over the reference's
    kl: Estimate  # mean KL divergence of the model from the reference
    kl_median: float
    kl_p99: float  # 99 of 100 tokens are below it
    kl_max: float
    same_top: Estimate  # share of tokens with the same most likely token
    p_diff_rms: Estimate  # root mean square of the change in the right token's probability


@dataclass(frozen=True)
class TextQuality:
    """The quality of a model on a text."""

    model: Path
    text: Path
    n_ctx: int
    n_chunks: int
    n_scored: int  # tokens
    perplexity: Estimate
    divergence: Divergence | None

    def to_json(self) -> dict[str, Any]:
        """This result as JSON values; an estimate is an object with its value and error."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, Estimate):
                return value._asdict()
            return str(value) if isinstance(value, Path) else value

        return plain(asdict(self))


def measure_perplexity(
    path: str | Path,
    text: str | Path = ENGLISH_TEXT,
    *,
    reference: str | Path | None = None,
    reference_logits: str | Path | None = None,
    save_logits: str | Path | None = None,
    n_ctx: int = text_chunks.N_CTX,
    n_chunks: int | None = None,
    n_threads: int | None = None,
    n_gpu_layers: GpuLayers = 0,
    lora: Sequence[tuple[Path, float]] = (),
    progress: Progress | None = None,
) -> TextQuality:
    """Measure a model's perplexity on a text, and its divergence from a reference model.

    Args:
        path: the model.
        text: the text file.
        reference: the reference model, which is loaded as well; None for no divergence.
        reference_logits: in place of `reference`, a file of its logits on this text, from
            `save_logits` or llama-perplexity (see `saved_logits`); its `n_ctx` is used.
        save_logits: file to write the model's logits to.
        n_ctx: tokens of a chunk.
        n_chunks: largest number of chunks; None for all.
        n_threads, n_gpu_layers: see `ContextSettings` and `load_model`.
        lora: GGUF adapters of the model (not of the reference) and their scales.
        progress: called after each block of chunks.

    Raises:
        GGUFError: a model cannot be loaded.
        ReellamaError: an adapter does not fit, the text is missing or shorter than a chunk, or the
            two models have different tokens.
    """
    _check_request(n_ctx, reference, reference_logits)
    save_to = None if save_logits is None else expand_user(save_logits)
    if save_to is not None:
        check_writable(save_to)
    text, content = Path(text), text_chunks.read_text(text)
    saved = None if reference_logits is None else read_logits(reference_logits)
    n_ctx = saved.n_ctx if saved else n_ctx
    with ExitStack() as stack:
        models = [
            stack.enter_context(load_model(file, n_gpu_layers=n_gpu_layers, n_ctx=n_ctx))
            for file in (path, reference)
            if file is not None
        ]
        _check_same_tokens(models, content)
        chunks = text_chunks.split(models[0], content, n_ctx, text)[:n_chunks]
        if saved:
            chunks = _same_chunks(saved, chunks, models[0], text)
        settings = ContextSettings(n_threads=n_threads)
        contexts = [stack.enter_context(_chunk_context(m, chunks, settings)) for m in models]
        if lora:
            contexts[0].set_adapters(lora)
        saving = saving_logits(save_to, contexts[0].n_vocab, chunks) if save_to else nullcontext()
        output = stack.enter_context(saving)
        nll, differences = _score_all(contexts, chunks, settings, saved, output, progress)
        compared_with = saved.path if saved else models[-1].path
        kl = _sum_up(compared_with, differences) if differences else None
        return _text_quality(models[0], text, chunks.shape, nll, kl)


def measure_strided_perplexity(
    path: str | Path,
    text: str | Path = ENGLISH_TEXT,
    *,
    stride: int,
    n_ctx: int = text_chunks.N_CTX,
    n_chunks: int | None = None,
    n_threads: int | None = None,
    n_gpu_layers: GpuLayers = 0,
    lora: Sequence[tuple[Path, float]] = (),
    progress: Progress | None = None,
) -> TextQuality:
    """Measure a model's perplexity in windows of the text that begin every `stride` tokens.

    The last `stride` tokens of each window are scored, so that each has nearly a whole window
    before it. A window has n_ctx + stride / 2 tokens, rounded up to a multiple of 256, and no BOS
    token: as in `llama-perplexity --ppl-stride` with a `--batch-size` equal to `--ctx-size` (with a
    larger batch, its windows do not fit its context). Other arguments and errors as
    `measure_perplexity`.
    """
    window = -(-(n_ctx + stride // 2) // CTX_STEP) * CTX_STEP
    if not 1 <= stride < window:
        raise ReellamaError(
            f"the stride is {stride}, but must be 1 or more, and less than {window}"
        )
    text, content = Path(text), text_chunks.read_text(text)
    settings = ContextSettings(n_batch=min(n_ctx, window), n_threads=n_threads)
    with load_model(path, n_gpu_layers=n_gpu_layers, n_ctx=window) as model:
        tokens = text_chunks.tokenize(model, content)
        if len(tokens) < 2 * window:
            raise ReellamaError(
                f"{text} has {len(tokens):,} tokens for {model.path}, too few for windows of "
                f"{window:,}; take a longer text or a smaller --ctx"
            )
        starts = range(0, len(tokens) - window, stride)[:n_chunks]
        windows = [tokens[start : start + window] for start in starts]
        with Context(model, window, settings, n_outputs=settings.n_batch) as context:
            if lora:
                context.set_adapters(lora)
            nll = _score_ends(context, windows, stride, progress)
        return _text_quality(model, text, (len(windows), window), nll, None)


def _check_request(
    n_ctx: int, reference: str | Path | None, reference_logits: str | Path | None
) -> None:
    if n_ctx < MIN_CTX:
        raise ReellamaError(f"n_ctx is {n_ctx}, but must be {MIN_CTX} or more")
    if reference and reference_logits:
        raise ReellamaError("a reference is a model or its saved logits, not both")


def _text_quality(
    model: Model,
    text: Path,
    shape: tuple[int, ...],
    nll: np.ndarray,
    kl: Divergence | None,
) -> TextQuality:
    """The result for -ln p of each token. shape: number of chunks, and tokens of a chunk."""
    n_chunks, n_ctx = shape
    perplexity = divergence.perplexity(nll)
    return TextQuality(model.path, text, n_ctx, n_chunks, len(nll), perplexity, kl)


def _chunk_context(model: Model, chunks: np.ndarray, settings: ContextSettings) -> Context:
    """A context for several chunks at once."""
    n_chunks, n_ctx = chunks.shape
    n_seq = text_chunks.n_side_by_side(n_chunks, n_ctx)
    return Context(model, n_ctx, settings, n_seq=n_seq, n_outputs=settings.n_ubatch)


def _score_ends(
    context: Context, windows: Sequence[np.ndarray], n: int, progress: Progress | None
) -> np.ndarray:
    """Return -ln p of the last n tokens of each window."""
    nll: list[np.ndarray] = []
    for number, window in enumerate(windows, 1):
        nll += _score_end(context, window, n)
        if progress:
            so_far = divergence.perplexity(np.concatenate(nll)).value
            progress(number, len(windows), so_far)
    return np.concatenate(nll)


def _score_end(context: Context, window: np.ndarray, n: int) -> Iterator[np.ndarray]:
    """Yield -ln p of a window's last n tokens, in pieces."""
    context.clear()
    first = len(window) - n - 1  # its logits predict the first of them
    for start in range(0, len(window), context.n_batch):
        tokens = window[start : start + context.n_batch]
        first_output = min(max(first - start, 0), len(tokens))
        context.decode(tokens, start, first_output=first_output)
        following = window[start + first_output + 1 : start + len(tokens) + 1]
        if len(following):
            logits = context.logits(len(tokens) - first_output)[: len(following)]
            yield divergence.negative_log_likelihoods(logits, following)


def _same_chunks(saved: SavedLogits, chunks: np.ndarray, model: Model, text: Path) -> np.ndarray:
    """The chunks of a text that have saved logits. Raises ReellamaError for those of other
    tokens."""
    n_vocab = int(llama.llama_vocab_n_tokens(model.vocab))
    n = min(len(chunks), len(saved.chunks))
    if saved.n_vocab != n_vocab or not np.array_equal(saved.chunks[:n], chunks[:n]):
        raise ReellamaError(
            f"{saved.path} cannot be compared with {model.path}: it was made from another text "
            f"than {text}, or by a model with other tokens"
        )
    return chunks[:n]


def _check_same_tokens(models: list[Model], content: bytes) -> None:
    """Raise ReellamaError unless all models tokenize the text to the same tokens."""
    first, *references = models
    for other in references:
        pair = (first, other)
        sizes = [llama.llama_vocab_n_tokens(model.vocab) for model in pair]
        tokens, other_tokens = (text_chunks.tokenize(model, content) for model in pair)
        if sizes[0] != sizes[1]:
            reason = f"it has {sizes[0]:,} of them, and the other {sizes[1]:,}"
        elif not np.array_equal(tokens, other_tokens):
            reason = "the text becomes other tokens"
        else:
            continue
        raise ReellamaError(
            f"{first.path} cannot be compared with {other.path}, whose tokens are not the same: "
            f"{reason}"
        )


def _score_all(
    contexts: list[Context],
    chunks: np.ndarray,
    settings: ContextSettings,
    saved: SavedLogits | None,
    output: SavedLogits | None,
    progress: Progress | None,
) -> tuple[np.ndarray, TokenDifferences | None]:
    """Score all chunks with one model, with two against each other, or with one against `saved`.

    output: receives the first model's logits. Returns -ln p of each token, and the differences from
    the reference.
    """
    n_chunks, n_ctx = chunks.shape
    nll: list[np.ndarray] = []
    differences: list[TokenDifferences] = []
    if progress:
        progress(0, n_chunks, float("nan"))
    for block in text_chunks.read_side_by_side(contexts, chunks, settings, n_ctx // 2):
        for chunk, positions, logits, tokens in _scored(contexts, chunks, block):
            if output is not None:
                output.put(chunk, positions, logits[0])
            if saved is not None:
                reference = saved.log_probabilities(chunk, positions)
                differences.append(divergence.differences_from_saved(logits[0], reference, tokens))
                nll.append(differences[-1].nll)
            elif len(logits) == 2:
                differences.append(divergence.token_differences(logits[0], logits[1], tokens))
                nll.append(differences[-1].nll)
            else:
                nll.append(divergence.negative_log_likelihoods(logits[0], tokens))
        if nll and not np.isfinite(nll[-1]).all():
            raise ReellamaError(
                f"{contexts[0].model.path} has no perplexity: what it computes is no number, from "
                f"chunk {int(block.n_chunks_done) + 1} on; its weights are damaged, or too large "
                "for its type"
            )
        if progress and nll:
            so_far = divergence.perplexity(np.concatenate(nll)).value
            progress(block.n_chunks_done, n_chunks, so_far)
    return np.concatenate(nll), divergence.concatenate_differences(
        differences
    ) if differences else None


def _scored(
    contexts: list[Context], chunks: np.ndarray, block: Block
) -> Iterator[tuple[int, slice, list[np.ndarray], np.ndarray]]:
    """Yield the scored positions of each chunk of a block, if there are any.

    Each item has the chunk's number, the positions counted from the first scored one, each model's
    logits float32 `[n, n_vocab]`, and the tokens that come next `[n]`. Scored are positions from
    n_ctx / 2 on, except the chunk's last one, which has no next token.
    """
    n_ctx = chunks.shape[1]
    start, end = max(block.positions.start, n_ctx // 2), block.positions.stop
    following = chunks[block.chunks, start + 1 : end + 1]
    n_chunks, n = following.shape
    if n == 0:
        return
    model_logits = [
        context.logits(n_chunks * (end - start)).reshape(n_chunks, end - start, -1)
        for context in contexts
    ]
    positions = slice(start - n_ctx // 2, start - n_ctx // 2 + n)
    for number, tokens in enumerate(following):
        chunk = block.chunks.start + number
        yield chunk, positions, [logits[number, :n] for logits in model_logits], tokens


def _sum_up(reference: Path, all_: TokenDifferences) -> Divergence:
    median, p99, greatest = np.quantile(all_.kl, (0.5, 0.99, 1.0)).tolist()
    return Divergence(
        reference=reference,
        reference_perplexity=divergence.perplexity(all_.nll_reference),
        log_ratio=divergence.log_ratio(all_.nll, all_.nll_reference),
        kl=divergence.mean(all_.kl),
        kl_median=median,
        kl_p99=p99,
        kl_max=greatest,
        same_top=divergence.mean(all_.same_top.astype(np.float64)),
        p_diff_rms=divergence.root_mean_square(all_.p_diff),
    )
