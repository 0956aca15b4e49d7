"""A recipe: everything that decides what a training run makes, as one TOML file.

There are two ways to train, and each has its own tables: on captions, of drawn clips or of one's
own videos (`models.training.captions.train_captions`), and on synthetic clips
(`models.training.train_bundle`). A key that is unknown, or would do nothing, is refused.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from gguf_tools.errors import ReellamaError
from gguf_tools.locate.find import MINI_LLM
from models.projector.temporal_projector import POOLERS
from models.synthetic.dataset import SyntheticConfig
from models.synthetic.rendered_clips import RenderedConfig
from models.training.config_tables import dataclass_arguments, unknown_name_error
from models.training.stages.contrastive import ContrastiveConfig, NewTowerConfig
from models.training.stages.instruction import DrawnConfig, LoraConfig, StudyConfig
from models.training.trainer import StageConfig

# A recipe with one of these trains on stories.
STORY_TABLES = ("stories", "look", "see", "study", "tell", "adapter")

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class ProjectorSettings:
    """What a recipe decides of the projector; the rest follows from tower and LLM."""

    kind: str = "resampler"
    tokens: int = 24
    words: int = 1024
    width: int = 384
    layers: int = 2
    heads: int = 6
    dropout: float = 0.1
    encoder: int = 0

    def __post_init__(self) -> None:
        if self.kind not in POOLERS:
            raise unknown_name_error("projector", self.kind, POOLERS)


@dataclass(frozen=True)
class TowerSettings:
    """A tower by its open_clip name or folder; without a name one is trained."""

    name: str = ""
    pretrained: str | None = None
    layer: int = -1
    finer: int = 0


class Idle(NamedTuple):
    """Keys that do nothing without another key, or beside another one, or both."""

    keys: tuple[str, ...]
    without: str = ""
    beside: str = ""


@dataclass(frozen=True)
class TrainingConfig:
    """What both ways to train have in common.

    Attributes:
        llm: a name that `gguf_tools.locate.find.resolve` knows, or a path.
        tower, projector: without them, a tower is trained and the projector is the usual one.
    """

    name: str
    llm: str = MINI_LLM
    seed: int = 0
    tower: TowerSettings = TowerSettings()
    projector: ProjectorSettings = ProjectorSettings()

    idle: ClassVar[tuple[Idle, ...]] = ()

    @staticmethod
    def read(path: Path) -> CaptionRecipe | StoryRecipe:
        """Read a TOML file; raises ReellamaError that names what in it is wrong."""
        try:
            with path.open("rb") as file:
                values = tomllib.load(file)
        except OSError as error:
            raise ReellamaError(f"{path}: {error.strerror}; name a recipe (TOML)") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ReellamaError(f"{path}: not a recipe: {error}") from error
        try:
            return _recipe(values)
        except ReellamaError as error:
            raise ReellamaError(f"{path}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """All values, defaults included."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class CaptionRecipe(TrainingConfig):
    """Tables of a recipe that trains a projector on captions.

    Attributes:
        frames: frames of a video, in training and by default afterwards.
        data: a JSONL or CSV file; without it, clips are drawn as `rendered` says.
        fewest_frames: clips lose frames at random in training, down to this many.
        stills: drawn single frames that teach the names of things, in every stage.
        contrastive: how a tower is trained, where none is named.
        align: soft tokens learn to be the words of the description, from clips and stills.
        motion: the same, with what changes between frames as a further input.
        tail: from `motion` on, so many last soft tokens are the last words of the description.
        answer: the LLM's loss on answers, through the frozen LLM.
        align_weight: share of the alignment's loss that is kept in `answer`.
    """

    frames: int = 8
    fewest_frames: int = 5
    data: str = ""
    stills: int = 0
    contrastive: ContrastiveConfig = ContrastiveConfig()
    rendered: RenderedConfig = RenderedConfig()
    align: StageConfig = StageConfig(steps=0)
    motion: StageConfig = StageConfig(steps=0)
    answer: StageConfig = StageConfig(steps=0)
    tail: int = 8
    align_weight: float = 0.5

    idle: ClassVar[tuple[Idle, ...]] = (
        Idle(("rendered", "stills"), beside="data"),
        Idle(("contrastive",), beside="tower.name"),
        Idle(("tower.pretrained", "tower.layer", "tower.finer"), without="tower.name"),
    )


