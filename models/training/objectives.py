"""Losses: words of the soft tokens, answers of the LLM, divergence from the LLM without adapter."""

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

LLM_BATCH = 8  # conversations a call of the LLM on a CPU, where padding costs more than a call


def word_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of the words of soft tokens.

    Args:
        logits: of the words, `[B, tokens, words]`.
        targets: the word of each soft token, or `IGNORED`, `[B, tokens]`.
        weights: of the loss of each soft token, `[tokens]`.
    """
    if weights is None:
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    losses = F.cross_entropy(
        logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )
    return (losses * weights).sum() / (targets != IGNORED).sum()


@dataclass(frozen=True)
class YesNoLabelSmoothing:
    """Label smoothing (Szegedy et al., 2016) between the tokens of "Yes" and "No".

    Captions are not certain evidence of what is in real footage, so hard targets would make the
    model overconfident. `share` of the target probability goes to the other token.
    """

    tokens: tuple[int, int]
    share: float

    def loss_term(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The term that smoothing adds to the summed cross-entropy of `logits [N, vocabulary]` and
        `targets [N]`."""
        yes, no = self.tokens
        difference = logits[:, yes] - logits[:, no]
        sign = (targets == yes).to(difference.dtype) - (targets == no).to(difference.dtype)
        return self.share * (difference * sign).sum()


class AnswerObjective:
    """The LLM's cross-entropy on the answers of conversations about a video.

    before: token ids before the soft tokens, the same in all conversations.
    separate_turns: whether the parts of a conversation do not attend to each other.
    """

    def __init__(self, llm: FrozenLLM, before: Sequence[int], separate_turns: bool) -> None:
        self.llm, self.before, self.separate_turns = llm, list(before), separate_turns

    def logits(self, soft: Tensor, conversations: Conversations) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the N answer tokens of conversations about videos with soft tokens
        `[B, tokens, n_embd]`.

        Returns the logits `[N, vocabulary]`, the true tokens `[N]`, and the row of `soft` that each
        belongs to `[N]`.
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
        # Padding is at the end, where no token of a causal model attends to it.
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
        """The mean loss over the tokens of all answers."""
        lengths = torch.tensor([len(ids) for ids in conversations.ids])
        size = len(lengths) if soft.device.type == "cuda" else LLM_BATCH
        total, count = torch.zeros((), device=soft.device), 0
        for rows in lengths.argsort().split(size):  # similar lengths need less padding
            batch = conversations.select(rows.tolist())
            logits, targets, _ = self.logits(soft[rows.to(soft.device)], batch)
            total = total + F.cross_entropy(logits, targets, reduction="sum")
            if smoothing:
                total = total + smoothing.loss_term(logits, targets)
            count += len(targets)
        return total / count

    def weighted_loss(self, soft: Tensor, conversations: Conversations, weights: Tensor) -> Tensor:
        """The mean loss over tokens, in which a part's answers have its weight `[B, parts]`."""
        total, count = torch.zeros((), device=soft.device), 0
        for rows in torch.arange(len(soft)).split(LLM_BATCH):
            batch = conversations.select(rows.tolist())
            logits, targets, token_rows = self.logits(soft[rows.to(soft.device)], batch)
            _, labels, parts = (column.to(soft.device) for column in batch.padded(IGNORED))
            factors = weights[rows.to(soft.device)][token_rows, parts[labels != IGNORED]]
            total = total + (F.cross_entropy(logits, targets, reduction="none") * factors).sum()
            count += len(targets)
        return total / count


def _separate_attention(parts: Tensor, start: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The attention mask and position ids for parts that do not attend to each other.

    A part attends to the `start` shared tokens before all parts and to itself; its positions
    continue those of the shared tokens. parts: the part of each token after them, `[B, L]`.
    """
    count = start + parts.shape[1]
    part_of = F.pad(parts, (start, 0), value=-1)  # [B, count]
    steps = torch.arange(count, device=parts.device)
    same_part = part_of[:, :, None] == part_of[:, None]  # [B, count, count]
    begins = same_part.int().argmax(2)  # first token of the part
    shared = steps < start
    positions = torch.where(shared, steps, steps - begins + start)
    visible = (same_part | shared) & (steps[:, None] >= steps)
    mask = torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    return {"attention_mask": mask[:, None], "position_ids": positions}


class BareLLMDivergence:
    """KL divergence of the LLM with its adapter from the bare LLM, on texts of the bare LLM.

    Args:
        llm, lora: the LLM and its adapter.
        starts: token ids that texts begin with; each starts the same number of texts.
        texts, tokens: number of texts, and of tokens in each.
        batch: texts of one loss.
        seed: of the texts.
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
        """The divergence on `batch` random texts; the first call generates all texts."""
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
        """Texts sampled from the bare LLM, as token ids `[texts, tokens]`."""
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
