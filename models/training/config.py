"""A training config: everything that decides what `reellama train` makes, as one TOML file.

There are two types. `CaptionConfig` trains a projector on captions, of drawn clips or of one's own
videos (`reellama.models.training.captions.train_captions`). `MultiStageConfig` trains a projector
and a LoRA adapter on synthetic clips, in the stages of its array `[[stages]]`
(`reellama.models.training.train_stages`). A key that is unknown, or would do nothing, is refused.
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
PHASES = (
    "tower",
    "align",
    "text_only",
    "joint",
    "concepts",
    "captions",
)  # of a stage, in this order
# What says how a stage runs, and nothing of what it makes.
NOT_COMPARED = ("processes", "measured_on", "seconds_per_step")


@dataclass(frozen=True)
class ProjectorSettings:
    """What a config decides of the projector; the rest follows from tower and LLM."""

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
    """A tower by its open_clip name or folder; without a name one is trained.

    Attributes:
        name: a folder, `hf-hub:owner/repo`, or an open_clip model, which needs `pretrained`.
        pretrained: open_clip's tag of the weights, or a file with them.
        layer: the block whose grid is read, counted from the end.
        fine_layers: how many blocks before it, of finer grids, are folded into its cells.
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
        """These settings as a bundle's config has them."""
        return TowerSpec(self.name, self.pretrained, self.layer, self.fine_layers)


@dataclass(frozen=True)
class TrainingConfig:
    """What both types have in common.

    Attributes:
        name: of the bundle.
        llm: a name that `reellama.gguf_tools.locate.find.resolve` knows, or a path.
        vision_tower, projector: without them, a tower is trained and the projector is the usual
            one.
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
        frames: frames of a video, in training and by default afterwards.
        data: a JSONL or CSV file; without it, clips are drawn as `rendered` says.
        fewest_frames: clips lose frames at random in training, down to this many.
        stills: drawn single frames, for the names of objects, in every phase.
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
        """What is trained, in order."""
        return _with_steps(self, ("align", "motion", "answer"))


@dataclass(frozen=True)
class StageConfig(TrainingConfig):
    """One stage, on synthetic clips or real footage: the phases that it trains make one bundle.

    Attributes:
        stage: its own name in the config; `name` is the bundle's.
        tower, align, text_only, joint: its phases (`reellama.models.training.phases.tower` and
            `reellama.models.training.phases.instruction`); `tower` trains the visual tower, of the
            sizes that `contrastive` says, where none is named.
        footage: the real footage of the phases `concepts` and `captions`
            (`reellama.models.training.footage`).
        init_from: an earlier stage, or any bundle, whose projector and LoRA adapter learn on, over
            its tower where `[vision_tower]` names none; else new ones do.
        weight_average: share of the projector of `init_from` in the mean of its weights and those
            after `align`; that often does better than either (Wortsman et al., 2022).
        average_with: an earlier stage or a bundle to average with in place of `init_from`, one
            that `init_from` came from.
        lora_weight_average: share of the adapter of `init_from` in the mean of its weights and
            those after `joint`.
        name_logit_bias: logits by which "something" and "photograph" are raised after `align`,
            where a thing's name stands. Drawn things that training knows are likelier than that by
            far, others often not.
        camera_logit_bias: the same for what the camera does, which gives way to "moves about".
        inverse_temperature: what the logits of the words are multiplied by after `align`: over 1,
            a soft token has more of its likeliest word and less of others. That of `init_from` is
            taken back first.
        imagenet_labels: the bundle names what ImageNet's classifier sees (towers of
            EfficientNet-lite0).
        processes: that share each step.
        measured_on: the machine that its phases' `seconds_per_step` were measured on.
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
        """What is trained, in order."""
        return _with_steps(self, PHASES)

    def to_json(self) -> dict[str, Any]:
        """All values, defaults included, and how clips are drawn that `reellama eval` tests."""
        values = {**super().to_json(), "rendered": dataclasses.asdict(RenderedConfig())}
        unused = ("footage", "concepts", "captions") if not self.footage.train else ()
        return {key: value for key, value in values.items() if key not in unused}


