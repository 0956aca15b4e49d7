"""A question in a language that a bundle does not know gets a line that says so."""

from pathlib import Path

import pytest

from reellama.pipeline.chat.question_language import is_in, names_of
from reellama.pipeline.chat.video_chat import VideoChat


@pytest.mark.parametrize(
    "question",
    [
        "Was passiert im Video?",
        "Wie viele Hunde sind zu sehen?",
        "Que se passe-t-il dans la vidéo ?",
        "¿Qué pasa en el vídeo?",
        "Che cosa succede?",
        "O que acontece no vídeo?",
        "Wat gebeurt er?",
        "Co się dzieje?",
        "Vad händer i filmen?",
        "Что происходит?",
        "视频里有什么",
        "何が起きますか",
        "ماذا يحدث؟",
    ],
)
def test_other_languages_are_recognized(question: str) -> None:
    assert not is_in(question, ["en"])


@pytest.mark.parametrize(
    "question",
    [
        "What happens?",
        "Describe the video.",
        "colour of the car",
        "a dog?",
        "dog",
        "Is this La La Land?",
        "How many people are in the video?",
        'What does the sign "Was ist das" mean?',
        "die red star",
        "man jumping",
        "42?",
        "Name it.",
    ],
)
def test_english_is_english(question: str) -> None:
    assert is_in(question, ["en"])


def test_a_bundle_may_know_another_language() -> None:
    assert is_in("Was passiert im Video?", ["de"]) and is_in("Что происходит?", ["en", "ru"])
    assert names_of(["en", "de"]) == "English and German"


def test_mini_says_that_it_knows_english_only(square_video: Path) -> None:
    with VideoChat(square_video, n_threads=1) as video_chat:
        assert "knows English only" in video_chat.ask("Was passiert im Video?")
        assert "knows English only" not in video_chat.ask("Where is it?", max_tokens=2)
