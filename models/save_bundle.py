"""Write a bundle, which `bundle.py` opens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reellama.models.bundle import PROJECTOR, Bundle
from reellama.models.bundle_config import SCORES, BundleConfig

if TYPE_CHECKING:  # these import torch
    from reellama.models.concepts.concept_model import ConceptModel
    from reellama.models.projector.temporal_projector import Projector


def save_bundle(
    folder: Path, config: BundleConfig, projector: Projector, concepts: ConceptModel | None = None
) -> Bundle:
    """Write `bundle.json` and the weights (fp16) of projector and concepts into `folder`.

    Removes scores in the folder, because they are those of earlier weights.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCORES).unlink(missing_ok=True)
    weights = {name: t.detach().half().contiguous() for name, t in projector.state_dict().items()}
    save_file(weights, folder / PROJECTOR)
    if concepts is not None:
        concepts.save(folder)
    (folder / "bundle.json").write_text(config.to_json(), encoding="utf-8")
    return Bundle(folder, config)
