"""Is an answer right: as probabilities of the choices, as a text that names one, or as words."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from reellama.pipeline.llm.engine import Engine, PromptPart

ARTICLES = {"a", "an", "the"}
_COUNTED = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(number) for number, word in enumerate(_COUNTED.split())}


def choice_probabilities(
    engine: Engine, prompt: Sequence[PromptPart], choices: Sequence[str]
) -> np.ndarray:
    """How likely each choice is as the whole answer, among the choices: float64 [choices].

    The tokens of a choice and the end of the turn are scored after the same prompt.
    """
    end = [engine.tokenizer.eos] if engine.tokenizer.eos is not None else []
    ids = [[*engine.tokenizer.encode(choice), *end] for choice in choices]
    scores = np.array([row.sum() for row in engine.logprobs(prompt, ids)])
    likely = np.exp(scores - scores.max())
    return likely / likely.sum()


def choice_prefix_probabilities(
    engine: Engine, prompt: Sequence[PromptPart], choices: Sequence[str]
) -> np.ndarray:
    """How likely an answer begins with each choice, among the choices: float64 [choices].

    A choice may begin with a small or a capital letter, and whatever may follow it: of "No, there
    is none." the "No" counts.
    """
    spellings = [
        [choice[:1].lower() + choice[1:], choice[:1].upper() + choice[1:]] for choice in choices
    ]
    ids = [engine.tokenizer.encode(text) for texts in spellings for text in texts]
    scores = np.array([row.sum() for row in engine.logprobs(prompt, ids)])
    likely = np.exp(scores - scores.max()).reshape(len(choices), -1).sum(1)
    return likely / likely.sum()


def normalized_words(text: str, *, articles: bool = False) -> list[str]:
    """Words for comparing: small letters, no marks, numbers as digits, articles only if wanted.

    >>> normalized_words("The dog's red, and two cats!")
    ['dog', 's', 'red', 'and', '2', 'cats']
    """
    words = re.findall(r"[^\W_]+", text.lower())
    return [NUMBERS.get(word, word) for word in words if articles or word not in ARTICLES]


def mentioned_choices(text: str, choices: Sequence[str]) -> list[int]:
    """Which choices a text names, as whole words; not one inside the name of a longer one.

    >>> mentioned_choices("It moves up and right.", ["right", "up and right", "down"])
    [1]
    """
    articles = not all(map(normalized_words, choices))  # a choice may be the letter A
    words = normalized_words(text, articles=articles)
    spans = [
        (start, start + len(wanted), choice)
        for choice, wanted in enumerate(
            normalized_words(name, articles=articles) for name in choices
        )
        for start in _places(words, wanted)
    ]
    return sorted(
        {
            choice
            for start, end, choice in spans
            if not any(s <= start and end <= e and e - s > end - start for s, e, _ in spans)
        }
    )


def first_mentioned(text: str, choices: Sequence[str]) -> int | None:
    """The choice that a text names first, as whole words; None for none.

    >>> first_mentioned("No, there is no dog. Yes?", ["yes", "no"])
    1
    """
    words = normalized_words(text, articles=True)
    places = [
        (places[0], number)
        for number, choice in enumerate(choices)
        if (places := _places(words, normalized_words(choice, articles=True)))
    ]
    return min(places)[1] if places else None


def contains(text: str, answer: str) -> bool:
    """Whether the words of an open answer stand in a text, one after the other."""
    return 0 in mentioned_choices(text, [answer])


def _places(words: Sequence[str], wanted: Sequence[str]) -> list[int]:
    n = len(wanted)
    if not n:
        return []
    return [i for i in range(len(words) - n + 1) if list(words[i : i + n]) == list(wanted)]
