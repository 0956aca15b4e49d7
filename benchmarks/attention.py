"""The attention of soft tokens, compared with attention rollout and gradients.

python -m benchmarks.attention [--clips 24] [--bundle mini]

Clips of two shapes are drawn, so the cells of each are known. For the first soft token of an
object's name, three maps over all cells of all frames are compared:

attention    of the token's query, mean over heads and blocks: what `reellama inspect` shows
rolled out   the same, carried through the encoder's attention, half of each cell kept (Abnar and
             Zuidema, 2020)
gradient     norm of the gradient of its likeliest word's log-probability, cell by cell (Simonyan et
             al., 2014)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from reellama.models.bundle import Bundle
from reellama.models.projector import slots
from reellama.models.projector.resampler import Resampler
from reellama.models.projector.temporal_projector import Projector
from reellama.models.synthetic.assets.downloads import ASSETS
from reellama.models.synthetic.dataset import load_picture_pools
from reellama.models.synthetic.questions import description_order
from reellama.models.synthetic.render import frame_times, render
from reellama.models.synthetic.scenarios.motion import two
from reellama.models.synthetic.scene import Drawable, Scene


def clips(count: int, seed: int = 0) -> Iterator[Scene]:
    """Scenes of two shapes with a motion each, and no camera move."""
    (pool,) = load_picture_pools(("shapes",), ASSETS, "known", training=False)
    rng = np.random.default_rng(seed)
    while count:
        scene = two(rng, pool).scene
        if len(scene.actors) == 2 and scene.camera is None:
            count -= 1
            yield scene


def coverage(actor: Drawable, u: float, size: tuple[int, int], side: int) -> np.ndarray:
    """The share of each cell that an actor's square covers at time u: float64 [side * side]."""
    pose, cells = actor.pose(u), np.arange(side)
    shares = []
    for centre, length in zip((pose.x, pose.y), size, strict=True):
        reach = pose.size * min(size) / length / 2
        first, last = side * (centre - reach), side * (centre + reach)
        shares.append((np.minimum(last, cells + 1) - np.maximum(first, cells)).clip(0, 1))
    across, down = shares
    return (down[:, None] * across[None]).ravel() * pose.visible


def rolled_out(projector: Projector, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Attention rollout: each token's attention, through that of the encoder: [tokens, cells]."""
    body = projector.pooler
    assert isinstance(body, Resampler)
    steps: list[Tensor] = []

    def note(
        attention: torch.nn.Module, arguments: tuple[Tensor, Tensor, Tensor], _: Tensor
    ) -> None:
        steps.append(attention.weights(*arguments)[0])

    hooks = [layer.self_attention.register_forward_hook(note) for layer in body.encoder]
    rollout = projector.attention(*inputs)[0].flatten(1)
    for hook in hooks:
        hook.remove()
    for step in reversed(steps):
        rollout = (rollout + rollout @ step) / 2
    return rollout


def gradient(projector: Projector, inputs: tuple[Tensor, Tensor, Tensor], token: int) -> Tensor:
    """The gradient of the log-probability of a token's most likely word by cell: [cells], sum 1."""
    features = inputs[0].clone().requires_grad_()
    shares = projector.word_probabilities(features, *inputs[1:])[0, token]
    (slope,) = torch.autograd.grad(shares.max().log(), features)
    norms = slope[0].norm(dim=-1).flatten()
    return norms / norms.sum()


def maps(bundle: Bundle, scene: Scene, tokens: list[int]) -> list[dict[str, np.ndarray]]:
    """For each of `tokens`, its maps by method, float32 [T, cells]."""
    times = frame_times(scene.duration, bundle.frames)
    inputs = bundle.batch(bundle.features(list(render(scene, times))), times)
    projector = bundle.projector
    plain, rolled = projector.attention(*inputs)[0], rolled_out(projector, inputs)
    shape = plain.shape[1:]
    return [
        {
            "attention": plain[token].cpu().numpy(),
            "rolled out": rolled[token].view(shape).cpu().numpy(),
            "gradient": gradient(projector, inputs, token).view(shape).cpu().numpy(),
        }
        for token in tokens
    ]


def measure(bundle: Bundle, count: int) -> dict[str, np.ndarray]:
    """By method, a row per object: the shares of its map on it and on the other, and its area."""
    spans = dict(zip(slots.slot_names(), slots.slot_spans(), strict=True))
    names = [spans[f"thing {number}: name"][0] for number in (1, 2)]
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for scene in clips(count):
        things = description_order(scene.actors)
        when = frame_times(scene.duration, bundle.frames) / scene.duration
        for thing, found in enumerate(maps(bundle, scene, names)):
            for method, shares in found.items():
                side = round(shares.shape[1] ** 0.5)
                own, other = (
                    np.stack([coverage(actor, u, scene.size, side) for u in when])
                    for actor in (things[thing], things[1 - thing])
                )
                row = float((shares * own).sum()), float((shares * other).sum()), own.mean()
                rows.setdefault(method, []).append(row)
    return {method: np.array(row) for method, row in rows.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--bundle", default="mini")
    options = parser.parse_args()
    table = Table("method", "on its thing", "on the other", "area", "more on its own", box=None)
    for method, rows in measure(Bundle.load(options.bundle), options.clips).items():
        own, other, area = rows.T
        means = [f"{100 * share.mean():.0f}%" for share in (own, other, area)]
        table.add_row(method, *means, f"{100 * (own > other).mean():.0f}% of {len(rows)}")
    Console().print(table)


if __name__ == "__main__":
    main()
