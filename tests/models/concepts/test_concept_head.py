"""The concept head: pooled over cells and frames, blind to padding and to the order of frames."""

from __future__ import annotations

import torch

from reellama.models.concepts.concept_head import ConceptHead


def head() -> ConceptHead:
    torch.manual_seed(0)
    return ConceptHead(channels=6, concepts=5, width=8).eval()


def features(frames: int) -> torch.Tensor:
    return torch.randn(2, frames, 4, 6, generator=torch.Generator().manual_seed(frames))


def test_padding_changes_nothing() -> None:
    net, real = head(), features(3)
    mask = torch.ones(2, 3, dtype=torch.bool)
    padded = torch.cat([real, torch.full((2, 2, 4, 6), 9.0)], dim=1)
    longer = torch.cat([mask, torch.zeros(2, 2, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(net(padded, longer), net(real, mask))


def test_frames_may_come_in_any_order_and_twice() -> None:
    net, real = head(), features(3)
    mask = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(net(real.flip(1), mask), net(real, mask))
    twice = torch.cat([real, real], dim=1)
    torch.testing.assert_close(net(twice, torch.cat([mask, mask], dim=1)), net(real, mask))


def test_a_concept_is_as_likely_as_its_best_cells_make_it() -> None:
    """Where all cells are alike, what each says for itself is what the video says."""
    net, mask = head(), torch.ones(2, 2, dtype=torch.bool)
    alike = features(2)[:, :1, :1].expand(2, 2, 4, 6)
    with torch.no_grad():
        net.whole_score.weight.zero_()
        net.whole_score.bias.zero_()
    torch.testing.assert_close(net(alike, mask), net.cell_logits(alike)[:, 0, 0])


def test_calibration_scales_the_logits() -> None:
    net, real = head(), features(1)
    mask = torch.ones(2, 1, dtype=torch.bool)
    before = net(real, mask)
    net.calibration.copy_(torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(net(real, mask), before * 0.5 + 1.0)
