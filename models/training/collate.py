"""What the LLM is to say about stories: a conversation's tokens, and which of them count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.text.chat_template import ChatTemplate
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.models.projector import slots
from reellama.models.prompt_format import question_ids
from reellama.models.synthetic import slot_targets
from reellama.models.synthetic.dataset import Sample, SyntheticClips, task_of_turn
from reellama.models.training.batches import ClipBatch, Conversations, pad_samples
from reellama.models.vision.imagenet_labels import name_ids

SAMPLED_CLIPS = 2000  # stories whose words are counted
IGNORED = -100  # PyTorch's label of positions that the loss leaves out


class ConversationCollator:
    """Turns samples into batches.

    tokens: soft tokens of a video; the first `form.TOKENS` are those of the form.
    words: token ids that a soft token can be, number 0 for saying nothing.
    separate_turns: whether every turn about a clip is a conversation of its own.
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
                f"stories need {slots.N_SLOT_TOKENS} soft tokens, the projector has {tokens}"
            )
        self.tokens, self.separate_turns = tokens, separate_turns
        self.words = list(words)
        self._index = {token: number for number, token in enumerate(self.words)}
        self.before, _ = question_ids(template, tokenizer, system, "?")

    def __call__(self, samples: list[Sample]) -> ClipBatch:
        """What a step takes; runs in the worker processes that draw."""
        frames, times, mask = pad_samples(samples)
        targets = torch.tensor([self.targets(sample["slots"]) for sample in samples])
        seen = self._names[
            torch.tensor([sample["imagenet_classes"] for sample in samples])
        ].flatten(1)
        taught = [self._told(sample["turns"]) for sample in samples]
        told = Conversations(*(list(column) for column in zip(*taught, strict=True)))
        tasks = [
            [task_of_turn(question, sample["clip"]) for question, _ in sample["turns"]]
            for sample in samples
        ]
        return ClipBatch(frames, times, mask, targets, seen, told, tasks)

    def _told(self, turns: list[tuple[str, str]]) -> tuple[list[int], list[int], list[int]]:
        """Ids, labels and parts of a conversation: of one part, or of a part a turn."""
        talks = [[turn] for turn in turns] if self.separate_turns else [turns]
        ids: list[int] = []
        labels: list[int] = []
        parts: list[int] = []
        for part, talk in enumerate(talks):
            said, counted = self.conversation(talk)
            ids, labels, parts = ids + said, labels + counted, parts + [part] * len(said)
        return ids, labels, parts

    def targets(self, fields: Sequence[str]) -> list[int]:
        """Numbers of words, one for each soft token; `IGNORED` for those beyond the form."""
        row: list[int] = []
        for text, width in zip(fields, slots.SLOT_WIDTHS, strict=True):
            ids = self.tokenizer.encode(f" {text}")[:width] if text else []
            row += [self._index.get(token, IGNORED) for token in ids]
            row += [0] * (width - len(ids))
        return row + [IGNORED] * (self.tokens - len(row))

    def conversation(self, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[int]]:
        """Token ids after the soft tokens, and the same where they are answers, else IGNORED."""
        eos = self.tokenizer.eos
        assert eos is not None
        spans: list[tuple[list[int], list[int]]] = []  # what comes before an answer, and the answer
        for number, (question, answer) in enumerate(turns):
            _, after = question_ids(
                self.template, self.tokenizer, self.system, question, turns[:number]
            )
            spans.append((after, [*self.tokenizer.encode(answer), eos]))
        before, said = spans[-1]
        ids = [*before, *said]
        labels = [IGNORED] * len(ids)
        for before, said in spans:
            start, end = len(before), len(before) + len(said)
            # A template may write earlier turns in another way; those are not learned then.
            if ids[:start] == before and ids[start:end] == said:
                labels[start:end] = said
        return ids, labels


def slot_vocabulary(
    stories: SyntheticClips, tokenizer: Tokenizer, most: int, sampled: int = SAMPLED_CLIPS
) -> list[int]:
    """Token ids of forms, the most frequent first; padding ("\\n") is number 0."""
    seen: Counter[int] = Counter()
    told = [stories.clip(number) for number in range(sampled)]
    said = [text for story in told for text in slot_targets.slot_texts(story) if text]
    for text in (*said, *(name for cast in stories.picture_pools for name in cast.names)):
        seen.update(tokenizer.encode(f" {text}"))
    padding = tokenizer.encode("\n")[0]
    seen.pop(padding, None)
    return [padding, *(token for token, _ in seen.most_common(most - 1))]
