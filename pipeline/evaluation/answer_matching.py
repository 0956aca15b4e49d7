"""Judge answers: by probabilities of the choices, by the choice that a text names, or by words."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from reellama.pipeline.llm.engine import Engine, PromptPart

ARTICLES = {"a", "an", "the"}
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())}


def choice_probabilities(
    engine: Engine, prompt: Sequence[PromptPart], choices: Sequence[str]
) -> np.ndarray:
    """Probabilities of the choices as whole answers, normalized over the choices: float64 `[n]`.

    For each choice the tokens of its text and of the end of the turn are scored after the prompt.
    """
    end = [engine.tokenizer.eos] if engine.tokenizer.eos is not None else []
    ids = [[*engine.tokenizer.encode(choice), *end] for choice in choices]
    scores = np.array([row.sum() for row in engine.logprobs(prompt, ids)])
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def choice_prefix_probabilities(
    engine: Engine, prompt: Sequence[PromptPart], choices: Sequence[str]
) -> np.ndarray:
    """Probabilities that an answer begins with each choice, normalized: float64 `[n]`.

    A choice may begin with a small or a capital letter, and any text may follow: of "No, there is
    none." the "No" counts.
    """
    spellings = [
        [choice[:1].lower() + choice[1:], choice[:1].upper() + choice[1:]] for choice in choices
    ]
    ids = [engine.tokenizer.encode(text) for texts in spellings for text in texts]
    scores = np.array([row.sum() for row in engine.logprobs(prompt, ids)])
    weights = np.exp(scores - scores.max()).reshape(len(choices), -1).sum(1)
    return weights / weights.sum()


def normalized_words(text: str, *, articles: bool = False) -> list[str]:
    """Words for comparison: lower case, no punctuation, numbers as digits, articles optional.

    >>> normalized_words("The dog's red, and two cats!")
    ['dog', 's', 'red', 'and', '2', 'cats']
    """
    words = re.findall(r"[^\W_]+", text.lower())
    return [NUMBERS.get(word, word) for word in words if articles or word not in ARTICLES]


def mentioned_choices(text: str, choices: Sequence[str]) -> list[int]:
    """Indices of the choices that a text names in whole words, except within a longer choice.

    >>> mentioned_choices("It moves up and right.", ["right", "up and right", "down"])
    [1]
    """
    articles = not all(map(normalized_words, choices))  # a choice may be the letter A
    words = normalized_words(text, articles=articles)
    spans = [
        (start, start + len(phrase), choice)
        for choice, phrase in enumerate(
            normalized_words(name, articles=articles) for name in choices
        )
        for start in _positions(words, phrase)
    ]
    return sorted(
        {
            choice
            for start, end, choice in spans
            if not any(s <= start and end <= e and e - s > end - start for s, e, _ in spans)
        }
    )


def first_mentioned(text: str, choices: Sequence[str]) -> int | None:
    """Index of the choice that a text names first, in whole words; None if it names none.

    >>> first_mentioned("No, there is no dog. Yes?", ["yes", "no"])
    1
    """
    words = normalized_words(text, articles=True)
    mentions = [
        (positions[0], index)
        for index, choice in enumerate(choices)
        if (positions := _positions(words, normalized_words(choice, articles=True)))
    ]
    return min(mentions)[1] if mentions else None


def contains(text: str, answer: str) -> bool:
    """Whether a text contains the words of an open answer, in their order."""
    return 0 in mentioned_choices(text, [answer])


def _positions(words: Sequence[str], phrase: Sequence[str]) -> list[int]:
    n = len(phrase)
    if not n:
        return []
    return [i for i in range(len(words) - n + 1) if list(words[i : i + n]) == list(phrase)]
