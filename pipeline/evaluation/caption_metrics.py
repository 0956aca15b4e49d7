"""Descriptions against those of people: BLEU-4 (sacrebleu) and CIDEr (pycocoevalcap)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.evaluation.answer_matching import normalized_words


def check_installed() -> None:
    """Raise ReellamaError when the packages that score captions are not installed."""
    try:
        import pycocoevalcap.cider.cider  # noqa: F401  # it is asked for, not used
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise ReellamaError(
            'captions are scored by sacrebleu and pycocoevalcap: pip install "reellama[eval]"'
        ) from error


def caption_scores(said: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU-4, 0 to 100, and CIDEr, 0 to 10, of descriptions; each has one reference or more.

    CIDEr weighs words by how rare they are among all the references, so it is 0 for a single clip.
    Its usual tokenizer is a Java program; here words are small letters without marks.
    """
    check_installed()
    from pycocoevalcap.cider.cider import Cider
    from sacrebleu.metrics.bleu import BLEU

    most = max(map(len, references))
    columns: Any = [
        [each[i] if i < len(each) else None for each in references] for i in range(most)
    ]
    bleu = BLEU(lowercase=True).corpus_score(list(said), columns)
    told = {i: [" ".join(normalized_words(text))] for i, text in enumerate(said)}
    wanted = {
        i: [" ".join(normalized_words(t)) for t in texts] for i, texts in enumerate(references)
    }
    cider, _ = Cider().compute_score(wanted, told)
    return {"BLEU-4": float(bleu.score), "CIDEr": float(cider)}
