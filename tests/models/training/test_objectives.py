"""Yes and no about real footage: smoothing keeps the answer and takes the certainty away."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from reellama.models.training.objectives import YesNoLabelSmoothing

YES, NO, WORDS = 3, 7, 10


@given(st.floats(0.0, 0.49), st.lists(st.sampled_from([YES, NO, 1]), min_size=1, max_size=6))
def test_it_is_the_cross_entropy_of_the_shared_probability(
    share: float, targets: list[int]
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(len(targets), WORDS, dtype=torch.float64)
    shared = F.one_hot(torch.tensor(targets), WORDS).double()
    for row, target in enumerate(targets):
        if target in (YES, NO):
            shared[row, target], shared[row, YES + NO - target] = 1 - share, share
    plain = F.cross_entropy(logits, torch.tensor(targets), reduction="sum")
    added = YesNoLabelSmoothing((YES, NO), share).loss_term(logits, torch.tensor(targets))
    torch.testing.assert_close(plain + added, F.cross_entropy(logits, shared, reduction="sum"))


def test_what_is_learned_leaves_the_share_to_the_other_token() -> None:
    logits = torch.zeros(1, WORDS, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100)
    target = torch.tensor([YES])

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        added = YesNoLabelSmoothing((YES, NO), 0.2).loss_term(logits, target)
        value = F.cross_entropy(logits, target, reduction="sum") + added
        value.backward()
        return value

    optimizer.step(loss)
    learned = logits.detach().softmax(1)[0]
    assert abs(learned[YES] - 0.8) < 0.01 and abs(learned[NO] - 0.2) < 0.01
