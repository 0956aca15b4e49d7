"""A visual tower that is real open_clip, random and small: 32 pixels, 2 layers, 4 cells of 32."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from reellama.models.vision.torchvision_compat import ensure_torchvision

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


def write_small_tower(folder: Path) -> Path:
    """Write the tower as the folder that `Tower.load` takes."""
    ensure_torchvision()
    import open_clip

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    weights = open_clip.CLIP(**CONFIG).state_dict()
    weights = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    preprocess = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    description = {"model_cfg": CONFIG, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    return folder
