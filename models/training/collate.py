"""Collate samples of synthetic clips to batches: targets of the soft tokens, and conversations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.text.chat_template import ChatTemplate
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.models.projector import slots
from reellama.models.prompt_format import question_ids
from reellama.models.synthetic import slot_targets
from reellama.models.synthetic.dataset import Sample, SyntheticClips, task_of_turn
from reellama.models.training.batches import IGNORED, ClipBatch, Conversations, pad_samples
from reellama.models.vision.imagenet_labels import name_ids

SAMPLED_CLIPS = 2000  # clips whose words are counted for a vocabulary


class ConversationCollator:
    """Collates samples to batches.

    Args:
        tokenizer, template: of the LLM.
        system: the system prompt.
        tokens: number of soft tokens; the first `slots.N_SLOT_TOKENS` are those of the slots.
        words: token ids that the word mixture can mix; number 0 is padding.
        separate_turns: whether every turn about a clip is a conversation of its own.

    Raises:
        ReellamaError: there are fewer soft tokens than the slots need.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        system: str,
        *,
        tokens: int,
        words: Sequence[int],
        separate_turns: bool = False,
    ) -> None:
        self._names = torch.tensor(name_ids(tokenizer.encode, tokenizer.encode("\n")[0]))
        self.tokenizer, self.template, self.system = tokenizer, template, system
        if tokens < slots.N_SLOT_TOKENS:
            raise ReellamaError(
                f"the slots need {slots.N_SLOT_TOKENS} soft tokens, the projector has {tokens}"
            )
        self.tokens, self.separate_turns = tokens, separate_turns
        self.words = list(words)
        self._index = {token: number for number, token in enumerate(self.words)}
        self.before, _ = question_ids(template, tokenizer, system, "?")

    def __call__(self, samples: list[Sample]) -> ClipBatch:
        """A batch of the samples. It runs in the worker processes that draw."""
        frames, times, mask = pad_samples(samples)
        targets = torch.tensor([self.targets(sample["slots"]) for sample in samples])
        imagenet_tokens = self._names[
            torch.tensor([sample["imagenet_classes"] for sample in samples])
        ].flatten(1)
        rows = [self.tokenize_turns(sample["turns"]) for sample in samples]
        conversations = Conversations(*(list(column) for column in zip(*rows, strict=True)))
        tasks = [
            [task_of_turn(question, sample["clip"]) for question, _ in sample["turns"]]
            for sample in samples
        ]
        return ClipBatch(frames, times, mask, targets, imagenet_tokens, conversations, tasks)

    def tokenize_turns(
        self, turns: list[tuple[str, str]]
    ) -> tuple[list[int], list[int], list[int]]:
        """Ids, labels and parts of a conversation; with `separate_turns`, each turn is a part."""
        groups = [[turn] for turn in turns] if self.separate_turns else [turns]
        ids: list[int] = []
        labels: list[int] = []
        parts: list[int] = []
        for part, group in enumerate(groups):
            tokens, counted = self.conversation(group)
            ids, labels, parts = ids + tokens, labels + counted, parts + [part] * len(tokens)
        return ids, labels, parts

    def targets(self, slot_texts: Sequence[str]) -> list[int]:
        """The target word of each soft token; `IGNORED` for tokens after the slots."""
        row: list[int] = []
        for text, width in zip(slot_texts, slots.SLOT_WIDTHS, strict=True):
            ids = self.tokenizer.encode(f" {text}")[:width] if text else []
            row += [self._index.get(token, IGNORED) for token in ids]
            row += [0] * (width - len(ids))
        return row + [IGNORED] * (self.tokens - len(row))

    def conversation(self, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[int]]:
        """Token ids after the soft tokens, and labels: the ids of answers, else `IGNORED`."""
        eos = self.tokenizer.eos
        assert eos is not None
        spans: list[tuple[list[int], list[int]]] = []  # ids before an answer, ids of the answer
        for number, (question, answer) in enumerate(turns):
            _, after = question_ids(
                self.template, self.tokenizer, self.system, question, turns[:number]
            )
            spans.append((after, [*self.tokenizer.encode(answer), eos]))
        before, answer_ids = spans[-1]
        ids = [*before, *answer_ids]
        labels = [IGNORED] * len(ids)
        for before, answer_ids in spans:
            start, end = len(before), len(before) + len(answer_ids)
            # A template may render earlier turns differently; then those answers are not learned.
            if ids[:start] == before and ids[start:end] == answer_ids:
                labels[start:end] = answer_ids
        return ids, labels


def slot_vocabulary(
    clips: SyntheticClips, tokenizer: Tokenizer, size: int, sampled: int = SAMPLED_CLIPS
) -> list[int]:
    """The `vocabulary` of the texts of slots and of the names of all pictures."""
    drawn = [clips.clip(number) for number in range(sampled)]
    texts = [text for clip in drawn for text in slot_targets.slot_texts(clip) if text]
    names = [name for pool in clips.picture_pools for name in pool.names]
    return vocabulary((f" {text}" for text in (*texts, *names)), tokenizer, size)


def vocabulary(texts: Iterable[str], tokenizer: Tokenizer, size: int) -> list[int]:
    """Padding ("\\n"), then the most frequent token ids of texts: `size` ids in all."""
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(tokenizer.encode(text))
    padding = tokenizer.encode("\n")[0]
    counts.pop(padding, None)
    return [padding, *(token for token, _ in counts.most_common(size - 1))]
