"""A synthetic clip: a scene, its caption, and questions about it with their answers."""

from __future__ import annotations

from dataclasses import dataclass

from reellama.models.synthetic.scene import Scene


@dataclass(frozen=True)
class ClipQuestion:
    """A question about a clip.

    task: of the benchmark, "" for none. answer: one of `choices`. sentence: the free-form answer.
    """

    task: str
    question: str
    answer: str
    choices: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class SyntheticClip:
    """A scene with its caption and questions; `scenario` is the name of what made it."""

    scenario: str
    scene: Scene
    caption: str
    questions: tuple[ClipQuestion, ...]
    imagenet_classes: tuple[int, ...] = ()  # classes that the ImageNet classifier reports
    is_photograph: bool = False  # the scene shows a photograph, or a part of one
