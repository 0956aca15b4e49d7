"""A token of each of several sequences is decoded as in any batch."""

from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.runtime.backend import load_model
from reellama.gguf_tools.runtime.batch import BatchSpan
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings

pytestmark = pytest.mark.numeric
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]


def test_logits_are_those_of_a_batch_of_spans(tiny_llama: Path) -> None:
    def logits(quick: bool, sequences: list[int]) -> np.ndarray:
        """Of a second token of each of these sequences, after their prompts and a first one."""
        with Context(model, 64, ContextSettings(n_threads=1), n_seq=4, n_outputs=4) as context:
            for sequence, prompt in enumerate(PROMPTS):
                ids = np.array(prompt, np.int32)
                context.decode_batch([BatchSpan(ids, 0, sequence, len(ids))])
            found = []
            for step in range(2):
                tokens = [20 + step + sequence for sequence in sequences]
                starts = [len(PROMPTS[sequence]) + step for sequence in sequences]
                if quick:
                    context.decode_one_token_per_sequence(tokens, starts, sequences)
                else:
                    context.decode_batch(
                        [
                            BatchSpan(np.array([token], np.int32), start, sequence, 0)
                            for token, start, sequence in zip(
                                tokens, starts, sequences, strict=True
                            )
                        ]
                    )
                found += [context.logits_at(i).copy() for i in range(len(sequences))]
            return np.stack(found)

    with load_model(tiny_llama) as model:
        for sequences in ([0, 1, 2], [2], [1, 2]):
            assert (logits(True, sequences) == logits(False, sequences)).all()
        rows = logits(True, [0, 1, 2])
        assert not (rows[0] == rows[1]).all()
