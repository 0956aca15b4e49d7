"""The visual tower in torch: any open_clip model, for grids of features and for search by text.

    tower = Tower.load("ViT-B-32", pretrained="laion2b_s34b_b79k")
    grid = tower.grid(frames)              # [frames, cells, channels]
    scores = tower.embed_images(frames) @ tower.embed_texts(["a dog"]).T

Whole frames are resized to the tower's square input. A crop would lose motion at the edges of a
wide video.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from reellama.models.precision import compute_dtype
from reellama.models.vision.frame_pixels import BATCH_FRAMES, NO_FRAMES, TowerError, square_pixels
from reellama.models.vision.torchvision_compat import ensure_torchvision


@torch.no_grad()
def fold_batch_norms(trunk: nn.Module) -> None:
    """Fold each batch norm into the convolution before it, in place, which is faster.

    The trunk must register its layers in the order in which they run, as timm's convolutional
    trunks do. Norms that follow no convolution stay.
    """
    convolution: nn.Conv2d | None = None
    for name, module in list(trunk.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = module
        elif isinstance(module, nn.BatchNorm2d):
            if convolution is not None and convolution.out_channels == module.num_features:
                _fold(convolution, module)
                parent, _, child = name.rpartition(".")
                # timm's norm layers include dropout and activation.
                activation = [module.drop, module.act] if hasattr(module, "act") else []
                setattr(trunk.get_submodule(parent), child, nn.Sequential(*activation))
            convolution = None


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )


def forward_grid(visual: nn.Module, pixels: Tensor, layers: list[int]) -> Tensor:
    """Normalized pixels `[B, 3, size, size]` -> features `[B, cells, channels]`.

    The cells are those of the last of `layers`. The finer grids of the other layers are folded into
    them (space to depth), with their channels first.
    """
    output = visual.forward_intermediates(
        pixels, indices=layers, intermediates_only=True, output_fmt="NCHW"
    )
    *fine, coarse = output["image_intermediates"]  # [B, channels, rows, columns] each
    rows = coarse.shape[2]
    folded = [F.pixel_unshuffle(grid, grid.shape[2] // rows) for grid in fine]
    return torch.cat([*folded, coarse], dim=1).flatten(2).transpose(1, 2)


def grid_layers(layer: int, fine_layers: int) -> list[int]:
    """The blocks whose outputs are a grid: `fine_layers` blocks before `layer`, and `layer`."""
    return [layer - n for n in range(fine_layers, -1, -1)]


@contextmanager
def _quiet(open_clip: Path) -> Iterator[None]:
    """A context that drops log records below ERROR of open_clip and timm, but of no others.

    open_clip: the package's folder.
    """

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or open_clip not in Path(record.pathname).parents

    # open_clip logs to the root logger with functions that would add a handler if there is none.
    # Python's last resort is the handler meanwhile, so that other libraries log as before.
    root, timm = logging.getLogger(), logging.getLogger("timm")
    stand_in = logging.lastResort if not root.handlers else None
    level = timm.level
    root.addFilter(passes)
    if stand_in:
        root.addHandler(stand_in)
    timm.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        timm.setLevel(level)
        if stand_in:
            root.removeHandler(stand_in)
        root.removeFilter(passes)


def load_clip(
    name: str | Path, pretrained: str | None = None
) -> tuple[nn.Module, Callable[[list[str]], Tensor]]:
    """A CLIP model and its tokenizer from open_clip; arguments and errors as `Tower.load`."""
    ensure_torchvision()
    import open_clip

    name = str(name)
    source = f"local-dir:{name}" if Path(name).is_dir() else name
    if ":" not in source and source not in open_clip.list_models():
        raise TowerError(
            f"{name}: neither a folder nor a model that open_clip knows; "
            "take a name from open_clip.list_models(), or hf-hub:owner/repo"
        )
    try:
        with _quiet(Path(open_clip.__file__).parent):
            model = open_clip.create_model(source, pretrained=pretrained)
            tokenizer = open_clip.get_tokenizer(source)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise TowerError(f"{name}: the visual tower does not load: {reason}") from error
    return model, tokenizer


def image_size(visual: nn.Module) -> int:
    """The side of an image tower's square input, in pixels."""
    size = visual.image_size
    return int(size[0] if isinstance(size, Sequence) else size)


