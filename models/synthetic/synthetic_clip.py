"""A synthetic clip: a scene, its caption, and questions about it with their answers."""

from __future__ import annotations

from dataclasses import dataclass

from reellama.models.synthetic.scene import Scene


@dataclass(frozen=True)
class ClipQuestion:
    """A question about a clip.

    Attributes:
        task: of the benchmark that the question belongs to; "" for none.
        question: its text, without the choices.
        answer: the right one of `choices`.
        choices: for the multiple-choice form; empty without one.
        sentence: the answer in the free form.
    """

    task: str
    question: str
    answer: str
    choices: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class SyntheticClip:
    """A scene with its caption and questions; `scenario` is the name of its scenario."""

    scenario: str
    scene: Scene
    caption: str
    questions: tuple[ClipQuestion, ...]
    imagenet_classes: tuple[int, ...] = ()  # classes that the ImageNet classifier reports
    is_photograph: bool = False  # the scene shows a photograph, or a part of one
