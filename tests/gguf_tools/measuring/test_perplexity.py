"""Perplexity and KL divergence, as llama-perplexity defines them."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.measuring import divergence, perplexity
from reellama.gguf_tools.runtime.backend import load_model
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings
from reellama.gguf_tools.text import text_chunks
from reellama.models.training.frozen_llm import FrozenLLM
from reellama.models.training.lora import LoraAdapters
from tests.helpers import tiny_model

pytestmark = pytest.mark.numeric

TEXT = "The ferry came to rest on the gravel, some twenty metres short of the landing. " * 12
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "ferry.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def other_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with one matrix changed a little."""
    shape = tiny_model.weights("llama")["output.weight"].shape
    change = np.random.default_rng(1).normal(0, 0.02, shape).astype(np.float32)
    path = tmp_path_factory.mktemp("other") / "other.gguf"
    return tiny_model.write(path, changes={"output.weight": change})


def logits_of(path: Path, tokens: np.ndarray) -> np.ndarray:
    """The logits of every position, read in one go: float64 `[n, n_vocab]`."""
    n = len(tokens)
    with load_model(path) as model, Context(model, n, one_thread(), n_outputs=n) as context:
        context.decode(tokens, 0, first_output=0)
        return context.logits(n).astype(np.float64)


def one_thread() -> ContextSettings:
    return ContextSettings(n_threads=1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def tokens_of(text: str) -> list[int]:
    """BOS and bytes: the tiny model's tokens, to which a space is U+2581."""
    return [1, *(byte + 3 for byte in text.replace(" ", "\u2581").encode())]


def as_llama_perplexity_does(path: Path, text: Path, n_ctx: int, n_chunks: int) -> float:
    """Perplexity by llama.cpp's bare functions: the chunks in one batch, which it cuts itself.

    Its kernels round differently by processor, and on one processor by the shape of what they
    compute at once. SmolLM2 with `-c 64 --chunks 3` has 41.6034 with AVX512 (and with AMX), 41.577
    with AVX2, and 41.069 there in micro-batches of 64: only the same shapes on the same processor
    can be compared to the last digit.
    """
    with load_model(path) as model:
        tokens = text_chunks.tokenize(model, text_chunks.read_text(text))
        chunks = text_chunks.with_bos(model, tokens[: n_chunks * n_ctx].reshape(n_chunks, n_ctx))
        parameters = llama.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max = n_chunks * n_ctx, n_chunks
        parameters.n_batch = n_chunks * n_ctx
        parameters.n_threads = parameters.n_threads_batch = 1
        context = llama.llama_init_from_model(model.ptr, parameters)
        batch = llama.llama_batch_init(chunks.size, 0, 1)
        batch.n_tokens = chunks.size
        for i, token in enumerate(chunks.ravel().tolist()):
            batch.token[i], batch.pos[i] = token, i % n_ctx
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, i // n_ctx
            batch.logits[i] = i % n_ctx >= n_ctx // 2
        assert llama.llama_decode(context, batch) == 0
        n_vocab = llama.llama_vocab_n_tokens(model.vocab)
        shape = (n_chunks, n_ctx - n_ctx // 2, n_vocab)
        logits = np.ctypeslib.as_array(llama.llama_get_logits(context), shape).astype(np.float64)
        llama.llama_batch_free(batch)
        llama.llama_free(context)
    log_p = np.concatenate([log_softmax(rows[:-1]) for rows in logits])
    following = chunks[:, n_ctx // 2 + 1 :].ravel()
    return math.exp(-log_p[np.arange(len(following)), following].mean())


def by_the_book(path: Path, text: str, n_ctx: int, n_chunks: int) -> tuple[np.ndarray, list[int]]:
    """ln p of every scored position, and the tokens there, written as plainly as it can be."""
    tokens = tokens_of(text)
    scored, expected = [], []
    for i in range(n_chunks):
        chunk = tokens[i * n_ctx : (i + 1) * n_ctx]
        log_p = log_softmax(logits_of(path, np.array([1, *chunk[1:]], np.int32)))
        for j in range(n_ctx // 2, n_ctx - 1):
            scored.append(log_p[j])
            expected.append(chunk[j + 1])
    return np.array(scored), expected


def test_perplexity_is_that_of_the_second_half_of_each_chunk(tiny_llama: Path, text: Path) -> None:
    found = perplexity.measure_perplexity(tiny_llama, text, n_ctx=64, n_chunks=3, n_threads=1)
    log_p, expected = by_the_book(tiny_llama, TEXT, 64, 3)
    nll = -log_p[np.arange(len(expected)), expected]
    assert found.n_scored == len(expected) == 3 * 31
    assert found.perplexity.value == pytest.approx(math.exp(nll.mean()), rel=1e-3)
    error = math.exp(nll.mean()) * nll.std() / math.sqrt(len(nll) - 1)
    assert found.perplexity.error == pytest.approx(error, rel=1e-3)
    assert found.divergence is None


def test_divergence_is_what_its_definition_says(
    tiny_llama: Path, other_llama: Path, text: Path
) -> None:
    found = perplexity.measure_perplexity(
        other_llama, text, reference=tiny_llama, n_ctx=64, n_chunks=3, n_threads=1
    ).divergence
    assert found is not None
    log_p, expected = by_the_book(tiny_llama, TEXT, 64, 3)
    log_q, _ = by_the_book(other_llama, TEXT, 64, 3)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    row = np.arange(len(expected))
    p_diff = np.exp(log_q[row, expected]) - np.exp(log_p[row, expected])
    assert found.kl.value == pytest.approx(kl.mean(), rel=1e-3)
    assert found.kl_median == pytest.approx(np.median(kl), rel=1e-3)
    assert found.kl_p99 == pytest.approx(np.quantile(kl, 0.99), rel=1e-3)
    assert found.kl_max == pytest.approx(kl.max(), rel=1e-3)
    assert found.p_diff_rms.value == pytest.approx(math.sqrt((p_diff**2).mean()), rel=1e-3)
    assert found.same_top.value == pytest.approx((log_p.argmax(1) == log_q.argmax(1)).mean())
    assert 0 < found.same_top.value < 1
    ratio = (log_p - log_q)[row, expected].mean()
    assert found.log_ratio.value == pytest.approx(ratio, abs=2e-4)


def test_a_model_does_not_differ_from_itself(tiny_llama: Path, text: Path) -> None:
    found = perplexity.measure_perplexity(
        tiny_llama, text, reference=tiny_llama, n_ctx=64, n_chunks=2, n_threads=1
    ).divergence
    assert found is not None
    assert (found.kl.value, found.kl_max, found.p_diff_rms.value) == (0, 0, 0)
    assert (found.same_top.value, found.log_ratio.value) == (1, 0)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("n_ctx", "n_chunks"),
    [
        (64, 3),
        pytest.param(64, 8, marks=slow),
        pytest.param(100, 5, marks=slow),
        pytest.param(300, 2, marks=slow),
        (600, 1),
    ],
)
def test_the_figure_is_that_of_llama_perplexity_to_the_last_digit(
    smollm2: Path, n_ctx: int, n_chunks: int
) -> None:
    found = perplexity.measure_perplexity(smollm2, n_ctx=n_ctx, n_chunks=n_chunks, n_threads=1)
    expected = as_llama_perplexity_does(smollm2, perplexity.ENGLISH_TEXT, n_ctx, n_chunks)
    assert found.perplexity.value == pytest.approx(expected, rel=1e-6)


@given(st.integers(1, 3000), st.integers(8, 5000))
def test_a_block_is_what_llama_cpp_computes_at_once(n_chunks: int, n_ctx: int) -> None:
    """Every position of every chunk is read once, in order, in blocks of one micro-batch."""
    settings = ContextSettings()
    n_chunks = min(n_chunks, 20_000 // n_ctx + 1)
    read = np.zeros(n_chunks, int)
    done = 0.0
    for block in text_chunks.blocks(n_chunks, n_ctx, settings):
        length = block.positions.stop - block.positions.start
        side_by_side = block.chunks.stop - block.chunks.start
        assert 0 < side_by_side * length <= settings.n_ubatch
        assert (read[block.chunks] == block.positions.start).all()
        read[block.chunks] += length
        assert block.n_chunks_done > done
        done = block.n_chunks_done
    assert (read == n_ctx).all() and done == n_chunks


def test_only_whole_chunks_count(tiny_llama: Path, text: Path) -> None:
    n_tokens = len(tokens_of(TEXT))
    found = perplexity.measure_perplexity(tiny_llama, text, n_ctx=256, n_threads=1)
    assert found.n_chunks == n_tokens // 256
    assert found.n_scored == found.n_chunks * 127


def test_one_newline_at_the_end_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"one\r\ntwo\n\n")
    assert text_chunks.read_text(path) == b"one\r\ntwo\n"


def test_names_of_special_tokens_in_a_text_are_text(smollm2: Path) -> None:
    with load_model(smollm2, vocab_only=True) as model:
        assert len(text_chunks.tokenize(model, b"<|im_end|>")) > 1


@pytest.mark.parametrize(
    ("n_ctx", "content", "message"),
    [
        (4096, TEXT, "tokens for .*, too few for one chunk of 4,096; take a longer text"),
        (4, TEXT, "n_ctx is 4, but must be 8 or more"),
        (64, None, "cannot read .*: No such file"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    tiny_llama: Path, tmp_path: Path, n_ctx: int, content: str | None, message: str
) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ReellamaError, match=message) as caught:
        perplexity.measure_perplexity(tiny_llama, path, n_ctx=n_ctx, n_threads=1)
    assert "\n" not in str(caught.value)


def test_models_with_other_tokens_are_not_compared(
    tiny_llama: Path, smollm2: Path, text: Path
) -> None:
    with pytest.raises(ReellamaError, match="whose tokens are not the same: it has 259 of them"):
        perplexity.measure_perplexity(tiny_llama, text, reference=smollm2, n_ctx=64, n_threads=1)


def test_progress_tells_the_perplexity_so_far(tiny_llama: Path, text: Path) -> None:
    seen: list[tuple[float, ...]] = []
    found = perplexity.measure_perplexity(
        tiny_llama,
        text,
        n_ctx=256,
        n_chunks=3,
        n_threads=1,
        progress=lambda *news: seen.append(news),
    )
    # Three chunks side by side, 170 positions of each at once. The first 128 are not scored.
    assert [news[:2] for news in seen] == [(0, 3), (pytest.approx(3 * 170 / 256), 3), (3, 3)]
    assert seen[-1][2] == found.perplexity.value


@given(seeds, st.integers(1, 40), st.integers(2, 300), st.floats(0, 30))
def test_kl_is_never_negative_and_agreement_is_a_share(
    seed: int, n: int, n_vocab: int, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    reference, logits = rng.normal(0, spread, (2, n, n_vocab)).astype(np.float32)
    found = divergence.token_differences(logits, reference, rng.integers(0, n_vocab, n))
    # What is left out, below e^-16 each, is all that can be missing.
    assert (found.kl > -n_vocab * math.exp(-16) * 100).all()
    assert (found.nll >= -1e-6).all()
    assert (np.abs(found.p_diff) <= 1 + 1e-6).all()


@given(seeds, st.floats(-1000, 1000))
def test_a_constant_added_to_all_logits_changes_nothing(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    reference, logits = rng.normal(0, 3, (2, 5, 50)).astype(np.float32)
    tokens = rng.integers(0, 50, 5)
    plain = divergence.token_differences(logits, reference, tokens)
    shifted = divergence.token_differences(logits + np.float32(shift), reference, tokens)
    assert shifted.kl == pytest.approx(plain.kl, abs=1e-3)
    assert shifted.nll == pytest.approx(plain.nll, abs=1e-3)
    assert divergence.negative_log_likelihoods(logits, tokens) == pytest.approx(plain.nll)


@given(seeds, st.integers(1, 3000))
def test_rows_that_are_worked_on_in_slices_give_the_same(seed: int, elements: int) -> None:
    rng = np.random.default_rng(seed)
    reference, logits = rng.normal(0, 3, (2, 30, 100)).astype(np.float32)
    tokens = rng.integers(0, 100, 30)
    whole = divergence.token_differences(logits, reference, tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(divergence, "SLICE_ELEMENTS", elements)
        parts = divergence.token_differences(logits, reference, tokens)
    for one, other in zip(whole, parts, strict=True):
        assert np.array_equal(one, other)


def test_the_command_prints_the_figures(
    reellama: Callable, tiny_llama: Path, other_llama: Path, text: Path
) -> None:
    options = ("--ctx", "64", "--chunks", "2", "--threads", "1", "--reference", tiny_llama)
    result = reellama("gguf", "perplexity", other_llama, text, *options)
    assert (result.status, result.err) == (0, "")
    head, perplexity, *rest = result.out.splitlines()
    assert head == "other.gguf on ferry.txt: 2 chunks of 64, 62 tokens scored"
    assert perplexity.startswith("perplexity   ") and " ± " in perplexity
    assert [line.split("  ")[0] for line in rest] == [
        "perplexity of llama.gguf",
        "ln of the ratio of the two",
        "KL divergence, mean",
        "",  # median
        "",  # 99%
        "",  # maximum
        "same likeliest token",
        "change in probability, RMS",
    ]


def test_the_command_gives_json(reellama: Callable, tiny_llama: Path, text: Path) -> None:
    result = reellama(
        "gguf", "perplexity", tiny_llama, text, "--ctx", 64, "--chunks", 2, "--threads", 1, "--json"
    )
    found = json.loads(result.out)
    assert found["n_chunks"] == 2
    assert found["perplexity"].keys() == {"value", "error"}
    assert found["divergence"] is None


def test_windows_that_begin_every_few_tokens_score_their_ends(tiny_llama: Path, text: Path) -> None:
    """As with `llama-perplexity --ppl-stride`: they are rounded up, and have no BOS of theirs."""
    found = perplexity.measure_strided_perplexity(
        tiny_llama, text, stride=20, n_ctx=100, n_chunks=3, n_threads=1
    )
    letters = TEXT.replace(" ", "▁").encode()  # SentencePiece's spaces
    tokens = np.array([1, *(byte + 3 for byte in letters)], np.int32)
    nll = []
    for start in (0, 20, 40):
        window = tokens[start : start + 256]
        logits = logits_of(tiny_llama, window)[-21:-1]
        log_sums = np.log(np.exp(logits).sum(axis=1))
        nll += list(log_sums - logits[np.arange(20), window[-20:]])
    assert (found.n_ctx, found.n_chunks, found.n_scored) == (256, 3, 60)
    assert found.perplexity.value == pytest.approx(math.exp(np.mean(nll)), rel=2e-3)
    with pytest.raises(ReellamaError, match="the stride is 0, but must be 1 or more"):
        perplexity.measure_strided_perplexity(tiny_llama, text, stride=0)


def test_a_damaged_model_is_one_line(reellama: Callable, tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    shutil.copy(tiny_llama, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    result = reellama("gguf", "perplexity", path)
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith(f"reellama: {path} is cut off") and result.err.count("\n") == 1


def test_a_model_that_computes_no_numbers_has_no_perplexity(
    reellama: Callable, text: Path, tmp_path: Path
) -> None:
    nothing = {"output_norm.weight": np.full(tiny_model.N_EMBD, np.nan, np.float32)}
    path = tiny_model.write(tmp_path / "nan.gguf", changes=nothing)
    result = reellama("gguf", "perplexity", path, text, "--ctx", "32", "--threads", "1", "--json")
    assert (result.status, result.out) == (1, "")
    assert f"{path} has no perplexity: what it computes is no number" in result.err


def test_an_adapter_is_measured_against_the_model_without_it(
    tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter.gguf"
    lora = LoraAdapters(FrozenLLM(tiny_llama).model, rank=2, alpha=4.0)
    lora.save(adapter, read_gguf(tiny_llama))
    same = perplexity.measure_perplexity(
        tiny_llama, text, reference=tiny_llama, n_ctx=32, n_chunks=2, lora=[(adapter, 1.0)]
    )
    assert same.divergence and same.divergence.kl.value == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for b in lora.b:
            b.normal_(std=0.2)
    lora.save(adapter, read_gguf(tiny_llama))
    other = perplexity.measure_perplexity(
        tiny_llama, text, reference=tiny_llama, n_ctx=32, n_chunks=2, lora=[(adapter, 1.0)]
    )
    assert other.divergence and other.divergence.kl.value > 1e-4
    with pytest.raises(ReellamaError, match="no such LoRA adapter"):
        perplexity.measure_perplexity(
            tiny_llama, text, n_ctx=32, lora=[(tmp_path / "none.gguf", 1.0)]
        )
