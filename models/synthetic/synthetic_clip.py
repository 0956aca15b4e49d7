"""A synthetic clip: a scene, its description, and the questions that it answers."""

from __future__ import annotations

from dataclasses import dataclass

from models.synthetic.scene import (
    Scene,
)


@dataclass(frozen=True)
class ClipQuestion:
    """A question with its choices: `answer` is one of them; `sentence` answers without choices."""

    task: str
    question: str
    answer: str
    choices: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class SyntheticClip:
    """A scene in words: its description, and what can be asked about it."""

    name: str
    scene: Scene
    caption: str
    questions: tuple[ClipQuestion, ...]
    imagenet_classes: tuple[int, ...] = ()  # classes of ImageNet that a classifier names here
    is_photograph: bool = False  # a photograph or a part of one, of which they are told
