"""The networks of a bundle: where their weights are, and how torch builds them.

tower              CLIP's image tower: grid features of frames
images, texts      CLIP's embeddings of frames and of texts
projector          soft tokens of drawn clips
concepts           soft tokens of real footage
projector_reading  words and attention of the projector's soft tokens
concept_reading    words and attention of the concept model's soft tokens
frame_concepts     concept probabilities of single frames, for search
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reellama.gguf_tools.atomic_write import replacing
from reellama.models.bundle_config import TowerSpec
from reellama.models.cache_folders import EXPORTED_GRAPHS
from reellama.models.networks.graph_file import GRAPHS, Graph, GraphError, fingerprint
from reellama.models.networks.weights_file import weight_shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

TOWER_WEIGHTS, TOWER_CONFIG = "open_clip_model.safetensors", "open_clip_config.json"
EXAMPLE_FRAMES = 3  # frames of the example input for the export
# Networks without a name in their settings: they were the only ones of their weights file when
# their graphs were first exported, and those graphs' fingerprints must not change.
UNNAMED_IN_SETTINGS = ("projector", "concepts")
FeatureNetwork = Literal[
    "projector", "concepts", "projector_reading", "concept_reading", "frame_concepts"
]


@dataclass(frozen=True)
class ClipPart:
    """A part of a bundle's CLIP model: see the module's docstring."""

    name: Literal["tower", "images", "texts"]
    folder: Path
    spec: TowerSpec

    @property
    def settings(self) -> dict[str, Any]:
        """The CLIP model's configuration; for the tower also the layers of its grid."""
        config = self._inside / TOWER_CONFIG
        clip = config.read_text(encoding="utf-8") if config.is_file() else self.spec.to_json()
        if self.name == "tower":
            return {"layer": self.spec.layer, "finer": self.spec.fine_layers, "clip": clip}
        return {"network": self.name, "clip": clip}

    def weights(self) -> Path | None:
        """The weights file of the bundle, or one that `keep_weights` wrote; None for neither."""
        candidates = (
            self._inside / TOWER_WEIGHTS,
            self.folder / GRAPHS / self._weights_name,
            EXPORTED_GRAPHS / self._weights_name,
        )
        return next((path for path in candidates if path.is_file()), None)

    def keep_weights(self, folder: Path) -> Path:
        """See `NetworkSource.keep_weights`. All parts of a CLIP model share the file."""
        own = self._inside / TOWER_WEIGHTS
        path = own if own.is_file() else folder / self._weights_name
        if not path.is_file():
            from safetensors.torch import save_file

            weights = {k: t.contiguous() for k, t in self._load()[0].state_dict().items()}
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                save_file(weights, temporary)
        return path

    @property
    def _inside(self) -> Path:
        """The tower's folder in the bundle, which exists only if the bundle has its own tower."""
        return self.folder / self.spec.name

    @property
    def _weights_name(self) -> str:
        spec = {**self.spec.to_json(), "layer": 0, "finer": 0}  # the weights are the same
        where = str(self._inside.resolve()) if self._inside.is_dir() else ""
        return f"clip-{fingerprint(spec, {where: []})[:16]}.safetensors"

    def _load(self) -> tuple[nn.Module, Any]:
        """The CLIP model and its tokenizer."""
        from reellama.models.vision.encoder import load_clip

        name = self._inside if self._inside.is_dir() else self.spec.name
        return load_clip(name, None if self._inside.is_dir() else self.spec.pretrained)

    def export(self) -> Graph:
        """See `NetworkSource.export`."""
        import torch
        from safetensors.torch import load_file

        from reellama.models.networks import torch_modules
        from reellama.models.vision.clip_tokenizer import bpe_merges
        from reellama.models.vision.encoder import image_size

        weights = self.weights()
        assert weights is not None
        clip, tokenizer = self._load()
        if weights.parent != self._inside:  # else `_load` has loaded them
            clip.load_state_dict(load_file(weights))
        stored = weight_shapes(weights)
        if self.name == "texts":
            merges = bpe_merges(tokenizer)
            if not merges:
                raise GraphError("its tokenizer is not that of CLIP")
            ids = tokenizer(["", "a", "a dog"])
            names = {f"clip.{name}": name for name in stored}
            module: nn.Module = torch_modules.TextEmbeddingModule(clip)
            return _export(module, {"ids": ids}, names, weights, merges)
        size = image_size(clip.visual)
        pixels = torch.zeros(EXAMPLE_FRAMES, size, size, 3, dtype=torch.uint8)
        if self.name == "tower":
            module = torch_modules.TowerModule(clip.visual, self.spec.layer, self.spec.fine_layers)
        else:
            module = torch_modules.ImageEmbeddingModule(clip.visual)
        return _export(module, {"pixels": pixels}, {name: name for name in stored}, weights)


