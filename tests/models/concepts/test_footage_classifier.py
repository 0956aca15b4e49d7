"""Real footage and drawn clips are told apart by their mean features."""

from __future__ import annotations

import torch

from reellama.models.concepts.footage_classifier import FootageClassifier, mean_features


def test_what_can_be_told_apart_is_however_many_there_are_of_each() -> None:
    generator = torch.Generator().manual_seed(0)
    footage = torch.randn(300, 5, generator=generator) * torch.tensor([1.0, 40.0, 1, 1, 1])
    drawn = torch.randn(12, 5, generator=generator)
    footage[:, 0] += 4
    drawn[:, 0] -= 4
    classifier = FootageClassifier(5)
    assert classifier.fit(footage, drawn) == 1.0
    assert bool((classifier(footage) > 0).all()) and bool((classifier(drawn) < 0).all())


def test_padding_is_not_in_the_mean() -> None:
    features = torch.arange(24.0).view(1, 3, 4, 2)
    mask = torch.tensor([[True, True, False]])
    expected = features[:, :2].mean((1, 2))
    torch.testing.assert_close(mean_features(features, mask), expected)
