"""The networks of a bundle in torch: for training, and where no ONNX graph can be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reellama.models.bundle_config import BundleError
from reellama.models.concepts.concept_config import WEIGHTS, ConceptConfig
from reellama.models.concepts.concept_model import ConceptModel
from reellama.models.networks.weights_file import not_finite, opened_weights
from reellama.models.projector.config import ProjectorConfig
from reellama.models.projector.temporal_projector import Projector


def load_projector(path: Path, config: ProjectorConfig) -> Projector:
    """A projector with the weights of a safetensors file, in float32, for inference.

    Raises BundleError if the file is damaged or does not fit the config.
    """
    projector = Projector(config)
    try:
        projector.load_state_dict(_load_weights(path))
    except RuntimeError as error:
        raise BundleError(
            f"{path}: its weights are not those that bundle.json describes"
        ) from error
    return projector.eval().requires_grad_(False)


def load_concepts(folder: Path, config: ConceptConfig) -> ConceptModel:
    """The concept model of a bundle. Raises ReellamaError if its files do not fit each other."""
    return ConceptModel.load(folder, config, _load_weights(folder / WEIGHTS))


def video_batch(features: np.ndarray, times: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of one video for a projector: features `[1, T, cells, channels]`, times and mask
    `[1, T]`."""
    grid = torch.from_numpy(np.ascontiguousarray(features, np.float32))[None]
    seconds = torch.from_numpy(np.ascontiguousarray(times, np.float32))[None]
    return grid, seconds, torch.ones(1, len(times), dtype=torch.bool)


@torch.inference_mode()
def soft_tokens(module: nn.Module, features: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Soft tokens `[tokens, n_embd]` of a video with features `[T, cells, channels]` at `times [T]`
    seconds. module: a `Projector` or `ConceptTokens`."""
    tokens: np.ndarray = module(*video_batch(features, times))[0].cpu().numpy()
    return tokens


def _load_weights(path: Path) -> dict[str, Tensor]:
    with opened_weights(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise not_finite(path, name)
    return weights
