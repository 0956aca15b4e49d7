"""The things that captions name: countable nouns, and the narrower words of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reellama.models.concepts.vocabulary import FUNCTION_WORDS, Captions, words_of

MIN_VIDEOS_SHOWING = 5  # rarer things of a data set are not asked about
# A word counts as a noun if at least ARTICLE_SHARE of its uses follow "a" or "an" (verbs do so less
# often), and at least NOUN_SHARE of those end the phrase (an adjective or the first part of a
# compound does not).
ARTICLE_SHARE = 0.12
NOUN_SHARE = 0.5

COLOURS = (
    *("red", "orange", "yellow", "green", "blue", "purple", "pink"),
    *("brown", "black", "white", "gray", "grey", "tan"),
)
NUMBERS = ["two", "three", "four", "five", "six"]
# Words of an amount, as in "a lot of", are not things.
AMOUNTS = ("lot", "bunch", "group", "couple", "pair", "piece")
# A wider word and its narrower words. A caption with a narrower word says that the wider thing is
# there. A caption with the wider word does not say whether a narrower thing is there.
WIDER: Mapping[str, str] = {
    "person": "man woman boy girl child baby toddler people player crowd guy lady kid adult"
    " teenager couple family group team athlete dancer singer rider surfer skier"
    " skateboarder snowboarder climber biker cyclist actor worker chef student audience band"
    " friend host reporter hiker swimmer runner wrestler",
    "animal": "dog puppy cat kitten horse bird duck cow sheep monkey elephant fish bear lion tiger"
    " rabbit greyhound",
    "vehicle": "car truck bus van motorcycle bike boat train plane airplane jeep helicopter",
    "child": "boy girl toddler baby kid",
    "dog": "puppy greyhound",
}


@dataclass(frozen=True)
class Things:
    """Words of captions that name a countable thing, such as "dog" in "Is there a dog?".

    Attributes:
        names: the things, those that most videos show first.
        n_videos: how many videos show each of `names`.
        includes: thing -> the words that say that it is there, itself and narrower words.
    """

    names: tuple[str, ...]
    n_videos: tuple[int, ...]
    includes: Mapping[str, frozenset[str]]

    def share(self, name: str, captions: Sequence[set[str]]) -> float:
        """The share of captions, as sets of words, that say that a thing is there."""
        return float(np.mean([bool(words & self.includes[name]) for words in captions]))

    def is_open(self, name: str, captions: Sequence[set[str]]) -> bool:
        """Whether a wider word in a caption, such as "animal" for a dog, may mean the thing."""
        wider = {wide for wide, narrow in self.includes.items() if name in narrow} - {name}
        return any(words & wider for words in captions)


def base_words(caption: str, forms: Mapping[str, str]) -> set[str]:
    """The words of a caption in their base forms. forms: form -> base form."""
    return {forms.get(word, word) for word in words_of(caption)}


def find_things(videos: Sequence[Captions], forms: Mapping[str, str]) -> Things:
    """The countable nouns of captions, recognized by "a" or "an" before them and no noun after.

    forms: form of a word -> base form.
    """
    ends_phrase: Counter[str] = Counter()
    after_article: Counter[str] = Counter()
    n_videos: Counter[str] = Counter()
    n_uses: Counter[str] = Counter()
    wider = [frozenset([wide, *narrow.split()]) for wide, narrow in WIDER.items()]
    for captions in videos:
        video_words: set[str] = set()
        for caption in captions:
            words = [*words_of(caption), ""]
            bases = [forms.get(word, word) for word in words]
            n_uses.update(bases)
            video_words.update(bases)
            for article, word, following in zip(words, words[1:], [*words[2:], ""], strict=False):
                if article in ("a", "an"):
                    after_article[word] += 1
                    ends_phrase[word] += _ends_a_phrase(following)
        n_videos.update(video_words - WIDER.keys())
        n_videos.update(
            name for name, words in zip(WIDER, wider, strict=True) if video_words & words
        )
    nouns = {
        word
        for word, count in after_article.items()
        if count >= max(MIN_VIDEOS_SHOWING, ARTICLE_SHARE * n_uses[word])
        and ends_phrase[word] >= NOUN_SHARE * count
    } - {*FUNCTION_WORDS, *COLOURS, *NUMBERS, *AMOUNTS, ""}
    includes = {word: frozenset([word]) for word in nouns}
    includes |= dict(zip(WIDER, wider, strict=True))
    ordered = sorted(includes, key=lambda word: (-n_videos[word], word))
    names = [word for word in ordered if n_videos[word] >= MIN_VIDEOS_SHOWING]
    return Things(tuple(names), tuple(n_videos[word] for word in names), includes)


def _ends_a_phrase(following: str) -> bool:
    """Whether a word is the last of its phrase, judged by the word after it ("" for none)."""
    return not following or following in FUNCTION_WORDS or following.endswith(("ing", "s", "ed"))
