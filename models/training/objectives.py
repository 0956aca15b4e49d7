"""Losses: the words of soft tokens, the LLM's answers, and its divergence from the bare LLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reellama.models.training.batches import IGNORED, Conversations
from reellama.models.training.frozen_llm import FrozenLLM, quiet_transformers
from reellama.models.training.lora import LoraAdapters

LLM_BATCH = 8  # conversations a call of the LLM on a CPU, where padding costs more than calls


def word_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of `logits [B, tokens, words]` and numbers of words, `[B, tokens]`.

    Targets that are `IGNORED` do not count. weights: a factor for each soft token, `[tokens]`.
    """
    if weights is None:
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    losses = F.cross_entropy(
        logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )
    return (losses * weights).sum() / (targets != IGNORED).sum()


@dataclass(frozen=True)
class YesNoLabelSmoothing:
    """Tokens of which one is as good as never sure: "Yes" and "No" about real footage.

    With captions for truth, a model that is told to be certain is wrong too often for its
    certainty. So `share` of the probability goes to the other token (label smoothing, Szegedy et
    al., 2016, of two classes).
    """

    tokens: tuple[int, int]
    share: float

    def loss_term(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What smoothing adds to the summed cross-entropy of `logits [N, vocabulary]`."""
        one, other = self.tokens
        apart = logits[:, one] - logits[:, other]
        sign = (targets == one).to(apart.dtype) - (targets == other).to(apart.dtype)
        return self.share * (apart * sign).sum()


class AnswerObjective:
    """The LLM's cross-entropy on the answers of conversations about a video.

    before: token ids that stand before the soft tokens, the same in all conversations.
    separate_turns: whether the parts of a conversation do not see each other.
    """

    def __init__(self, llm: FrozenLLM, before: Sequence[int], separate_turns: bool) -> None:
        self.llm, self.before, self.separate_turns = llm, list(before), separate_turns

    def logits(self, soft: Tensor, conversations: Conversations) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions of the answers' N tokens after soft tokens `[B, tokens, n_embd]`.

        Returns the logits `[N, vocabulary]`, the true tokens `[N]`, and the rows of `soft` that
        they belong to, `[N]`.
        """
        before = self.llm.embed(self.before)
        ids, labels, parts = (column.to(soft.device) for column in conversations.padded(IGNORED))
        inputs = torch.cat(
            [
                before.expand(len(soft), -1, -1).to(self.llm.dtype),
                soft.to(self.llm.dtype),
                self.llm.embed(ids).to(self.llm.dtype),
            ],
            dim=1,
        )
        start = len(self.before) + soft.shape[1]
        # Padding stands at the end, where a causal model does not see it.
        attention = _separate_attention(parts, start, inputs.dtype) if self.separate_turns else {}
        states = self.llm.model.get_decoder()(inputs_embeds=inputs, **attention).last_hidden_state
        counted = labels != IGNORED
        predicting = states[:, start - 1 : -1][counted]
        logits = self.llm.model.get_output_embeddings()(predicting).float()
        rows = torch.arange(len(ids), device=soft.device)[:, None].expand_as(labels)[counted]
        return logits, labels[counted], rows

    def loss(
        self,
        soft: Tensor,
        conversations: Conversations,
        smoothing: YesNoLabelSmoothing | None = None,
    ) -> Tensor:
        """The mean over the tokens of all answers."""
        lengths = torch.tensor([len(ids) for ids in conversations.ids])
        size = len(lengths) if soft.device.type == "cuda" else LLM_BATCH
        total, count = torch.zeros((), device=soft.device), 0
        for rows in lengths.argsort().split(size):  # those of like length side by side
            part = conversations.select(rows.tolist())
            logits, targets, _ = self.logits(soft[rows.to(soft.device)], part)
            total = total + F.cross_entropy(logits, targets, reduction="sum")
            if smoothing:
                total = total + smoothing.loss_term(logits, targets)
            count += len(targets)
        return total / count

    def weighted_loss(self, soft: Tensor, conversations: Conversations, weights: Tensor) -> Tensor:
        """The loss of each part's answers times its weight `[B, parts]`, over all tokens."""
        total, count = torch.zeros((), device=soft.device), 0
        for rows in torch.arange(len(soft)).split(LLM_BATCH):
            chosen = conversations.select(rows.tolist())
            logits, targets, of_row = self.logits(soft[rows.to(soft.device)], chosen)
            _, labels, parts = (column.to(soft.device) for column in chosen.padded(IGNORED))
            factors = weights[rows.to(soft.device)][of_row, parts[labels != IGNORED]]
            total = total + (F.cross_entropy(logits, targets, reduction="none") * factors).sum()
            count += len(targets)
        return total / count


def _separate_attention(parts: Tensor, start: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Arguments for an LLM that reads `parts [B, L]`, each by itself, after `start` shared tokens.

    Every part's positions continue those of the shared tokens, and it sees those and itself.
    """
    count = start + parts.shape[1]
    part_of = F.pad(parts, (start, 0), value=-1)  # [B, count]
    steps = torch.arange(count, device=parts.device)
    begins = (part_of[:, :, None] == part_of[:, None]).int().argmax(2)  # first token of the part
    shared = steps < start
    positions = torch.where(shared, steps, steps - begins + start)
    visible = (part_of[:, :, None] == part_of[:, None]) | shared
    visible &= steps[:, None] >= steps
    mask = torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    return {"attention_mask": mask[:, None], "position_ids": positions}


class BareLLMDivergence:
    """How far the adapter moves the LLM from the bare one, on texts that the bare one wrote (KL).

    Args:
        starts: token ids that texts begin with, the same number of texts each.
        texts, tokens: how many texts, of how many tokens each.
        batch: texts of one loss.
    """

    def __init__(
        self,
        llm: FrozenLLM,
        lora: LoraAdapters,
        starts: Sequence[list[int]],
        *,
        texts: int,
        tokens: int,
        batch: int,
        seed: int,
    ) -> None:
        self.llm, self.lora, self.starts = llm, lora, starts
        self.texts, self.tokens, self.batch, self.seed = texts, tokens, batch, seed
        self._reference: Tensor | None = None

    def loss(self, rng: np.random.Generator) -> Tensor:
        """The divergence on `batch` random texts; the first call writes all of them."""
        if self._reference is None:
            self._reference = self.reference_texts()
        rows = torch.from_numpy(rng.choice(len(self._reference), self.batch, replace=False))
        ids = self._reference[rows.to(self._reference.device)]
        with torch.no_grad(), self.lora.disabled():
            bare = self.llm.model(input_ids=ids).logits.float().log_softmax(-1)
        adapted = self.llm.model(input_ids=ids).logits.float().log_softmax(-1)
        return F.kl_div(
            adapted.flatten(0, 1), bare.flatten(0, 1), log_target=True, reduction="batchmean"
        )

    @torch.no_grad()
    def reference_texts(self) -> Tensor:
        """Texts sampled from the bare LLM, ids `[texts, tokens]`."""
        torch.manual_seed(self.seed)
        texts = []
        self.llm.model.eval()
        device = next(self.llm.model.parameters()).device
        with self.lora.disabled(), quiet_transformers():
            for start in self.starts:
                ids = torch.tensor([start] * (self.texts // len(self.starts)), device=device)
                length = max(1, self.tokens - len(start))
                texts.append(
                    self.llm.model.generate(
                        input_ids=ids,
                        attention_mask=torch.ones_like(ids),
                        do_sample=True,
                        temperature=1.0,
                        top_k=0,
                        top_p=1.0,
                        max_new_tokens=length,
                        min_new_tokens=length,
                    )
                )
        shortest = min(text.shape[1] for text in texts)
        return torch.cat([text[:, :shortest] for text in texts])
