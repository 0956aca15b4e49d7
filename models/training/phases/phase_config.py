"""Configs of the phases on synthetic clips: `align`, `text_only` and `joint`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.config_tables import unknown_name_error
from reellama.models.synthetic.scenarios.registry import SCENARIOS
from reellama.models.synthetic.scenarios.stills import STILL_SCENARIOS
from reellama.models.training.trainer import TrainerConfig


@dataclass(frozen=True)
class LoraConfig:
    """The `[lora]` table of a config.

    align_weight: weight of the slot loss in `joint`.
    kl_weight: weight of the KL divergence from the bare LLM, on texts without a video.
    validation_clips: clips, and as many stills, of a validation.
    freeze_projector: only the adapter is trained. In the small batches that a CPU can take, the
        projector gets worse in `joint`.
    count_weight: weight of the two counts in the slot loss, where they are two tokens of many.
    motion_weight: the same of the two motions of the first object.
    separate_turns: every turn about a clip is a conversation of its own; in a common one, an
        earlier answer often gives away a later one.
    oracle_fraction: share of the clips in `joint` whose soft tokens are the true words of the
        slots, as in the phase `text_only`; with `freeze_projector` only.
    kl_texts: texts that the bare LLM writes for the divergence, of `kl_tokens` tokens each.
    """

    rank: int = 16
    alpha: float = 32.0
    align_weight: float = 0.3
    kl_weight: float = 1.0
    count_weight: float = 1.0
    motion_weight: float = 1.0
    freeze_projector: bool = False
    separate_turns: bool = False
    oracle_fraction: float = 0.0
    kl_texts: int = 512
    kl_tokens: int = 96
    kl_batch: int = 16
    validation_clips: int = 512


@dataclass(frozen=True)
class TextPhaseConfig(TrainerConfig):
    """A phase over synthetic clips, of which frames are not needed.

    sampling_weights: how many times as often as usual a scenario is drawn, by its name.
    """

    sampling_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, times in self.sampling_weights.items():
            if name not in self._scenarios() and name in STILL_SCENARIOS:
                raise ReellamaError(
                    f"sampling_weights.{name} does nothing in a phase without still_batch"
                )
            if name not in self._scenarios():
                raise unknown_name_error("scenario", name, self._scenarios())
            if times < 0:
                raise ReellamaError(f"sampling_weights.{name} must be 0 or more, not {times}")

    def _scenarios(self) -> list[str]:
        """The names of the scenarios that can be drawn."""
        return [*SCENARIOS]


@dataclass(frozen=True)
class ClipPhaseConfig(TextPhaseConfig):
    """A phase over synthetic clips with their frames.

    still_batch: single pictures of one forward pass, beside its clips; `sampling_weights` applies
        to their scenarios too.
    """

    still_batch: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.batch, self.still_batch)

    def _scenarios(self) -> list[str]:
        return [*dict.fromkeys([*SCENARIOS, *(STILL_SCENARIOS if self.still_batch else ())])]
