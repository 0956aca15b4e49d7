"""The networks of a bundle: where their weights are, and how torch builds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reellama.models.bundle_config import TowerSpec
from reellama.models.networks.graph_file import Graph
from reellama.models.networks.weights_file import weight_shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

TOWER_WEIGHTS, TOWER_CONFIG = "open_clip_model.safetensors", "open_clip_config.json"
EXAMPLE_FRAMES = 3


@dataclass(frozen=True)
class TowerSource:
    """The image tower of a bundle, an open_clip folder inside of it."""

    folder: Path
    spec: TowerSpec
    name: str = "tower"

    @property
    def settings(self) -> dict[str, Any]:
        """Which grid it makes, and open_clip's description of it."""
        text = (self.folder / self.spec.name / TOWER_CONFIG).read_text(encoding="utf-8")
        return {"layer": self.spec.layer, "finer": self.spec.finer, "clip": text}

    def weights(self) -> Path | None:
        """None for a tower that is not in the bundle, or whose weights are no safetensors."""
        path = self.folder / self.spec.name / TOWER_WEIGHTS
        return path if path.is_file() and path.with_name(TOWER_CONFIG).is_file() else None

    def export(self) -> Graph:
        """See `NetworkSource.export`."""
        import torch

        from reellama.models.networks.torch_modules import TowerModule
        from reellama.models.vision.encoder import image_size, load_clip

        visual = load_clip(self.folder / self.spec.name)[0].visual
        size = image_size(visual)
        pixels = torch.zeros(EXAMPLE_FRAMES, size, size, 3, dtype=torch.uint8)
        names = {name: name for name in weight_shapes(self.folder / self.spec.name / TOWER_WEIGHTS)}
        module = TowerModule(visual, self.spec.layer, self.spec.finer)
        return _export(module, {"pixels": pixels}, names, self.weights())


@dataclass(frozen=True)
class SoftTokenSource:
    """What makes soft tokens of features: the projector of a bundle, or its concepts.

    file: the name of its weights file. prefix: what their names there begin with. config: of the
    module. module: makes it, with its weights, in float32.
    """

    name: str
    folder: Path
    file: str
    config: Mapping[str, Any]
    module: Callable[[], nn.Module]
    prefix: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The sizes of its module."""
        return dict(self.config)

    def weights(self) -> Path | None:
        """Always there: else the bundle is broken, which whoever reads them says."""
        return self.folder / self.file

    def export(self) -> Graph:
        """See `NetworkSource.export`."""
        import torch

        from reellama.models.networks.torch_modules import SoftTokenModule
        from reellama.models.projector.renamed_weights import names_in_file

        batched = self.module()
        stored = list(weight_shapes(self.folder / self.file))
        own = [name.removeprefix(self.prefix) for name in stored if name.startswith(self.prefix)]
        names = {
            f"batched.{name}": self.prefix + old
            for name, old in names_in_file(batched, own).items()
        }
        example = {
            "features": torch.zeros(EXAMPLE_FRAMES, self.config["cells"], self.config["channels"]),
            "times": torch.arange(float(EXAMPLE_FRAMES)),
        }
        return _export(SoftTokenModule(batched), example, names, self.weights())


def _export(
    module: nn.Module, example: Mapping[str, Tensor], names: Mapping[str, str], weights: Path | None
) -> Graph:
    from reellama.models.networks.graph_export import check_graph, export_graph

    assert weights is not None
    module = module.float().eval().requires_grad_(False)
    graph = export_graph(module, example, names)
    check_graph(graph, weights, module, example)
    return graph