@dataclass(frozen=True)
class FeatureSource:
    """A network of a bundle that takes features: see the module's docstring.

    Attributes:
        file: name of the weights file in the bundle.
        config: sizes of the module.
        load_module: returns the module with its weights, in float32.
        prefix: of the weights' names in the file.
    """

    name: FeatureNetwork
    folder: Path
    file: str
    config: Mapping[str, Any]
    load_module: Callable[[], nn.Module]
    prefix: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The sizes of the module, and the network's name."""
        name = {} if self.name in UNNAMED_IN_SETTINGS else {"network": self.name}
        return {**name, **self.config}

    def weights(self) -> Path | None:
        """The weights file of the bundle; reading it reports a missing one."""
        return self.folder / self.file

    def keep_weights(self, folder: Path) -> Path:
        """The weights file of the bundle; nothing is written."""
        return self.folder / self.file

    def module(self) -> nn.Module:
        """The network as a torch module that takes the arrays of one video, without a batch."""
        from reellama.models.networks import torch_modules as modules

        kinds: dict[str, Callable[[Any], nn.Module]] = {
            "projector_reading": modules.ProjectorReadingModule,
            "concept_reading": modules.ConceptReadingModule,
            "frame_concepts": modules.FrameConceptsModule,
        }
        return kinds.get(self.name, modules.SoftTokenModule)(self.load_module())

    def run_in_torch(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """The outputs of the network in torch, for the same arrays as its graph takes."""
        import torch

        module = self.module()  # made outside of inference mode, so that it can still be trained
        with torch.inference_mode():
            output = module(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays))
        outputs = output if isinstance(output, tuple) else (output,)
        return [array.cpu().numpy() for array in outputs]

    def export(self) -> Graph:
        """See `NetworkSource.export`."""
        import torch

        from reellama.models.projector.renamed_weights import names_in_file

        stored = list(weight_shapes(self.folder / self.file))
        own = [name.removeprefix(self.prefix) for name in stored if name.startswith(self.prefix)]
        names = {
            f"batched.{name}": self.prefix + old
            for name, old in names_in_file(self.load_module(), own).items()
        }
        shape = (EXAMPLE_FRAMES, self.config["cells"], self.config["channels"])
        example = {"features": torch.zeros(shape), "times": torch.arange(float(EXAMPLE_FRAMES))}
        if self.name == "frame_concepts":
            del example["times"]
        return _export(self.module(), example, names, self.weights())


def _export(
    module: nn.Module,
    example: Mapping[str, Tensor],
    names: Mapping[str, str],
    weights: Path | None,
    merges: str = "",
) -> Graph:
    """Export a module and check the graph against it. Raises GraphError."""
    from reellama.models.networks.graph_export import check_graph, export_graph

    assert weights is not None
    module = module.float().eval().requires_grad_(False)
    graph = export_graph(module, example, names)
    check_graph(graph, weights, module, example)
    return Graph(graph.model, graph.weights, merges=merges)
