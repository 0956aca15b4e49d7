"""The concept vocabulary: the words of captions that a picture can show.

Forms of one word ("dogs", "dog"; "running", "ran", "run") are one concept. Function words, such as
"the" and "while", are not concepts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reellama.gguf_tools.atomic_write import write_atomically
from reellama.gguf_tools.errors import ReellamaError

Captions = Sequence[str]  # the captions of one video

# A word counts as the base form of longer words if the captions of this many videos have it.
MIN_BASE_VIDEOS = 3

_FUNCTION_WORDS = """
    a about above across after against all along also am among an and another any are around as
    at away be been before behind being below beside between both but by can could did different
    do does doing down during each for from front get gets getting go goes going gone got had
    has have having he her him his how i if in into is it its just like many may me more most
    much my near next no not of off on one only onto or other our out over own s same several
    she so some someone something such t than that the their them themselves then there these
    they this those through to together top toward towards under up us various very was we were
    what when where which while who will with within without would you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())

IRREGULAR = {  # form -> base form
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "feet": "foot",
    "teeth": "tooth",
    "leaves": "leaf",
    "knives": "knife",
    "wolves": "wolf",
    "sat": "sit",
    "ran": "run",
    "rode": "ride",
    "stood": "stand",
    "held": "hold",
    "wore": "wear",
    "worn": "wear",
    "lying": "lie",
    "laying": "lay",
    "took": "take",
    "taken": "take",
    "made": "make",
    "shown": "show",
    "sang": "sing",
    "threw": "throw",
    "thrown": "throw",
    "caught": "catch",
    "bicycle": "bike",
    "bicycles": "bike",
}


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: "A man's dog, 2 cats." -> a, man's, dog, 2, cats."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower().replace("-", " "))


@dataclass(frozen=True)
class ConceptVocabulary:
    """The concepts of a bundle. A concept's number is its index in `words`.

    Attributes:
        words: the base form of each concept, the most frequent first.
        forms: other form of a word -> base form.
    """

    words: tuple[str, ...]
    forms: Mapping[str, str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_number", {word: n for n, word in enumerate(self.words)})

    def __len__(self) -> int:
        return len(self.words)

    def number(self, word: str) -> int | None:
        """The number of the concept that a word is a form of, or None."""
        numbers: dict[str, int] = self.__dict__["_number"]
        return numbers.get(self.forms.get(word, word))

    def concepts_in(self, text: str) -> set[int]:
        """The numbers of the concepts whose words are in a text, in any form."""
        return {n for word in words_of(text) if (n := self.number(word)) is not None}

    def shares(self, captions: Captions) -> np.ndarray:
        """The share of a video's captions that say each concept: float32 `[concepts]`."""
        shares = np.zeros(len(self.words), np.float32)
        for caption in captions:
            shares[sorted(self.concepts_in(caption))] += 1 / len(captions)
        return shares

    def save(self, path: Path) -> None:
        """Write the vocabulary as JSON."""
        values = {"words": self.words, "forms": dict(self.forms)}
        write_atomically(path, json.dumps(values, indent=0) + "\n")

    @classmethod
    def load(cls, path: Path) -> ConceptVocabulary:
        """Read a file that `save` wrote. Raises ReellamaError."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(tuple(map(str, values["words"])), dict(values["forms"]))
        except OSError as error:
            raise ReellamaError(f"{path}: {error.strerror}; copy the whole bundle") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ReellamaError(f"{path}: not a concept vocabulary: {error}") from error


def build_vocabulary(videos: Sequence[Captions], size: int) -> ConceptVocabulary:
    """A vocabulary of the `size` concepts that most videos have in their captions."""
    form_counts: Counter[str] = Counter()  # videos with each form of a word in their captions
    for captions in videos:
        form_counts.update({word for caption in captions for word in words_of(caption)})
    bases = {form: _base(form, form_counts) for form in form_counts}
    n_videos: Counter[str] = Counter()
    for captions in videos:
        n_videos.update({bases[word] for caption in captions for word in words_of(caption)})
    ordered = sorted(n_videos, key=lambda word: (-n_videos[word], word))
    words = [word for word in ordered if _is_concept(word)][:size]
    concepts = set(words)
    forms = {f: base for f, base in sorted(bases.items()) if f != base and base in concepts}
    return ConceptVocabulary(tuple(words), forms)


def _is_concept(word: str) -> bool:
    return len(word) > 1 and not word.isdigit() and word not in FUNCTION_WORDS


def _base(form: str, n_videos: Mapping[str, int]) -> str:
    """The base form of a word: irregular, or without an ending if enough videos have it, or the
    word itself."""
    if form in IRREGULAR:
        return IRREGULAR[form]
    for base in _without_ending(form):
        if len(base) > 2 and n_videos.get(base, 0) >= MIN_BASE_VIDEOS:
            return base
    return form


def _without_ending(form: str) -> list[str]:
    """Words that a form may be the plural, the participle or the past of, the likeliest first."""
    if form.endswith("s") and not form.endswith("ss"):
        return [form[:-3] + "y", form[:-1]] if form.endswith("ies") else _plural_bases(form)
    for ending in ("ing", "ed"):
        stem = form.removesuffix(ending)
        if stem != form and len(stem) > 2:
            undoubled = [stem[:-1]] if stem[-1] == stem[-2] else []  # running -> run
            with_y = [stem[:-1] + "y"] if ending == "ed" and stem.endswith("i") else []
            return [stem, f"{stem}e", *undoubled, *with_y]
    return []


def _plural_bases(form: str) -> list[str]:
    return [form[:-2], form[:-1]] if form.endswith("es") else [form[:-1]]
