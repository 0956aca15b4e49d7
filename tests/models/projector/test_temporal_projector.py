"""Temporal projectors: any number of frames becomes a fixed number of soft tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reellama.models.projector.config import ProjectorConfig
from reellama.models.projector.pooling import relative_times
from reellama.models.projector.resampler import Attention
from reellama.models.projector.temporal_projector import POOLERS, Projector

pytestmark = pytest.mark.numeric

CELLS, CHANNELS = 9, 12


def projector(kind: str, **changes: int) -> Projector:
    torch.manual_seed(0)
    sizes = {"tokens": 6, "n_embd": 16, "words": 20, "width": 24, "layers": 2, "heads": 2}
    config = ProjectorConfig(kind=kind, channels=CHANNELS, cells=CELLS, **{**sizes, **changes})
    made = Projector(config).eval()
    torch.nn.init.normal_(made.word_mixture.embeddings)
    return made


def video(frames: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(frames)
    features = torch.randn(batch, frames, CELLS, CHANNELS, generator=generator)
    times = torch.arange(frames).expand(batch, -1).float() * 0.5
    return features, times, torch.ones(batch, frames, dtype=torch.bool)


@pytest.mark.parametrize("kind", POOLERS)
@pytest.mark.parametrize("frames", [1, 2, 8, 33, 64])
def test_any_number_of_frames_gives_the_same_number_of_tokens(kind: str, frames: int) -> None:
    soft = projector(kind)(*video(frames))
    assert soft.shape == (1, 6, 16)
    assert soft.isfinite().all()


@pytest.mark.parametrize("kind", POOLERS)
def test_padding_changes_nothing(kind: str) -> None:
    features, times, mask = video(5)
    padded = torch.cat([features, torch.randn(1, 3, CELLS, CHANNELS)], dim=1)
    seconds = torch.cat([times, torch.zeros(1, 3)], dim=1)
    seen = torch.cat([mask, torch.zeros(1, 3, dtype=torch.bool)], dim=1)
    made = projector(kind)
    torch.testing.assert_close(made(features, times, mask), made(padded, seconds, seen))


@pytest.mark.parametrize("kind", POOLERS)
@given(frames=st.integers(1, 20), padding=st.integers(0, 3))
def test_each_soft_token_shares_its_attention_among_the_cells_of_frames(
    kind: str, frames: int, padding: int
) -> None:
    features, times, mask = video(frames + padding, batch=2)
    mask[:, frames:] = False
    looks = projector(kind).attention(features, times, mask)
    assert looks.shape == (2, 6, frames + padding, CELLS)
    assert (looks >= 0).all() and not looks[:, :, frames:].any()
    torch.testing.assert_close(looks.sum((2, 3)), torch.ones(2, 6))


@given(heads=st.sampled_from([1, 2, 4]), seen=st.integers(1, 7))
def test_attention_mixes_what_it_attends_to_by_these_weights(heads: int, seen: int) -> None:
    attention = Attention(8, heads)
    x, context = torch.randn(2, 3, 8), torch.randn(2, 7, 8)
    mask = (torch.arange(7) < seen).expand(2, -1)
    values = attention.key_value(context).chunk(2, dim=-1)[1]
    # A value that is the same in all heads' parts is mixed by the mean of the heads.
    alike = values[..., :1].expand(-1, -1, 8)
    attention.key_value = torch.nn.Identity()  # keys and values as given
    both = torch.cat([context, alike], dim=-1)
    attention.out = torch.nn.Identity()
    mixed = attention(x, both, mask).mean(-1)
    torch.testing.assert_close(
        mixed, (attention.weights(x, both, mask) @ alike).mean(-1), atol=1e-6, rtol=1e-5
    )


def test_a_token_of_one_frame_does_not_see_the_others() -> None:
    made = projector("frame")
    features, times, mask = video(8)
    unseen = made.attention(features, times, mask)[0, 2].sum(1) == 0  # [T], of the third token
    changed = features + torch.randn(features.shape) * unseen[None, :, None, None]
    assert unseen.sum() == 7
    torch.testing.assert_close(made(features, times, mask)[:, 2], made(changed, times, mask)[:, 2])


def test_the_resampler_sees_the_order_of_frames_and_the_mean_does_not() -> None:
    features, times, mask = video(8)
    backwards = features.flip(1)
    resampler, mean = projector("resampler"), projector("mean")
    assert not torch.allclose(
        resampler(features, times, mask), resampler(backwards, times, mask), atol=1e-4
    )
    torch.testing.assert_close(mean(features, times, mask), mean(backwards, times, mask))


def test_the_resampler_sees_where_things_are() -> None:
    features, times, mask = video(4)
    elsewhere = features.roll(3, dims=2)
    made = projector("resampler")
    assert not torch.allclose(made(features, times, mask), made(elsewhere, times, mask), atol=1e-4)


@given(start=st.floats(-1e4, 1e4), length=st.floats(0.1, 7200), frames=st.integers(2, 64))
def test_time_is_relative_to_the_clip(start: float, length: float, frames: int) -> None:
    times = torch.linspace(start, start + length, frames, dtype=torch.float64)[None]
    found = relative_times(times, torch.ones(1, frames, dtype=torch.bool))
    expected = torch.linspace(0, 1, frames, dtype=torch.float64)[None]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_before_training_soft_tokens_lie_among_the_words() -> None:
    made = projector("resampler")
    soft = made(*video(8))[0]
    words = made.word_mixture.embeddings
    assert soft.norm(dim=-1).max() <= words.norm(dim=-1).max()
