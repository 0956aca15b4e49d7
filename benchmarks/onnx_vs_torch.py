"""onnxruntime beside torch: `python -m benchmarks.onnx_vs_torch VIDEO...`.

The tower and what makes soft tokens are run in turns, both in float32 and with as many threads, and
their figures are medians. Then each video is described with the soft tokens of torch, of
onnxruntime, and of torch with the differences added in random order, five times: how many answers
the one changes, and how many the other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from reellama.gguf_tools.threads import default_threads
from reellama.models.bundle import Bundle
from reellama.models.torch_networks import soft_tokens
from reellama.models.vision.encoder import Tower
from reellama.pipeline.chat.conversation import Video
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.video.clip import Clip, read_frames

ROUNDS = 5
MAX_TOKENS = 40
DRAWS = 5  # random orders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path)
    videos = parser.parse_args().videos
    torch.set_num_threads(default_threads())
    bundle = Bundle.load()
    spec = bundle.config.tower
    tower = Tower.load(
        bundle.folder / spec.name,
        layer=spec.layer,
        fine_layers=spec.fine_layers,
        dtype=torch.float32,
    )
    clips = [read_frames(path, frames=bundle.frames, max_side=bundle.max_side) for path in videos]
    compare_speed(bundle, tower, clips[0])
    compare_answers(bundle, tower, clips)


def in_torch(bundle: Bundle, tower: Tower, clip: Clip) -> np.ndarray:
    """Soft tokens of a clip, all by torch in float32."""
    features = tower.grid(clip.frames)
    concepts = bundle.concepts if bundle.is_footage(features) else None
    soft = soft_tokens(concepts.tokens if concepts else bundle.projector, features, clip.times)
    return np.concatenate([soft, *([bundle.labels.tokens(features)] if bundle.labels else [])])


def compare_speed(bundle: Bundle, tower: Tower, clip: Clip) -> None:
    runs: dict[str, Callable[[], np.ndarray]] = {
        "torch": lambda: in_torch(bundle, tower, clip),
        "onnxruntime": lambda: bundle.project(bundle.features(clip.frames), clip.times),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS + 1):  # the first one loads
        for name, run in runs.items():
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    middle = {name: median(found[1:]) for name, found in seconds.items()}
    for name, found in middle.items():
        print(f"{name:12} {found:.3f} s of processor time for {len(clip.frames)} frames")
    print(f"ratio        {middle['onnxruntime'] / middle['torch']:.2f}")


def compare_answers(bundle: Bundle, tower: Tower, clips: list[Clip]) -> None:
    random = np.random.default_rng(0)
    largest, changed, by_chance = 0.0, 0, np.zeros(DRAWS, int)
    with VideoChat(cache=None) as video_chat:
        for clip in clips:
            wanted = in_torch(bundle, tower, clip)
            found = bundle.project(bundle.features(clip.frames), clip.times)
            difference = found - wanted
            largest = max(largest, float(np.abs(difference).max()))
            answer = describe(video_chat, clip, wanted)
            changed += describe(video_chat, clip, found) != answer
            for draw in range(DRAWS):
                noise = random.permutation(difference.ravel()).reshape(difference.shape)
                by_chance[draw] += describe(video_chat, clip, wanted + noise) != answer
    print(f"largest difference of soft tokens: {largest:.1e}")
    print(f"answers that onnxruntime changes: {changed} of {len(clips)}")
    print(f"answers that the same numbers change in random order: {sorted(by_chance.tolist())}")


def describe(video_chat: VideoChat, clip: Clip, soft: np.ndarray) -> str:
    """What the LLM says of a clip that these soft tokens stand for."""
    video_chat.conversation.clear()
    video_chat.conversation.videos = [Video(clip.path, [soft.astype(np.float32)], clip)]
    return video_chat.describe(max_tokens=MAX_TOKENS)


if __name__ == "__main__":
    main()
