"""Questions and answers about a video, made from its captions by rules.

Only questions with a sure answer are asked. A thing is there if most captions name it. It is not
there if several captions exist and none names it or a wider word for it. "Is there a dog?" is asked
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

MIN_SHARE_SHOWING = 0.6  # a thing is there if this share of a video's captions names it
MIN_CAPTIONS_FOR_ABSENCE = 4  # with fewer captions, a thing that none names may still be there

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
MOTION_SHARE = 0.3  # share of the videos with one of MOTION_QUESTIONS
PREMISE_SHARE = 0.2  # share of the videos with a question that presumes a thing that is not there
THERE_IS = re.compile(r"^(?:there|this|it) (?:is|are) ")
# "a man in a hat is riding a horse": the group matches "riding a horse".
DOING = re.compile(r"\b(?:is|are) ((?!being)[a-z]+ing\b[^,.;]*)$")
MAX_DOING_WORDS = 8
# Share of the questions "What is the dog doing?" that say "animal" or "person" instead. Without
# them only questions with a false premise would say "person", and an LLM would learn from the word
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

    Unlike `scene_captions.with_article`, which goes by the sound: `mini` learned these questions.
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
    """Up to `max_questions` random turns about one video.

    things: the countable nouns of the data set. forms: form of a word -> base form.
    """
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
    """Questions whether a thing is there: as many with the answer yes as with no.

    On average over all videos that holds for each thing, too.
    """
    present = [
        name for name in things.names if things.share(name, caption_words) >= MIN_SHARE_SHOWING
    ]
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
    """Up to four things that are surely not there, drawn in proportion to their frequency."""
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
    """What a caption's first thing does, from the caption with the shortest such words."""
    names = set(things.names)
    actions = []
    for caption in captions:
        doing = DOING.search(caption.lower().strip(" ."))
        words = words_of(caption)[:4]
        thing = next((word for word in words if forms.get(word, word) in names), "")
        if doing and thing and len(doing[1].split()) <= MAX_DOING_WORDS:
            actions.append((thing, doing[1]))
    if not actions:
        return []
    thing, action = min(actions, key=lambda thing_and_action: len(thing_and_action[1]))
    base = forms.get(thing, thing)
    verb = "are" if base != thing else "is"
    wider = next((wide for wide in ("person", "animal") if base in things.includes[wide]), "")
    if verb == "is" and wider and rng.random() < WIDER_SUBJECT_SHARE:
        thing = wider
    return [(f"What {verb} the {thing} doing?", f"{action.capitalize()}.")]


def _subject(
    captions: Captions, things: Things, forms: Mapping[str, str], rng: np.random.Generator
) -> list[Turn]:
    """The main subject: the first thing in a random caption, with the words before it."""
    names = set(things.names)
    for number in rng.permutation(len(captions)):
        words = words_of(THERE_IS.sub("", captions[number].lower()))[:6]
        for place, word in enumerate(words):
            if forms.get(word, word) in names or word == "people":
                subject = " ".join(words[: place + 1]).capitalize()
                question = SUBJECT_QUESTIONS[int(rng.integers(len(SUBJECT_QUESTIONS)))]
                return [(question, f"{subject}.")]
    return []


def _colours(captions: Captions, things: Things) -> list[Turn]:
    """The colour of each thing about whose colour the captions agree."""
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
    """The number of each thing about whose number ("two dogs") the captions agree."""
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
    """Where the video was taken, by the first caption with a known place."""
    for caption in captions:
        place = PLACE.search(caption.lower())
        if place:
            return [("Where is it?", f"{place[1].capitalize()}.")]
    return []


def _motion(rng: np.random.Generator) -> list[Turn]:
    """Sometimes a question about motion, which captions do not answer."""
    if rng.random() >= MOTION_SHARE:
        return []
    return [(MOTION_QUESTIONS[int(rng.integers(len(MOTION_QUESTIONS)))], UNKNOWN)]
