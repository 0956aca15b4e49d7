"""Batches of synthetic clips, drawn by worker processes and divided among ranks."""

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
    """Token ids of conversations, without the soft tokens.

    Attributes:
        ids: token ids of each conversation.
        labels: the token id where a token belongs to an answer, else `IGNORED`.
        parts: for each token, the number of its part of the conversation. A part follows the soft
            tokens directly and does not attend to other parts.
    """

    ids: list[list[int]]
    labels: list[list[int]]
    parts: list[list[int]]

    def select(self, rows: Sequence[int]) -> Conversations:
        """The conversations with these indices."""
        return Conversations(*([column[row] for row in rows] for column in self))

    def padded(self, empty: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, labels and parts as tensors `[C, longest]`; labels are padded with `empty`."""
        longest = max(len(ids) for ids in self.ids)
        fills = (0, empty, 0)
        ids, labels, parts = (
            torch.tensor([row + [fill] * (longest - len(row)) for row in column])
            for column, fill in zip(self, fills, strict=True)
        )
        return ids, labels, parts


@dataclass
class ClipBatch:
    """A batch of samples; shorter ones are padded at the end.

    It has only what a step needs, because worker processes send it to the one that trains. Sending
    the clips with their pictures took longer than the rest of a step.
    """

    frames: Tensor  # uint8 [B, T, 3, side, side]
    times: Tensor  # float32 [B, T]
    mask: Tensor  # bool [B, T]
    targets: Tensor  # int64 [B, tokens], the word of each soft token, or IGNORED
    imagenet_tokens: Tensor  # int64 [B, N_TOKENS], token ids of the ImageNet class names
    conversations: Conversations
    tasks: list[list[str]]  # task of each turn, with a star if its question lists choices


B = TypeVar("B")


def pad_samples(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor]:
    """Frames uint8 `[B, T, 3, side, side]`, seconds `[B, T]` and mask `[B, T]` of samples."""
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
    """Batches of the samples from `start` to `stop`, drawn by worker processes.

    Args:
        clips: the data set.
        collate: makes a batch of samples, in a worker process.
        start, stop: range of the samples' numbers.
        size: samples in a batch, over all ranks.
        workers: number of processes; 0 to draw in this one.
        shared: whether each rank gets its part of every batch, or all of it.
    """
    first, step = (distributed.rank(), distributed.world_size()) if shared else (0, 1)
    loader: DataLoader[Sample] = DataLoader(
        clips,
        batch_size=distributed.local_batch_size(size) if shared else size,
        sampler=range(start + first, stop, step),
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=2 if workers else None,
        # `collate` has a tokenizer of llama.cpp, which cannot be pickled for a spawned process.
        multiprocessing_context="fork" if workers else None,
    )
    yield from loader
