"""Merging of similar neighbouring tokens, the most similar of the whole video first."""

from __future__ import annotations

import numpy as np

from reellama.models.token_pooling.grid_pooling import group_of
from reellama.models.token_pooling.token_pruning import commonness, unit

# Tokens of neighbouring frames count as equal if their cosine is this near to 1: float32 is not
# more accurate.
_EQUAL = 1e-6
_PAIR_BLOCK = 512  # pairs that are compared at once; their vectors fit the processor's cache


def merge_similar(
    features: np.ndarray, budget: int, groups: int, grid: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Merge neighbours in time and space, the most similar of the whole video first.

    As in ToMe (Bolya et al., 2023), the most similar tokens are merged in rounds, to means that are
    weighted by size. As in FlashVID (Fan et al., 2026), the choice is global, so that more tokens
    remain where the video changes. As in KiToke (Huang and Li, 2026), tokens of different spans of
    time are not merged; here the spans are the groups. The loss of a merge is Ward's criterion
    (1963), the growth of the squared error of unit vectors. It grows with the sizes, too, so that
    no token takes over a scene. Two tokens are merged if each is the other's best.

    Tokens that stay equal from frame to frame always become one, even across groups and if the
    budget has room for them. Without a grid, only tokens with the same index in their frames are
    neighbours. If merging all of those leaves more tokens than the budget, the least common ones
    are kept.
    """
    tokens = features.reshape(-1, features.shape[-1])
    vectors = unit(features)
    label = _equal_in_time(vectors)
    index = np.arange(len(tokens)).reshape(features.shape[:3])
    group = group_of(np.arange(len(features)), groups, len(features))
    same_group = group[1:] == group[:-1]  # [frames - 1]
    edges = [(index[:-1][same_group], index[1:][same_group])]
    if grid:
        edges += [(index[:, :-1], index[:, 1:]), (index[:, :, :-1], index[:, :, 1:])]
    pairs = np.concatenate([np.stack([a.ravel(), b.ravel()]) for a, b in edges], axis=1)
    label = _merge(vectors.reshape(tokens.shape), label, pairs, budget)
    merged, positions = _means(tokens, np.argwhere(index >= 0), label)
    if len(merged) > budget:
        directions = unit(merged)
        common = commonness(directions, directions.mean(0))
        least_common = np.argsort(common, kind="stable")[:budget]
        merged, positions = merged[least_common], positions[least_common]
    order = np.lexsort(positions.T[::-1])
    return merged[order], positions[order]


def _equal_in_time(vectors: np.ndarray) -> np.ndarray:
    """For each token, the index of the first token in its run of equal tokens over time:
    `[tokens]`. vectors: unit vectors `[frames, rows, columns, n_embd]`."""
    index = np.arange(vectors[..., 0].size).reshape(vectors.shape[:-1])
    cosines = np.einsum("thwd,thwd->thw", vectors[1:], vectors[:-1])
    first = index.copy()
    first[1:][cosines > 1 - _EQUAL] = 0
    return np.maximum.accumulate(first, axis=0).ravel()


def _merge(vectors: np.ndarray, label: np.ndarray, pairs: np.ndarray, budget: int) -> np.ndarray:
    """Merge clusters of tokens until at most `budget` or no neighbours are left.

    Args:
        vectors: unit vectors `[tokens, n_embd]`.
        label: the cluster of each token at the start `[tokens]`, named by the index of one of its
            tokens.
        pairs: neighbouring tokens `[2, n]`.
        budget: number of clusters to reach.

    Returns:
        The cluster of each token `[tokens]`.
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
        # Ward's criterion: the squared distance of the clusters' means, weighted by their sizes.
        mean_squares = squares[a] / sizes[a] ** 2 + squares[b] / sizes[b] ** 2
        loss = sizes[a] * sizes[b] / (sizes[a] + sizes[b])
        loss *= np.maximum(mean_squares - 2 * dots / (sizes[a] * sizes[b]), 0)
        best = _mutually_best(loss, pairs, left - budget)
        target, source = pairs[:, best]  # each source is merged into its target
        sums[target] += sums[source]
        squares[target] += squares[source] + 2 * dots[best]
        sizes[target] += sizes[source]
        left -= len(best)
        parent = np.arange(len(label))
        parent[source] = target
        label = parent[label]
        changed = np.zeros(len(label), bool)
        changed[target] = True
        pairs, old_pairs = _neighbours(parent[pairs])
        dots = dots[old_pairs]
        stale = changed[pairs].any(0)
        dots[stale] = _dots(sums, pairs[:, stale])
    return label


def _mutually_best(loss: np.ndarray, pairs: np.ndarray, max_pairs: int) -> np.ndarray:
    """Indices of the pairs whose clusters are each other's best, among the `max_pairs` pairs with
    the smallest loss."""
    order = np.argsort(loss, kind="stable")[:max_pairs]
    rank = np.arange(len(order))
    best = np.full(pairs.max() + 1, len(loss))
    for ends in pairs[:, order]:
        np.minimum.at(best, ends, rank)
    return order[(best[pairs[:, order]] == rank).all(0)]


def _neighbours(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct pairs of different clusters `[2, m]`, the smaller label first, and the index of
    each in `pairs [2, n]`."""
    a, b = pairs.min(0), pairs.max(0)
    different = np.flatnonzero(a != b)
    keys = a[different] * (b.max(initial=0) + 1) + b[different]
    indices = different[np.unique(keys, return_index=True)[1]]
    return np.stack([a[indices], b[indices]]), indices


def _dots(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The dot products of pairs of vectors, float32 `[n]`."""
    blocks = [pairs[:, i : i + _PAIR_BLOCK] for i in range(0, pairs.shape[1], _PAIR_BLOCK)]
    dots = [np.einsum("nd,nd->n", vectors[a], vectors[b]) for a, b in blocks]
    return np.concatenate([np.zeros(0, vectors.dtype), *dots])


def _sums_by_label(vectors: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the vectors with each label, at the label's index; 0 elsewhere."""
    sums, sizes = np.zeros_like(vectors), np.zeros(len(vectors))
    order, start = _runs(label)
    sums[label[order[start]]] = np.add.reduceat(vectors[order], start)
    sizes[label[order[start]]] = np.diff(start, append=len(order))
    return sums, sizes


def _means(
    tokens: np.ndarray, positions: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mean token and the mean position for each label."""
    order, start = _runs(label)
    sizes = np.diff(start, append=len(order))[:, None]
    means = np.add.reduceat(tokens[order], start) / sizes.astype(tokens.dtype)
    return means, np.add.reduceat(positions[order], start) / sizes


def _runs(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order that sorts the labels, and where the run of each label starts in it."""
    order = np.argsort(label, kind="stable")
    return order, np.flatnonzero(np.diff(label[order], prepend=-1))
