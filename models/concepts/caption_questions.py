"""Questions about a video whose answers its captions give, by rules.

Only questions with a sure answer are asked: a thing is there if most captions name it, and is not
if there are several captions and none names it or a wider word for it. "Is there a dog?" is asked
as often about videos without a dog as about videos with one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from reellama.models.concepts.caption_things import COLOURS, NUMBERS, Things, base_words
from reellama.models.concepts.vocabulary import Captions, words_of

Turn = tuple[str, str]  # a question and its answer

MIN_SHARE_SHOWING = 0.6  # of a video's captions, for a thing that they name to be there
MIN_CAPTIONS_FOR_ABSENCE = 4  # of a video, for a thing that none of them names not to be there

SUBJECT_QUESTIONS = (
    "What is the main subject of the video?",
    "Who or what is in the video?",
    "What is it?",
    "What is this?",
)
# Captions do not say what the camera does, and hardly what moves: no answer is better than a guess.
MOTION_QUESTIONS = ("What does the camera do?", "What moves?", "Does the camera move?")
UNKNOWN = "I cannot tell."
YES, NO = "Yes.", "No."
MOTION_SHARE = 0.3  # of the videos, for one of these questions to be among those that are drawn
PREMISE_SHARE = 0.2  # of the videos, for a question about a thing that is not there to be drawn
THERE_IS = re.compile(r"^(?:there|this|it) (?:is|are) ")
# "a man in a hat is riding a horse": what follows is what the first thing does.
DOING = re.compile(r"\b(?:is|are) ((?!being)[a-z]+ing\b[^,.;]*)$")
MAX_DOING_WORDS = 8
# The share of the questions "What is the dog doing?" that say "animal" or "person" instead. Without
# them only questions about what is not there would say "person", and the word would come to mean
# that nobody is there.
WIDER_SUBJECT_SHARE = 0.4
PLACE = re.compile(
    r"\b((?:in|on|at|inside|near|along|across|through|outside of) (?:a|an|the) "
    r"(?:[a-z]+ )?(?:beach|pool|water|snow|street|road|field|grass|park|lake|river|ocean|kitchen"
    r"|room|stage|yard|forest|woods|mountain|hill|city|gym|court|stadium|car|sidewalk|sand|studio|office"
    r"|playground|garden|house|restaurant|store|bed|couch|table|track|desert|classroom))\b"
)


def _with_article_by_letter(noun: str) -> str:
    """The noun after "a" or "an" by its first letter alone: "a dog", "an animal", "an uniform".

    `scene_captions.with_article` knows the sounds. These questions are those that `mini` learned.
    """
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def questions(
    captions: Captions,
    things: Things,
    forms: Mapping[str, str],
    rng: np.random.Generator,
    *,
    max_questions: int,
) -> list[Turn]:
    """Questions about one video, drawn by chance among those whose answers are sure."""
    caption_words = [base_words(caption, forms) for caption in captions]
    turns = [
        *_existence(caption_words, things, rng),
        *_subject(captions, things, forms, rng),
        *_doing(captions, things, forms, rng),
        *_colours(captions, things),
        *_false_premises(caption_words, things, rng),
        *_counts(captions, things, forms),
        *_places(captions),
        *_motion(rng),
    ]
    return [turns[n] for n in sorted(rng.permutation(len(turns))[:max_questions])]


def _existence(
    caption_words: Sequence[set[str]], things: Things, rng: np.random.Generator
) -> list[Turn]:
    """Questions whether a thing is there, half answered yes and half no.

    On average over all videos that also holds for each thing.
    """
    present = [
        name for name in things.names if things.share(name, caption_words) >= MIN_SHARE_SHOWING
    ]
    if not things.names:
        return []
    absent = _absent(caption_words, things, rng)
    count = min(2, len(present), len(absent))
    chosen = [present[n] for n in rng.permutation(len(present))[:count]]
    return [
        (f"Is there {_with_article_by_letter(name)}?", answer)
        for names, answer in ((chosen, YES), (absent[:count], NO))
        for name in names
    ]


def _absent(
    caption_words: Sequence[set[str]], things: Things, rng: np.random.Generator
) -> list[str]:
    """Up to four things that are surely not there, frequent ones more often."""
    if len(caption_words) < MIN_CAPTIONS_FOR_ABSENCE or not things.names:
        return []
    weights = np.array(things.n_videos, float)
    return [
        name
        for n in rng.choice(len(weights), min(4, len(weights)), False, weights / weights.sum())
        if not things.share(name := things.names[n], caption_words)
        and not things.is_open(name, caption_words)
    ]


def _false_premises(
    caption_words: Sequence[set[str]], things: Things, rng: np.random.Generator
) -> list[Turn]:
    """A question about the colour, or the action, of a thing that is not there."""
    absent = _absent(caption_words, things, rng) if rng.random() < PREMISE_SHARE else []
    living = things.includes["person"] | things.includes["animal"]
    for name in absent[:1]:
        acts = name in living and rng.random() < 0.7
        question = f"What is the {name} doing?" if acts else f"What colour is the {name}?"
        return [(question, f"I see no {name}.")]
    return []


def _doing(
    captions: Captions, things: Things, forms: Mapping[str, str], rng: np.random.Generator
) -> list[Turn]:
    """What the first thing that a caption names does, in the words of the shortest such caption."""
    known = set(things.names)
    actions = []
    for caption in captions:
        doing = DOING.search(caption.lower().strip(" ."))
        words = words_of(caption)[:4]
        thing = next((word for word in words if forms.get(word, word) in known), "")
        if doing and thing and len(doing[1].split()) <= MAX_DOING_WORDS:
            actions.append((thing, doing[1]))
    if not actions:
        return []
    thing, doing_what = min(actions, key=lambda action: len(action[1]))
    base = forms.get(thing, thing)
    verb = "are" if base != thing else "is"
    wider = next((wide for wide in ("person", "animal") if base in things.includes[wide]), "")
    if verb == "is" and wider and rng.random() < WIDER_SUBJECT_SHARE:
        thing = wider
    return [(f"What {verb} the {thing} doing?", f"{doing_what.capitalize()}.")]


def _subject(
    captions: Captions, things: Things, forms: Mapping[str, str], rng: np.random.Generator
) -> list[Turn]:
    """The first thing that one of the captions names, with the words before it."""
    known = set(things.names)
    for number in rng.permutation(len(captions)):
        words = words_of(THERE_IS.sub("", captions[number].lower()))[:6]
        for place, word in enumerate(words):
            if forms.get(word, word) in known or word == "people":
                subject = " ".join(words[: place + 1]).capitalize()
                question = SUBJECT_QUESTIONS[int(rng.integers(len(SUBJECT_QUESTIONS)))]
                return [(question, f"{subject}.")]
    return []


def _colours(captions: Captions, things: Things) -> list[Turn]:
    """What colour a thing has, where all captions that name its colour agree."""
    colours: dict[str, list[str]] = defaultdict(list)
    for caption in captions:
        words = words_of(caption)
        for colour, word in pairwise(words):
            if colour in COLOURS and word in things.includes:
                colours[word].append("gray" if colour == "grey" else colour)
    return [
        (f"What colour is the {thing}?", f"{named[0].capitalize()}.")
        for thing, named in colours.items()
        if len(set(named)) == 1
    ]


def _counts(captions: Captions, things: Things, forms: Mapping[str, str]) -> list[Turn]:
    """Two dogs: how many, where captions that count agree."""
    counts: dict[str, set[str]] = defaultdict(set)
    for caption in captions:
        words = words_of(caption)
        for number, *after in zip(words, words[1:], [*words[2:], ""], strict=False):
            thing = next((w for w in after if forms.get(w) in things.includes), "")
            if number in NUMBERS and thing:
                counts[thing].add(number)
    return [
        (f"How many {thing} are there?", f"{next(iter(numbers)).capitalize()}.")
        for thing, numbers in counts.items()
        if len(numbers) == 1
    ]


def _places(captions: Captions) -> list[Turn]:
    for caption in captions:
        place = PLACE.search(caption.lower())
        if place:
            return [("Where is it?", f"{place[1].capitalize()}.")]
    return []


def _motion(rng: np.random.Generator) -> list[Turn]:
    if rng.random() >= MOTION_SHARE:
        return []
    return [(MOTION_QUESTIONS[int(rng.integers(len(MOTION_QUESTIONS)))], UNKNOWN)]
