"""Caption metrics: BLEU-4 (sacrebleu) and CIDEr (pycocoevalcap).

METEOR, SPICE and the tokenizer of pycocoevalcap are Java programs. Here texts are tokenized without
Java, by rules that agree with that tokenizer except for rare punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from reellama.gguf_tools.errors import ReellamaError

# Words as in the Penn Treebank: "don't" is "do n't", "dog's" is "dog 's", "t-shirt" is one.
_WORD = re.compile(r"n't\b|'(?:s|re|ve|ll|d|m)\b|[^\W_]+(?:-[^\W_]+)*")
_NOT = re.compile(r"(?<=\w)n't\b")


def check_installed() -> None:
    """Raise ReellamaError if the packages that score captions are not installed."""
    try:
        import pycocoevalcap.cider.cider  # noqa: F401  # only tested for
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise ReellamaError(
            'captions are scored by sacrebleu and pycocoevalcap: pip install "reellama[eval]"'
        ) from error


def caption_words(text: str) -> list[str]:
    """Words as caption metrics count them: lower case, with articles, without punctuation.

    >>> caption_words("The dog's t-shirt isn't red, is it?")
    ['the', 'dog', "'s", 't-shirt', 'is', "n't", 'red', 'is', 'it']
    """
    return _WORD.findall(
        _NOT.sub(" n't", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    )


def cider_of_each(
    descriptions: Sequence[str],
    references: Sequence[Sequence[str]],
    others: Sequence[Sequence[str]] = (),
) -> np.ndarray:
    """CIDEr (Vedantam et al., 2015), 0 to 10, of each description: float64 `[n]`.

    The score of a model is their mean. Words are weighted by their rarity among the references, so
    the CIDEr of a single clip is 0.

    Args:
        references: one or more captions by people for each description.
        others: captions of clips of the same split that are not described.
    """
    check_installed()
    from pycocoevalcap.cider.cider import Cider

    split = [*references, *others]
    candidates = {i: [" ".join(caption_words(text))] for i, text in enumerate(descriptions)}
    candidates |= {i: [""] for i in range(len(descriptions), len(split))}
    all_references = {
        i: [" ".join(caption_words(text)) for text in texts] for i, texts in enumerate(split)
    }
    _, scores = Cider().compute_score(all_references, candidates)
    return np.asarray(scores, np.float64)[: len(descriptions)]


def caption_scores(
    descriptions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """BLEU-4, 0 to 100, and CIDEr, 0 to 10, of descriptions with one or more references each."""
    check_installed()
    from sacrebleu.metrics.bleu import BLEU

    n_columns = max(map(len, references))
    columns: Any = [
        [texts[i] if i < len(texts) else None for texts in references] for i in range(n_columns)
    ]
    bleu = BLEU(lowercase=True).corpus_score(list(descriptions), columns)
    cider = cider_of_each(descriptions, references).mean()
    return {"BLEU-4": float(bleu.score), "CIDEr": float(cider)}
