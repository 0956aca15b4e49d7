"""A recipe: everything that decides what a training run makes, as one TOML file."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_tools.errors import ReellamaError
from gguf_tools.find import MINI_LLM
from models.contrastive import ContrastiveConfig
from models.optimise import StageConfig
from models.rendered import RenderedConfig
from models.stream import StoryConfig
from models.tell import TellConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class ProjectorChoice:
    """What a recipe decides of the projector; the rest follows from tower and LLM."""

    kind: str = "resampler"
    tokens: int = 24
    words: int = 1024
    width: int = 384
    layers: int = 2
    heads: int = 6
    dropout: float = 0.1
    encoder: int = 0


@dataclass(frozen=True)
class TowerChoice:
    """A tower by its open_clip name or folder; without a name one is trained by `[contrastive]`."""

    name: str = ""
    pretrained: str | None = None
    layer: int = -1
    finer: int = 0


@dataclass(frozen=True)
class Recipe:
    """A TOML file's tables.

    Attributes:
        frames: frames of a video, in training and by default afterwards.
        data: a JSONL or CSV file; without it, clips are drawn as `rendered` says.
        fewest_frames: clips lose frames at random in training, down to this many.
        stills: drawn single frames that teach the names of things, in every stage.
        align: soft tokens learn to be the words of the description, from clips and stills.
        motion: the same, with what changes between frames as a further input.
        tail: from `motion` on, so many last soft tokens are the last words of the description.
        answer: the LLM's loss on answers, through the frozen LLM.
        align_weight: share of the alignment's loss that is kept in `answer`.
        stories, look, see, study, tell, adapter: another way to train, on drawn stories, with an
            adapter for the LLM (`models.tell`); taken where one of the last three stages has steps.
            `look` trains the tower, where none is named.
        start: with stories, the bundle whose projector and adapter learn on, over its tower where
            `[tower]` names none; else new ones do.
        kept: share of the projector of `start` in the mean of its weights and those after `see`;
            that often does better than either (Wortsman et al., 2022).
        kept_adapter: share of the adapter of `start` in the mean of its weights and those after
            `tell`.
        kept_of: another bundle to take that share from than `start`, one that `start` came from.
        doubt: by how much, in logits, the name of a thing must be likelier than "something" or
            "photograph" after `see`. Drawn things that training knows are so by far, others
            often not.
        camera_doubt: the same for what the camera does, which gives way to "moves about".
        sharpness: what the logits of the words are multiplied by after `see`: over 1, a soft token
            has more of its likeliest word and less of others. That of `start` is taken back first.
        labels: the bundle names what ImageNet's classifier sees (towers of EfficientNet-lite0).
    """

    name: str
    llm: str = MINI_LLM
    seed: int = 0
    frames: int = 8
    fewest_frames: int = 5
    data: str = ""
    stills: int = 0
    tower: TowerChoice = TowerChoice()
    contrastive: ContrastiveConfig = ContrastiveConfig()
    rendered: RenderedConfig = RenderedConfig()
    projector: ProjectorChoice = ProjectorChoice()
    align: StageConfig = StageConfig(steps=0)
    motion: StageConfig = StageConfig(steps=0)
    answer: StageConfig = StageConfig(steps=0)
    tail: int = 8
    align_weight: float = 0.5
    stories: StoryConfig = StoryConfig()
    look: StageConfig = StageConfig(steps=0)
    see: StageConfig = StageConfig(steps=0)
    study: StageConfig = StageConfig(steps=0)
    tell: StageConfig = StageConfig(steps=0)
    adapter: TellConfig = TellConfig()
    labels: bool = False
    start: str = ""
    kept: float = 0.0
    kept_of: str = ""
    kept_adapter: float = 0.0
    doubt: float = 0.0
    camera_doubt: float = 0.0
    sharpness: float = 1.0

    @property
    def of_stories(self) -> bool:
        """Whether it trains on drawn stories, with an adapter for the LLM."""
        return any(stage.steps for stage in (self.see, self.study, self.tell))

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a TOML file; raises ReellamaError that names what in it is wrong."""
        try:
            with path.open("rb") as file:
                return _build(cls, tomllib.load(file))
        except OSError as error:
            raise ReellamaError(f"{path}: {error.strerror}; name a recipe (TOML)") from error
        except (tomllib.TOMLDecodeError, TypeError, UnicodeDecodeError) as error:
            raise ReellamaError(f"{path}: not a recipe: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """All values, defaults included."""
        return dataclasses.asdict(self)


def _build(cls: type, values: dict[str, Any]) -> Any:
    """A dataclass from a TOML table; nested tables become the dataclasses of the defaults."""
    defaults = {entry.name: entry.default for entry in dataclasses.fields(cls)}
    built = {}
    for name, value in values.items():
        if isinstance(value, dict) and dataclasses.is_dataclass(defaults.get(name)):
            base = dataclasses.asdict(defaults[name])  # type: ignore[arg-type]  # an instance
            value = _build(type(defaults[name]), {**base, **value})
        built[name] = tuple(value) if isinstance(value, list) else value
    return cls(**built)
