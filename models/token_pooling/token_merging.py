"""Merging of the tokens that are most alike, wherever in the video they are."""

from __future__ import annotations

import numpy as np

from reellama.models.token_pooling.grid_pooling import group_of
from reellama.models.token_pooling.token_pruning import commonness, unit

# Tokens of neighbouring frames whose cosine differs from 1 by less than float32 tells are equal.
_EQUAL = 1e-6
# Pairs compared at once: their vectors stay in the processor's cache.
_PAIRS = 512


def merge_similar(
    features: np.ndarray, budget: int, groups: int, grid: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Merge neighbours in time and space, the most alike of the whole video first.

    ToMe (Bolya et al., 2023) merges the most similar tokens of a picture in rounds and weighs
    their means by size. As in FlashVID (Fan et al., 2026) the choice is global, so that more
    tokens remain where the video changes; as in KiToke (Huang and Li, 2026) tokens of different
    spans of time stay apart, here those of the groups. Which pair loses least is said by Ward's
    criterion (1963), the growth of the squared error of unit vectors: it grows with the sizes
    too, so that no token swallows a scene. A pair is merged where each is the other's best.

    Tokens that stay equal from frame to frame become one, in whatever group, even where the budget
    has room for them. Without a grid, only tokens of one index are neighbours, and where that
    leaves more than the budget, the least common are kept.
    """
    tokens = features.reshape(-1, features.shape[-1])
    vectors = unit(features)
    label = _equal_in_time(vectors)
    index = np.arange(len(tokens)).reshape(features.shape[:3])
    group = group_of(np.arange(len(features)), groups, len(features))
    goes_on = group[1:] == group[:-1]
    edges = [(index[:-1][goes_on], index[1:][goes_on])]
    if grid:
        edges += [(index[:, :-1], index[:, 1:]), (index[:, :, :-1], index[:, :, 1:])]
    pairs = np.concatenate([np.stack([a.ravel(), b.ravel()]) for a, b in edges], axis=1)
    label = _merge(vectors.reshape(tokens.shape), label, pairs, budget)
    merged, positions = _means(tokens, np.argwhere(index >= 0), label)
    if len(merged) > budget:
        directions = unit(merged)
        common = commonness(directions, directions.mean(0))
        kept = np.argsort(common, kind="stable")[:budget]
        merged, positions = merged[kept], positions[kept]
    order = np.lexsort(positions.T[::-1])
    return merged[order], positions[order]


def _equal_in_time(vectors: np.ndarray) -> np.ndarray:
    """For each token, the index of the first of the run of equal ones that it is in: `[tokens]`."""
    index = np.arange(vectors[..., 0].size).reshape(vectors.shape[:-1])
    cosines = np.einsum("thwd,thwd->thw", vectors[1:], vectors[:-1])
    first = index.copy()
    first[1:][cosines > 1 - _EQUAL] = 0
    return np.maximum.accumulate(first, axis=0).ravel()


def _merge(vectors: np.ndarray, label: np.ndarray, pairs: np.ndarray, budget: int) -> np.ndarray:
    """Merge clusters until no more than `budget`, or no neighbours, are left: their labels.

    A cluster is labelled by one of its tokens. `pairs` `[2, n]` are neighbouring tokens.
    """
    sums, sizes = vectors, np.ones(len(vectors))
    if (label != np.arange(len(label))).any():
        sums, sizes = _sums_by_label(vectors, label)
    squares = np.einsum("nd,nd->n", sums, sums)
    left = int((sizes > 0).sum())
    pairs = _neighbours(label[pairs])[0]
    dots = _dots(sums, pairs)
    while left > budget and pairs.size:
        a, b = pairs
        apart = squares[a] / sizes[a] ** 2 + squares[b] / sizes[b] ** 2
        loss = sizes[a] * sizes[b] / (sizes[a] + sizes[b])
        loss *= np.maximum(apart - 2 * dots / (sizes[a] * sizes[b]), 0)
        best = _mutually_best(loss, pairs, left - budget)
        keep, gone = pairs[:, best]
        sums[keep] += sums[gone]
        squares[keep] += squares[gone] + 2 * dots[best]
        sizes[keep] += sizes[gone]
        left -= len(best)
        parent = np.arange(len(label))
        parent[gone] = keep
        label = parent[label]
        changed = np.zeros(len(label), bool)
        changed[keep] = True
        pairs, source = _neighbours(parent[pairs])
        dots = dots[source]
        stale = changed[pairs].any(0)
        dots[stale] = _dots(sums, pairs[:, stale])
    return label


def _mutually_best(loss: np.ndarray, pairs: np.ndarray, wanted: int) -> np.ndarray:
    """Pairs that are each other's best, of the `wanted` best pairs of all: their indices."""
    order = np.argsort(loss, kind="stable")[:wanted]
    rank = np.arange(len(order))
    best = np.full(pairs.max() + 1, len(loss))
    for ends in pairs[:, order]:
        np.minimum.at(best, ends, rank)
    return order[(best[pairs[:, order]] == rank).all(0)]


def _neighbours(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each pair of different clusters once, the smaller label first, and an index of it."""
    a, b = pairs.min(0), pairs.max(0)
    apart = np.flatnonzero(a != b)
    _, once = np.unique(a[apart] * (b.max(initial=0) + 1) + b[apart], return_index=True)
    source = apart[once]
    return np.stack([a[source], b[source]]), source


def _dots(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The inner products of pairs of vectors, float32 `[n]`."""
    parts = [pairs[:, i : i + _PAIRS] for i in range(0, pairs.shape[1], _PAIRS)]
    found = [np.einsum("nd,nd->n", vectors[a], vectors[b]) for a, b in parts]
    return np.concatenate([np.zeros(0, vectors.dtype), *found])


def _sums_by_label(vectors: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and numbers of the vectors of each label, at the label's index; 0 elsewhere."""
    sums, sizes = np.zeros_like(vectors), np.zeros(len(vectors))
    order, start = _runs(label)
    sums[label[order[start]]] = np.add.reduceat(vectors[order], start)
    sizes[label[order[start]]] = np.diff(start, append=len(order))
    return sums, sizes


def _means(
    tokens: np.ndarray, positions: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mean token and the mean position of each label."""
    order, start = _runs(label)
    sizes = np.diff(start, append=len(order))[:, None]
    means = np.add.reduceat(tokens[order], start) / sizes.astype(tokens.dtype)
    return means, np.add.reduceat(positions[order], start) / sizes


def _runs(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order that puts equal labels side by side, and where each run of them starts."""
    order = np.argsort(label, kind="stable")
    return order, np.flatnonzero(np.diff(label[order], prepend=-1))
