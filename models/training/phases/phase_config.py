"""Config tables of the phases on synthetic clips: `align`, `text_only` and `joint`."""

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

    Attributes:
        rank, alpha: of the adapter.
        align_weight: weight of the slot loss in `joint`.
        kl_weight: weight of the KL divergence from the bare LLM, on texts without a video.
        count_weight: weight, in the slot loss, of the two tokens of the counts.
        motion_weight: weight, in the slot loss, of the two motions of the first object.
        freeze_projector: whether `joint` trains only the adapter. In the small batches that a CPU
            can take, the projector gets worse in `joint`.
        separate_turns: whether every turn about a clip is a conversation of its own. In a common
            one, an earlier answer often gives away a later one.
        oracle_fraction: share of the clips in `joint` whose soft tokens are the true words of the
            slots, as in `text_only`; only with `freeze_projector`.
        kl_texts, kl_tokens: number of texts that the bare LLM generates for the divergence, and of
            tokens in each.
        kl_batch: texts in a step.
        validation_clips: number of clips, and of stills, in a validation.
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
    """A phase on synthetic clips without their frames.

    sampling_weights: factors on the usual shares of scenarios, by name.
    """

    sampling_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, weight in self.sampling_weights.items():
            if name not in self._scenarios() and name in STILL_SCENARIOS:
                raise ReellamaError(
                    f"sampling_weights.{name} does nothing in a phase without still_batch"
                )
            if name not in self._scenarios():
                raise unknown_name_error("scenario", name, self._scenarios())
            if weight < 0:
                raise ReellamaError(f"sampling_weights.{name} must be 0 or more, not {weight}")

    def _scenarios(self) -> list[str]:
        """The names of the scenarios that can be drawn."""
        return [*SCENARIOS]


@dataclass(frozen=True)
class ClipPhaseConfig(TextPhaseConfig):
    """A phase on synthetic clips with their frames.

    still_batch: stills in a forward pass, besides its clips; `sampling_weights` applies to their
        scenarios, too.
    """

    still_batch: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.batch, self.still_batch)

    def _scenarios(self) -> list[str]:
        return [*dict.fromkeys([*SCENARIOS, *(STILL_SCENARIOS if self.still_batch else ())])]
