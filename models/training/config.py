"""Training configs: one TOML file decides everything that `reellama train` makes.

There are two types. `CaptionConfig` trains a projector on captions of rendered clips or of the
user's videos (`reellama.models.training.captions.train_captions`). `MultiStageConfig` trains a
projector and a LoRA adapter on synthetic clips, in the stages of its array `[[stages]]`
(`reellama.models.training.train_stages`). A key that is unknown, or would do nothing, is an error.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.locate.find import MINI_LLM
from reellama.models.bundle_config import TowerSpec
from reellama.models.config_tables import dataclass_arguments, unknown_name_error
from reellama.models.projector.temporal_projector import POOLERS
from reellama.models.synthetic.dataset import SyntheticConfig
from reellama.models.synthetic.rendered_clips import RenderedConfig
from reellama.models.training.footage.footage_config import (
    CaptionPhaseConfig,
    ConceptPhaseConfig,
    FootageConfig,
)
from reellama.models.training.phases.contrastive import ContrastiveConfig, NewTowerConfig
from reellama.models.training.phases.phase_config import (
    ClipPhaseConfig,
    LoraConfig,
    TextPhaseConfig,
)
from reellama.models.training.trainer import TrainerConfig
from reellama.models.training.unused_keys import UnusedKeyRule, refuse_unused_keys

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STAGES = "stages"  # the array that makes a config one of several stages
# The phases of a stage, in their order.
PHASES = ("tower", "align", "text_only", "joint", "concepts", "captions")
# Keys that decide how a stage runs, but not the weights that it makes.
NOT_COMPARED = ("processes", "measured_on", "seconds_per_step")


@dataclass(frozen=True)
class ProjectorSettings:
    """The `[projector]` table: a `ProjectorConfig` without what follows from tower and LLM."""

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
class VisionTowerSettings:
    """The `[vision_tower]` table: a tower by its name or folder; without a name, one is trained.

    Attributes:
        name: a folder, `hf-hub:owner/repo`, or an open_clip model, which needs `pretrained`.
        pretrained: open_clip's tag of the weights, or a file with them.
        layer: the block whose output is the grid, counted from the end.
        fine_layers: number of blocks before it whose finer grids are folded into its cells.
    """

    name: str = ""
    pretrained: str | None = None
    layer: int = -1
    fine_layers: int = 0

    def __post_init__(self) -> None:
        hub, folder = ":" in self.name, Path(self.name).is_dir()
        if self.name and not (self.pretrained or hub or folder):
            raise ReellamaError(
                f"name = {self.name!r} is no folder here, and a model of open_clip has random "
                "weights without pretrained; add that, such as laion2b_s34b_b79k"
            )

    def spec(self) -> TowerSpec:
        """The same settings for a `BundleConfig`."""
        return TowerSpec(self.name, self.pretrained, self.layer, self.fine_layers)


@dataclass(frozen=True)
class TrainingConfig:
    """The keys that both types of config have.

    Attributes:
        name: of the bundle.
        llm: a name for `reellama.gguf_tools.locate.find.resolve`, or a path.
        seed: of weights and random numbers.
        vision_tower: the visual tower; by default, one is trained.
        projector: its settings.
    """

    name: str
    llm: str = MINI_LLM
    seed: int = 0
    vision_tower: VisionTowerSettings = VisionTowerSettings()
    projector: ProjectorSettings = ProjectorSettings()

    unused_key_rules: ClassVar[tuple[UnusedKeyRule, ...]] = ()

    def to_json(self) -> dict[str, Any]:
        """All values, defaults included."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class CaptionConfig(TrainingConfig):
    """A projector trained on captions.

    Attributes:
        frames: frames of a video, in training and as the bundle's default.
        data: a JSONL or CSV file; without it, clips are rendered as `rendered` says.
        fewest_frames: training clips lose frames at random, down to this number.
        stills: number of rendered single frames, which teach the names of objects in every phase.
        contrastive: how a tower is trained if none is named.
        align: phase in which soft tokens learn to be the words of the description.
        motion: phase like `align`, with differences between frames as a further input.
        tail: from `motion` on, this many last soft tokens are the last words of the description.
        answer: phase that trains with the frozen LLM's loss on answers.
        align_weight: weight of the alignment's loss in `answer`.
    """

    frames: int = 8
    fewest_frames: int = 5
    data: str = ""
    stills: int = 0
    contrastive: ContrastiveConfig = ContrastiveConfig()
    rendered: RenderedConfig = RenderedConfig()
    align: TrainerConfig = TrainerConfig(steps=0)
    motion: TrainerConfig = TrainerConfig(steps=0)
    answer: TrainerConfig = TrainerConfig(steps=0)
    tail: int = 8
    align_weight: float = 0.5

    unused_key_rules: ClassVar[tuple[UnusedKeyRule, ...]] = (
        UnusedKeyRule(("rendered", "stills"), beside="data"),
        UnusedKeyRule(("contrastive",), beside="vision_tower.name"),
        UnusedKeyRule(
            ("vision_tower.pretrained", "vision_tower.layer", "vision_tower.fine_layers"),
            without="vision_tower.name",
        ),
    )

    def phases(self) -> dict[str, TrainerConfig]:
        """The phases that have steps, in order."""
        return _with_steps(self, ("align", "motion", "answer"))


