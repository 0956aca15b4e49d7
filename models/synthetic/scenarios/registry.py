"""The registry of scenarios, and random clips from it.

A scenario makes a `SyntheticClip`: a scene, its caption, and questions by task. The same scenarios
train a bundle and, with pictures and seeds that training never uses, test it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from reellama.models.synthetic.assets.picture_pool import PicturePool
from reellama.models.synthetic.questions import random_classes
from reellama.models.synthetic.scenarios.camera_moves import camera
from reellama.models.synthetic.scenarios.count import count
from reellama.models.synthetic.scenarios.cut import cut
from reellama.models.synthetic.scenarios.motion import mover, one, place, race, shuffle, two
from reellama.models.synthetic.scenarios.order import aimless_motion, order
from reellama.models.synthetic.scenarios.unknown import unknown
from reellama.models.synthetic.synthetic_clip import SyntheticClip

# Every scenario, with its share of the training clips.
SCENARIOS: dict[str, tuple[Callable[[np.random.Generator, PicturePool], SyntheticClip], float]] = {
    "one": (one, 0.12),
    "place": (place, 0.04),
    "two": (two, 0.08),
    "order": (order, 0.13),
    "count": (count, 0.12),
    "mover": (mover, 0.06),
    "race": (race, 0.12),
    "shuffle": (shuffle, 0.18),
    "cut": (cut, 0.05),
    "camera": (camera, 0.06),
    "unknown": (unknown, 0.04),
    "about": (aimless_motion, 0.04),
}


def random_clip(
    rng: np.random.Generator,
    pool: PicturePool,
    name: str | None = None,
    sampling_weights: Mapping[str, float] = MappingProxyType({}),
) -> SyntheticClip:
    """A clip of the scenario `name`, or of a random one; `sampling_weights` multiply the shares."""
    if name is None:
        shares = {n: share * sampling_weights.get(n, 1.0) for n, (_, share) in SCENARIOS.items()}
        total = sum(shares.values())
        name = str(rng.choice(list(shares), p=[share / total for share in shares.values()]))
    if name == "unknown" and not pool.photos:
        name = "one"
    clip = SCENARIOS[name][0](rng, pool)
    # The classifier is wrong about drawings: with random classes the LLM learns to ignore it there.
    return clip if clip.imagenet_classes else replace(clip, imagenet_classes=random_classes(rng))
