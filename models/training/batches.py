"""Batches of synthetic clips, drawn by worker processes and split among ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from reellama.models.synthetic.dataset import Sample, SyntheticClips
from reellama.models.training import distributed

IGNORED = -100  # PyTorch's label of positions that the loss leaves out


class Conversations(NamedTuple):
    """Token ids of conversations, without the soft tokens; labels are the same in answers.

    parts: of each token, the number of its part of the conversation. A part follows the soft
        tokens directly and does not see the other parts.
    """

    ids: list[list[int]]
    labels: list[list[int]]
    parts: list[list[int]]

    def select(self, rows: Sequence[int]) -> Conversations:
        """The conversations of these rows."""
        return Conversations(*([column[row] for row in rows] for column in self))

    def padded(self, empty: int) -> tuple[Tensor, Tensor, Tensor]:
        """The three side by side `[C, longest]`; where a shorter one ends, labels are `empty`."""
        longest = max(len(ids) for ids in self.ids)
        fills = (0, empty, 0)
        ids, labels, parts = (
            torch.tensor([row + [fill] * (longest - len(row)) for row in column])
            for column, fill in zip(self, fills, strict=True)
        )
        return ids, labels, parts


@dataclass
class ClipBatch:
    """Samples side by side; shorter ones are padded at the end.

    It holds only what a step needs, because it goes from one process to another: sending the clips
    and their pictures along took longer than all else.
    """

    frames: Tensor  # uint8 [B, T, 3, side, side]
    times: Tensor  # float32 [B, T]
    mask: Tensor  # bool [B, T]
    targets: Tensor  # int64 [B, tokens], numbers of words
    imagenet_tokens: Tensor  # int64 [B, N_TOKENS], tokens of the names that the classifier gives
    conversations: Conversations
    tasks: list[list[str]]  # of each turn: its task, with a star where its choices were named


B = TypeVar("B")


def pad_samples(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor]:
    """Frames, seconds and mask of samples side by side."""
    longest = max(len(s["times"]) for s in samples)
    side = samples[0]["frames"].shape[-1]
    frames = torch.zeros(len(samples), longest, 3, side, side, dtype=torch.uint8)
    times = torch.zeros(len(samples), longest)
    mask = torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, sample in enumerate(samples):
        count = len(sample["times"])
        frames[row, :count] = sample["frames"]
        times[row, :count] = sample["times"]
        mask[row, :count] = True
    return frames, times, mask


def clip_batches(
    clips: SyntheticClips,
    collate: Callable[[list[Sample]], B],
    start: int,
    stop: int,
    size: int,
    workers: int,
    *,
    shared: bool = True,
) -> Iterator[B]:
    """Samples from `start` on, `size` at a time, drawn by worker processes.

    shared: of several processes that train together, each gets its part of every batch.
    """
    first, among = (distributed.rank(), distributed.world_size()) if shared else (0, 1)
    loader: DataLoader[Sample] = DataLoader(
        clips,
        batch_size=distributed.local_batch_size(size) if shared else size,
        sampler=range(start + first, stop, among),
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=2 if workers else None,
        # The tokenizer is a model of llama.cpp, which cannot be sent to a new process.
        multiprocessing_context="fork" if workers else None,
    )
    yield from loader