@dataclass(frozen=True)
class StageConfig(TrainingConfig):
    """One stage, on synthetic clips or real footage. Its phases make one bundle.

    Attributes:
        stage: name of the stage; `name` is that of the bundle.
        contrastive: sizes of the tower that the phase `tower` trains.
        tower: phase that trains the visual tower, if none is named
            (`reellama.models.training.phases.tower`).
        align, text_only, joint: phases on synthetic clips
            (`reellama.models.training.phases.instruction`).
        footage: the real footage of the phases `concepts` and `captions`
            (`reellama.models.training.footage`).
        lora: the LoRA adapter and the losses of its phases.
        init_from: an earlier stage, or any bundle, whose projector and LoRA adapter are trained
            further, with its tower unless `[vision_tower]` names one. Without it, new ones are
            trained.
        weight_average: after `align`, share of the projector of `init_from` in the mean of its
            weights and the new ones, which is often better than either (Wortsman et al., 2022).
        average_with: a stage or bundle to average with in place of `init_from`. It must be one
            that `init_from` was trained from.
        lora_weight_average: after `joint`, share of the adapter of `init_from` in the mean of its
            weights and the new ones.
        name_logit_bias: added, after `align`, to the logits of "something" and "photograph" in the
            name slots. The names of objects that training draws stay far more likely; those of
            other objects often do not.
        camera_logit_bias: the same for "moves about" in the camera's slot.
        inverse_temperature: factor on the logits of the words, after `align`. Over 1, a soft token
            has more of its most likely word. The factor of `init_from` is undone first.
        imagenet_labels: whether the bundle has the labels of ImageNet's classifier, which needs a
            tower of EfficientNet-lite0.
        processes: number of processes that share each step.
        measured_on: the machine on which the phases' `seconds_per_step` were measured.
    """

    stage: str = ""
    contrastive: NewTowerConfig = NewTowerConfig()
    synthetic: SyntheticConfig = SyntheticConfig()
    tower: TrainerConfig = TrainerConfig(steps=0)
    align: ClipPhaseConfig = ClipPhaseConfig(steps=0)
    text_only: TextPhaseConfig = TextPhaseConfig(steps=0)
    joint: ClipPhaseConfig = ClipPhaseConfig(steps=0)
    footage: FootageConfig = FootageConfig()
    concepts: ConceptPhaseConfig = ConceptPhaseConfig(steps=0)
    captions: CaptionPhaseConfig = CaptionPhaseConfig(steps=0)
    lora: LoraConfig = LoraConfig()
    imagenet_labels: bool = False
    init_from: str = ""
    weight_average: float = 0.0
    average_with: str = ""
    lora_weight_average: float = 0.0
    name_logit_bias: float = 0.0
    camera_logit_bias: float = 0.0
    inverse_temperature: float = 1.0
    processes: int = 1
    measured_on: str = ""

    unused_key_rules: ClassVar[tuple[UnusedKeyRule, ...]] = (
        UnusedKeyRule(("weight_average", "lora_weight_average"), without="init_from"),
        UnusedKeyRule(("average_with",), without="weight_average"),
        UnusedKeyRule(("projector", "tower", "contrastive"), beside="init_from"),
        UnusedKeyRule(("tower", "contrastive"), beside="vision_tower.name"),
        UnusedKeyRule(
            ("vision_tower.pretrained", "vision_tower.layer"), without="vision_tower.name"
        ),
        UnusedKeyRule(
            ("vision_tower.fine_layers",), without="vision_tower.name", beside="init_from"
        ),
        UnusedKeyRule(("concepts", "captions"), without="footage.train"),
        UnusedKeyRule(("lora.oracle_fraction",), without="lora.freeze_projector"),
        UnusedKeyRule(("lora.align_weight",), beside="lora.freeze_projector"),
    )

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ReellamaError(f"processes must be 1 or more, not {self.processes}")

    def phases(self) -> dict[str, TrainerConfig]:
        """The phases that have steps, in order."""
        return _with_steps(self, PHASES)

    def to_json(self) -> dict[str, Any]:
        """All values, defaults included, and the clips that `reellama eval` renders."""
        values = {**super().to_json(), "rendered": dataclasses.asdict(RenderedConfig())}
        unused = ("footage", "concepts", "captions") if not self.footage.train else ()
        return {key: value for key, value in values.items() if key not in unused}