@dataclass(frozen=True)
class MultiStageConfig:
    """Stages on synthetic clips, each upon what an earlier one made; the last makes the bundle.

    In the file, a key or table outside `[[stages]]` is a default for every stage; a stage's own
    keys come before it. The clips of a stage are drawn with the stage's seed, unless its table
    `[stages.synthetic]` has one.
    """

    name: str
    stages: tuple[StageConfig, ...]


def read_config(path: Path) -> CaptionConfig | MultiStageConfig:
    """Read a TOML file; raises ReellamaError that names what in it is wrong."""
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
    """A stage's `to_json` with only what decides the weights that it makes."""
    return {
        key: comparable(value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if key not in NOT_COMPARED
    }


def _caption_config(values: Mapping[str, Any]) -> CaptionConfig:
    others = _keys(StageConfig)
    _refuse_unknown_keys(CaptionConfig, values, others, f"without [[{STAGES}]]")
    config: CaptionConfig = _checked(CaptionConfig, values)
    return config


def _multi_stage_config(values: Mapping[str, Any]) -> MultiStageConfig:
    """The stages of a file's values; raises ReellamaError for what does not belong in one."""
    tables = values[STAGES]
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise ReellamaError(f"{STAGES} must be an array of tables: begin each with [[{STAGES}]]")
    defaults = {key: value for key, value in values.items() if key != STAGES}
    stages: list[StageConfig] = []
    for table in tables:
        name = table.get("name")
        if not isinstance(name, str) or not name or Path(name).name != name:
            raise ReellamaError(
                f"stage {len(stages) + 1} needs a name that can be a folder, not {name!r}"
            )
        if any(name == other.stage for other in stages):
            raise ReellamaError(f"two stages are called {name}")
        try:
            stages.append(_stage(_merged(defaults, table), values["name"], name))
            _refuse_later_stages(stages[-1], [one.get("name") for one in tables[len(stages) - 1 :]])
        except ReellamaError as error:
            raise ReellamaError(f"stage {name}: {error}") from error
    if not stages:
        raise ReellamaError(f"there is no stage; begin one with [[{STAGES}]]")
    return MultiStageConfig(values["name"], tuple(stages))


def _stage(values: dict[str, Any], name: str, stage: str) -> StageConfig:
    """One stage of its keys with the defaults filled in."""
    _refuse_unknown_keys(StageConfig, values, _keys(CaptionConfig), f"with [[{STAGES}]]")
    synthetic = values.get("synthetic", {})
    if isinstance(synthetic, dict) and "seed" in values:
        values["synthetic"] = {"seed": values["seed"], **synthetic}
    config: StageConfig = _checked(StageConfig, {**values, "name": name})
    return dataclasses.replace(config, stage=stage)


def _refuse_later_stages(stage: StageConfig, later: list[Any]) -> None:
    for key in ("init_from", "average_with"):
        if getattr(stage, key) in later:
            raise ReellamaError(f"{key} = {getattr(stage, key)!r} is not an earlier stage")


def _refuse_unknown_keys(
    cls: type[TrainingConfig], values: Mapping[str, Any], others: list[str], kind: str
) -> None:
    known = [key for key in _keys(cls) if key != "stage"]
    for key in values:
        if key in known:
            continue
        if key in others:
            raise ReellamaError(
                f"{key} does nothing in a config {kind}; known there: {', '.join(known)}"
            )
        raise unknown_name_error("key of a config", key, known, others)


def _checked(cls: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass of a file's values; raises ReellamaError for a key that does nothing."""
    arguments = dataclass_arguments(cls, values)
    refuse_unused_keys(cls.unused_key_rules, values)
    return cls(**arguments)


def _merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `defaults`, and so with the tables that both have."""
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