@dataclass(frozen=True)
class StoryRecipe(TrainingConfig):
    """Tables of a recipe that trains on drawn stories, with an adapter for the LLM.

    Attributes:
        look, see, study, tell: the stages (`models.training.stages.tower` and
            `models.training.stages.instruction`); `look` trains the tower, of the sizes that
            `contrastive` says, where none is named.
        start: the bundle whose projector and adapter learn on, over its tower where `[tower]` names
            none; else new ones do.
        kept: share of the projector of `start` in the mean of its weights and those after `see`;
            that often does better than either (Wortsman et al., 2022).
        kept_adapter: share of the adapter of `start` in the mean of its weights and those after
            `tell`.
        kept_of: another bundle to take `kept` from than `start`, one that `start` came from.
        doubt: by how much, in logits, the name of a thing must be likelier than "something" or
            "photograph" after `see`. Drawn things that training knows are so by far, others
            often not.
        camera_doubt: the same for what the camera does, which gives way to "moves about".
        sharpness: what the logits of the words are multiplied by after `see`: over 1, a soft token
            has more of its likeliest word and less of others. That of `start` is taken back first.
        labels: the bundle names what ImageNet's classifier sees (towers of EfficientNet-lite0).
    """

    contrastive: NewTowerConfig = NewTowerConfig()
    stories: SyntheticConfig = SyntheticConfig()
    look: StageConfig = StageConfig(steps=0)
    see: DrawnConfig = DrawnConfig(steps=0)
    study: StudyConfig = StudyConfig(steps=0)
    tell: DrawnConfig = DrawnConfig(steps=0)
    adapter: LoraConfig = LoraConfig()
    labels: bool = False
    start: str = ""
    kept: float = 0.0
    kept_of: str = ""
    kept_adapter: float = 0.0
    doubt: float = 0.0
    camera_doubt: float = 0.0
    sharpness: float = 1.0

    idle: ClassVar[tuple[Idle, ...]] = (
        Idle(("kept", "kept_adapter"), without="start"),
        Idle(("kept_of",), without="kept"),
        Idle(("projector", "look", "contrastive"), beside="start"),
        Idle(("look", "contrastive"), beside="tower.name"),
        Idle(("tower.pretrained", "tower.layer"), without="tower.name"),
        Idle(("tower.finer",), without="tower.name", beside="start"),
        Idle(("adapter.faultless",), without="adapter.frozen"),
        Idle(("adapter.align_weight",), beside="adapter.frozen"),
    )

    def to_json(self) -> dict[str, Any]:
        """All values, defaults included, and how clips are drawn that `reellama eval` tests."""
        return {**super().to_json(), "rendered": dataclasses.asdict(RenderedConfig())}


def _recipe(values: Mapping[str, Any]) -> CaptionRecipe | StoryRecipe:
    """The recipe of a file's values; raises ReellamaError for what does not belong in it."""
    tables = [name for name in STORY_TABLES if name in values]
    cls: type[CaptionRecipe | StoryRecipe] = StoryRecipe if tables else CaptionRecipe
    known, every = _keys(cls), [*dict.fromkeys(_keys(StoryRecipe) + _keys(CaptionRecipe))]
    for key in values:
        if key not in every:
            raise unknown_name_error("key of a recipe", key, known, every)
        if key not in known:
            kind = f"with [{tables[0]}]" if tables else "without [stories]"
            raise ReellamaError(
                f"{key} does nothing in a recipe {kind}; known there: {', '.join(known)}"
            )
    arguments = dataclass_arguments(cls, values)
    for keys, without, beside in cls.idle:
        if (without and _given(values, without)) or (beside and not _given(values, beside)):
            continue
        for key in keys:
            if _given(values, key):
                others = [("without", without), ("beside", beside)]
                why = " ".join(f"{word} {other}" for word, other in others if other)
                raise ReellamaError(f"{key} does nothing {why}; take it out")
    if "name" not in values:
        raise ReellamaError('the bundle has no name; give it one, such as name = "kitchen"')
    return cls(**arguments)


def _keys(cls: type[TrainingConfig]) -> list[str]:
    return [entry.name for entry in dataclasses.fields(cls)]


def _given(values: Any, key: str) -> bool:
    """Whether a key, such as "tower.name", is there and no zero."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return bool(values)