def pixel_scale(visual: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation to normalize pixels of 0 to 255 with, `[1, 3, 1, 1]` each."""
    config = getattr(visual, "preprocess_cfg", {})
    mean, std = config.get("mean", (0.5,) * 3), config.get("std", (0.5,) * 3)
    return torch.tensor(mean).view(1, 3, 1, 1) * 255, torch.tensor(std).view(1, 3, 1, 1) * 255


class Tower:
    """A frozen open_clip model in inference mode.

    Attributes:
        size: side of the square that frames are resized to, in pixels.
        layers: the blocks whose outputs are the grid, see `grid_layers`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor] | None = None,
        *,
        layer: int = -1,
        fine_layers: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.dtype = dtype or compute_dtype()
        self.device = torch.device("cpu")
        self.layers = grid_layers(layer, fine_layers)
        self.model = model.eval().requires_grad_(False)
        if hasattr(model.visual, "trunk"):
            fold_batch_norms(model.visual.trunk)
        self.model.visual.to(dtype=self.dtype, memory_format=torch.channels_last)
        self._tokenizer = tokenizer
        self.size = image_size(model.visual)
        self._mean, self._std = pixel_scale(model.visual)

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        pretrained: str | None = None,
        layer: int = -1,
        fine_layers: int = 0,
        dtype: torch.dtype | None = None,
    ) -> Tower:
        """Load a tower.

        Args:
            name: an open_clip model name (`ViT-B-32`), `hf-hub:owner/repo`, or a folder that holds
                `open_clip_config.json` and its weights.
            pretrained: open_clip's tag for a model name (`laion2b_s34b_b79k`), or a weights file.
            layer: the block whose output is the grid, counted from the end.
            fine_layers: number of blocks before it whose finer grids are folded into its cells.
            dtype: to compute in; None for the fastest on this processor.

        Raises:
            TowerError: there is no such model or folder, or its download failed.
        """
        model, tokenizer = load_clip(name, pretrained)
        return cls(model, tokenizer, layer=layer, fine_layers=fine_layers, dtype=dtype)

    def to(self, device: torch.device) -> Tower:
        """Move the tower; on a GPU it computes in bfloat16."""
        self.device = device
        if device.type != "cpu":
            self.dtype = compute_dtype(device)
        self.model.to(device)
        self.model.visual.to(dtype=self.dtype, memory_format=torch.channels_last)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def preprocess(self, frames: Sequence[np.ndarray]) -> Tensor:
        """uint8 RGB frames `[H, W, 3]` of any sizes -> float32 `[frames, 3, size, size]`."""
        pixels = torch.from_numpy(square_pixels(frames, self.size)).permute(0, 3, 1, 2)
        return (pixels.to(self.device).float() - self._mean) / self._std

    def _batches(self, frames: Sequence[np.ndarray]) -> Iterator[Tensor]:
        if not len(frames):
            raise TowerError(NO_FRAMES)
        for start in range(0, len(frames), BATCH_FRAMES):
            pixels = self.preprocess(frames[start : start + BATCH_FRAMES])
            yield pixels.to(dtype=self.dtype, memory_format=torch.channels_last)

    @torch.inference_mode()
    def grid(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 RGB frames `[H, W, 3]` of any sizes -> features float32
        `[frames, cells, channels]`, cells row by row."""
        grids = [self._grid(pixels).cpu().numpy() for pixels in self._batches(frames)]
        return np.concatenate(grids)

    @torch.inference_mode()
    def cells(self, pixels: Tensor) -> Tensor:
        """As `grid`, from and to tensors on the tower's device: uint8 pixels
        `[frames, 3, size, size]`."""
        scaled = (pixels.float() - self._mean) / self._std
        return self._grid(scaled.to(dtype=self.dtype, memory_format=torch.channels_last))

    def _grid(self, pixels: Tensor) -> Tensor:
        return forward_grid(self.model.visual, pixels, self.layers).float()

    @torch.inference_mode()
    def embed_images(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """L2-normalized embeddings in the space shared with texts, float32 `[frames, dim]`."""
        rows = [self.model.encode_image(p, normalize=True).float() for p in self._batches(frames)]
        return torch.cat(rows).cpu().numpy()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """L2-normalized embeddings in the space shared with frames, float32 `[texts, dim]`."""
        if self._tokenizer is None:
            raise TowerError("this tower was loaded without its text encoder")
        tokens = self._tokenizer(list(texts)).to(self.device)
        return self.model.encode_text(tokens, normalize=True).float().cpu().numpy()
