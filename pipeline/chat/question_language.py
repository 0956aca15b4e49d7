"""Detect the language of a question by its script and by frequent words of questions.

General language detectors need more words than a question has. A question counts as understood
unless more words belong to another language.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

OTHER_LANGUAGE = (
    "{0} knows {1} only. Please ask in {1}, or take a model that knows your language: "
    "--bundle MODEL.gguf"
)
NAMES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian",
    "pt": "Portuguese", "nl": "Dutch", "pl": "Polish", "sv": "Swedish", "tr": "Turkish",
}  # fmt: skip
# Frequent words of questions; a word may belong to several languages.
_WORDS = {
    "en": "what who where when which how why is are was were does do did the a an in on of and it"
    " there this that they he she his her their with from to for at you can me many much no as by"
    " man son war die come dove",
    "de": "was wer wo wann welche welcher welches wie warum ist sind war gibt es der die das den"
    " dem ein eine einen im in auf und zu sehen passiert macht man wieviele viele bitte beschreibe",
    "fr": "que qu quoi qui où quand quel quelle quelles quels comment pourquoi est ce sont il elle"
    " y a le la les l un une des du de dans sur et voit passe fait combien décris décrivez",
    "es": "qué que quién dónde cuándo cuál cómo cuántos cuántas por es son hay el la los las un"
    " una en de del y se ve pasa hace describe",
    "it": "che cosa chi dove quando quale come perché è sono c cè il lo la gli le un una nel di e"
    " si vede succede fa quanti quante descrivi",
    "pt": "o que quem onde quando qual como quantos quantas por é são há os as um uma no na do da"
    " de e se vê acontece faz descreva",
    "nl": "wat wie waar wanneer welke hoe waarom is zijn er het de een in op van en gebeurt zie ik"
    " doet hoeveel beschrijf",
    "pl": "co kto gdzie kiedy który jak dlaczego jest są czy w na i się dzieje widać ile opisz",
    "sv": "vad vem var när vilken hur varför är det finns en ett i på och händer ser gör många",
    "tr": "ne kim nerede hangi neden var mi bu bir ve oluyor",
}
MIN_FOREIGN_WORDS = 2  # words of another language that decide, as a single one may be a name
WORDS = {code: frozenset(words.split()) for code, words in _WORDS.items()}
_LETTERS = re.compile(r"[^\W\d_]+")
_QUOTED = re.compile(r"\"[^\"]*\"")


def is_in(question: str, languages: Sequence[str]) -> bool:
    """Whether a question may be in one of `languages`, given as codes such as "en"."""
    words = _LETTERS.findall(_QUOTED.sub(" ", question).lower())
    letters = "".join(words)
    if letters and sum(_is_latin(letter) for letter in letters) < len(letters) / 2:
        return not set(languages) <= NAMES.keys()  # all languages of NAMES use the Latin script
    counts = {
        code: sum(word in common_words for word in words) for code, common_words in WORDS.items()
    }
    own = max((counts.get(code, len(words)) for code in languages), default=0)
    return own >= max(counts.values()) or max(counts.values()) < MIN_FOREIGN_WORDS


def names_of(languages: Sequence[str]) -> str:
    """The names of languages by their codes, in words: "English and German"."""
    return " and ".join(NAMES.get(code, code) for code in languages)


def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("LATIN")