@dataclass(frozen=True)
class MultiStageConfig:
    """Stages, of which each may continue from an earlier one; the last makes the bundle.

    In the file, a key or table outside of `[[stages]]` is a default for every stage, which the
    stage's own keys override. The clips of a stage are drawn with the stage's seed, unless its
    table `[stages.synthetic]` has one.
    """

    name: str
    stages: tuple[StageConfig, ...]


def read_config(path: Path) -> CaptionConfig | MultiStageConfig:
    """Read a TOML file. Raises ReellamaError, which names the wrong key."""
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise ReellamaError(f"{path}: {error.strerror}; name a training config (TOML)") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ReellamaError(f"{path}: not a training config: {error}") from error
    try:
        if "name" not in values:
            raise ReellamaError('the bundle has no name; give it one, such as name = "kitchen"')
        return _multi_stage_config(values) if STAGES in values else _caption_config(values)
    except ReellamaError as error:
        raise ReellamaError(f"{path}: {error}") from error


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's `to_json` without the keys of `NOT_COMPARED`: what decides its weights."""
    return {
        key: comparable(value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if key not in NOT_COMPARED
    }


def _caption_config(values: Mapping[str, Any]) -> CaptionConfig:
    _refuse_unknown_keys(CaptionConfig, values, _keys(StageConfig), f"without [[{STAGES}]]")
    config: CaptionConfig = _checked(CaptionConfig, values)
    return config


def _multi_stage_config(values: Mapping[str, Any]) -> MultiStageConfig:
    """The stages in the values of a file. Raises ReellamaError."""
    tables = values[STAGES]
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ReellamaError(f"{STAGES} must be an array of tables: begin each with [[{STAGES}]]")
    defaults = {key: value for key, value in values.items() if key != STAGES}
    stages: list[StageConfig] = []
    for table in tables:
        name = table.get("name")
        if not isinstance(name, str) or not name or Path(name).name != name:
            raise ReellamaError(
                f"stage {len(stages) + 1} needs a name that can be a folder, not {name!r}"
            )
        if any(name == stage.stage for stage in stages):
            raise ReellamaError(f"two stages are called {name}")
        try:
            stages.append(_stage(_merged(defaults, table), values["name"], name))
            not_earlier = [later.get("name") for later in tables[len(stages) - 1 :]]
            _refuse_later_stages(stages[-1], not_earlier)
        except ReellamaError as error:
            raise ReellamaError(f"stage {name}: {error}") from error
    if not stages:
        raise ReellamaError(f"there is no stage; begin one with [[{STAGES}]]")
    return MultiStageConfig(values["name"], tuple(stages))


def _stage(values: dict[str, Any], name: str, stage: str) -> StageConfig:
    """The stage of its values, which have the defaults filled in. name: of the bundle."""
    _refuse_unknown_keys(StageConfig, values, _keys(CaptionConfig), f"with [[{STAGES}]]")
    synthetic = values.get("synthetic", {})
    if isinstance(synthetic, dict) and "seed" in values:
        values["synthetic"] = {"seed": values["seed"], **synthetic}
    config: StageConfig = _checked(StageConfig, {**values, "name": name})
    return dataclasses.replace(config, stage=stage)


def _refuse_later_stages(stage: StageConfig, not_earlier: list[Any]) -> None:
    """Raise ReellamaError if a stage refers to itself or to a later one."""
    for key in ("init_from", "average_with"):
        if getattr(stage, key) in not_earlier:
            raise ReellamaError(f"{key} = {getattr(stage, key)!r} is not an earlier stage")


def _refuse_unknown_keys(
    cls: type[TrainingConfig], values: Mapping[str, Any], other_keys: list[str], kind: str
) -> None:
    """Raise ReellamaError for a key that `cls` does not have.

    other_keys: of the other type of config. kind: of this one, for the message.
    """
    keys = [key for key in _keys(cls) if key != "stage"]
    for key in values:
        if key in keys:
            continue
        if key in other_keys:
            raise ReellamaError(
                f"{key} does nothing in a config {kind}; known there: {', '.join(keys)}"
            )
        raise unknown_name_error("key of a config", key, keys, other_keys)


def _checked(cls: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass `cls` of the values. Raises ReellamaError, also for a key without effect."""
    arguments = dataclass_arguments(cls, values)
    refuse_unused_keys(cls.unused_key_rules, values)
    return cls(**arguments)


def _merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`defaults` updated with `own`, recursively in tables that both have."""
    merged = {**defaults, **own}
    for key in defaults.keys() & own.keys():
        if isinstance(defaults[key], dict) and isinstance(own[key], dict):
            merged[key] = _merged(defaults[key], own[key])
    return merged


def _with_steps(config: TrainingConfig, names: tuple[str, ...]) -> dict[str, TrainerConfig]:
    phases = {name: getattr(config, name) for name in names}
    return {name: phase for name, phase in phases.items() if phase.steps}


def _keys(cls: type[TrainingConfig]) -> list[str]:
    return [entry.name for entry in dataclasses.fields(cls)]
