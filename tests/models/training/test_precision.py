"""bfloat16 is asked for where the hardware multiplies it, and nowhere else."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reellama.models import precision
from reellama.models.precision import autocast, compute_dtype
from reellama.models.synthetic.dataset import SyntheticClips, SyntheticConfig
from reellama.models.synthetic.rendered_clips import RenderedConfig
from reellama.models.training.captions.train_captions import train_captions
from reellama.models.training.config import (
    CaptionConfig,
    ProjectorSettings,
    StageConfig,
    VisionTowerSettings,
)
from reellama.models.training.phases.contrastive import ContrastiveConfig
from reellama.models.training.phases.phase_config import (
    ClipPhaseConfig,
    LoraConfig,
    TextPhaseConfig,
)
from reellama.models.training.phases.tower import TowerPhase
from reellama.models.training.train_stage import train_stage
from reellama.models.training.trainer import TrainerConfig
from reellama.models.vision.encoder import Tower
from reellama.pipeline.cli.commands.train import read_video
from tests.helpers.small_tower import write_small_tower

pytestmark = pytest.mark.numeric

PACKAGES = Path(__file__).parents[3]
# The file that decides; all others ask it.
DECIDES = PACKAGES / "models" / "precision.py"
SHAPES: dict[str, Any] = {"styles": ("shapes",), "style_weights": (1.0,)}
LIMITS = (*precision.ONEDNN_LIMITS, "ATEN_CPU_CAPABILITY")
HALVES = (torch.bfloat16, torch.float16)


def processor(
    patch: pytest.MonkeyPatch,
    *,
    amx: bool = False,
    avx512_bf16: bool = False,
    kept_to: str = "AVX512",
    one_dnn: bool = True,
    limit: str | None = None,
) -> None:
    """Let torch say this of the processor that it runs on."""
    patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kept_to)
    patch.setattr(torch.backends.mkldnn, "is_available", lambda: one_dnn)
    for name in precision.ONEDNN_LIMITS:
        patch.delenv(name, raising=False)
    if limit:
        patch.setenv("ONEDNN_MAX_CPU_ISA", limit)


@pytest.mark.parametrize(
    ("has", "dtype"),
    [
        ({"amx": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True, "limit": "avx512_core_bf16"}, torch.bfloat16),
        ({"amx": True, "avx512_bf16": True, "limit": "ALL"}, torch.bfloat16),
        ({}, torch.float32),  # AVX512 alone, as on Skylake
        ({"kept_to": "AVX2"}, torch.float32),
        ({"kept_to": "NO AVX"}, torch.float32),
        ({"avx512_bf16": True, "kept_to": "AVX2"}, torch.float32),  # by ATEN_CPU_CAPABILITY
        ({"amx": True, "avx512_bf16": True, "limit": "AVX2"}, torch.float32),
        ({"avx512_bf16": True, "limit": "avx512_core"}, torch.float32),
        ({"avx512_bf16": True, "one_dnn": False}, torch.float32),
    ],
    ids=str,
)
def test_the_processor_is_asked(
    has: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, **has)
    assert compute_dtype() == dtype
    layer = torch.nn.Linear(2, 2)
    with autocast():
        assert layer(torch.ones(1, 2)).dtype == dtype


@pytest.mark.parametrize(
    "kept_to", [{}, {"ATEN_CPU_CAPABILITY": "avx2"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}], ids=str
)
def test_of_this_processor_it_says_what_linux_does(kept_to: dict[str, str]) -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    has = "avx512_bf16" in flags or "amx_bf16" in flags
    free = {name: value for name, value in os.environ.items() if name not in LIMITS}
    code = "from reellama.models.precision import compute_dtype; print(compute_dtype())"
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, env=free | kept_to, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == ("torch.bfloat16" if has and not kept_to else "torch.float32")


def test_a_gpu_computes_in_bfloat16_whatever_the_processor_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor(monkeypatch)
    assert compute_dtype(torch.device("cuda")) == torch.bfloat16
    assert compute_dtype(torch.device("cpu")) == torch.float32


def test_only_one_file_names_the_type_to_torch() -> None:
    """Others get it from there, with the processor's leave."""
    for package in ("models", "pipeline", "gguf_tools", "benchmarks"):
        for path in sorted((PACKAGES / package).rglob("*.py")):
            if path != DECIDES:
                assert not list(asks(path.read_text(encoding="utf-8"))), path


def asks(source: str) -> Iterator[str]:
    """Whatever asks torch for bfloat16 or autocast: `torch.bfloat16`, `.bfloat16()`, a name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ("bfloat16", "autocast"):
            yield node.attr
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            yield from (each.name for each in node.names if each.name in ("bfloat16", "autocast"))
        if isinstance(node, ast.Constant) and node.value in ("bfloat16", "torch.bfloat16"):
            yield node.value


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nwith torch.autocast('cpu', torch.float32): pass",
        "x.to(torch.bfloat16)",
        "x.bfloat16()",
        "from torch import bfloat16",
        "load(dtype='bfloat16')",
    ],
)
def test_whatever_asks_for_it_is_seen(source: str) -> None:
    assert list(asks(source))
    assert not list(
        asks("from reellama.models.precision import autocast\nwith autocast(device): pass")
    )


class Products(TorchDispatchMode):
    """Counts products of matrices and convolutions by the type of what they multiply.

    `forward` and `backward` alike: both come down to these operators.
    """

    NAMES = ("mm", "bmm", "addmm", "baddbmm", "linear", "convolution", "attention")

    def __init__(self) -> None:
        super().__init__()
        self.by_type: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if any(part in name for part in self.NAMES):
            tensors = [each for each in args if isinstance(each, torch.Tensor)]
            self.by_type.update({tensor.dtype for tensor in tensors})
        return func(*args, **(kwargs or {}))


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[torch.dtype]]:
    """What is multiplied in this test, on a processor without bfloat16."""
    processor(monkeypatch, kept_to="AVX2")
    with Products() as seen:
        yield seen.by_type


def in_float32(products: Counter[torch.dtype]) -> bool:
    return products[torch.float32] > 0 and not any(products[half] for half in HALVES)


def test_every_product_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, avx512_bf16=True)
    layer, convolution = torch.nn.Linear(4, 4), torch.nn.Conv2d(3, 4, 1)
    with Products() as seen, autocast():
        layer(torch.ones(2, 4)).sum().backward()
        assert seen.by_type[torch.bfloat16] == 2  # there, and back to the weights
        convolution(torch.ones(1, 3, 4, 4))
        assert seen.by_type[torch.bfloat16] == 3
        x = torch.ones(1, 1, 2, 4, dtype=torch.bfloat16)
        torch.nn.functional.scaled_dot_product_attention(x, x, x)
    assert seen.by_type[torch.bfloat16] > 3 and not in_float32(seen.by_type)


def test_a_tower_looks_in_float32(tmp_path: Path, products: Counter[torch.dtype]) -> None:
    tower = Tower.load(write_small_tower(tmp_path / "tower"))
    frames = [np.zeros((32, 32, 3), np.uint8)]
    tower.grid(frames)
    tower.embed_images(frames)
    tower.embed_texts(["a dog"])
    assert in_float32(products)


def test_training_on_clips_is_in_float32(
    tiny_llama: Path, tmp_path: Path, products: Counter[torch.dtype]
) -> None:
    stage = TrainerConfig(steps=1, batch=2, checkpoint_every=1)
    config = CaptionConfig(
        name="clips",
        llm=str(tiny_llama),
        frames=2,
        fewest_frames=2,
        stills=4,
        contrastive=ContrastiveConfig(
            image_size=64, embed_dim=16, text_width=32, text_layers=1, stills=4, batch=2, epochs=1
        ),
        rendered=RenderedConfig(**SHAPES, frames=2, clips=2, validation=2),
        projector=ProjectorSettings(tokens=4, words=32, width=8, layers=1, heads=2),
        align=stage,
        motion=stage,
        tail=3,
        answer=stage,
    )
    train_captions(
        config, tmp_path / "out", work=tmp_path / "work", read_video=read_video, report=nobody
    )
    assert (tmp_path / "work" / "tower").is_dir()  # a tower was trained as well
    assert in_float32(products)


def test_training_on_synthetic_clips_is_in_float32(
    tiny_llama: Path, tmp_path: Path, products: Counter[torch.dtype]
) -> None:
    """Its phases and the validations after them."""
    clips = ClipPhaseConfig(steps=1, batch=2, still_batch=2, checkpoint_every=1)
    config = StageConfig(
        name="synthetic",
        llm=str(tiny_llama),
        vision_tower=VisionTowerSettings(name=str(write_small_tower(tmp_path / "tower"))),
        projector=ProjectorSettings(tokens=60, words=64, width=16, layers=1, heads=2),
        synthetic=SyntheticConfig(**SHAPES, frames=3, fewest_frames=2),
        align=clips,
        text_only=TextPhaseConfig(steps=1, batch=2, checkpoint_every=1),
        joint=clips,
        lora=LoraConfig(rank=2, kl_texts=2, kl_tokens=64, kl_batch=1, validation_clips=4),
    )
    work = tmp_path / "work"
    train_stage(config, tmp_path / "out", work=work, assets=tmp_path, report=nobody)
    assert in_float32(products)


def test_a_tower_learns_in_float32(tmp_path: Path, products: Counter[torch.dtype]) -> None:
    stills, validation = (
        SyntheticClips(SyntheticConfig(**SHAPES), 64, Path(), split=split, stills=True)
        for split in ("train", "validation")
    )
    tower_phase = TowerPhase(
        stills,
        validation,
        ContrastiveConfig(image_size=64, embed_dim=16, text_width=32, text_layers=1),
        tmp_path / "work",
        layers=[-1],
        validated=4,
        device=torch.device("cpu"),
        report=nobody,
    )
    tower_phase.run(
        TrainerConfig(steps=1, batch=2, checkpoint_every=1, learning_rate=1e-4), tmp_path / "tower"
    )
    assert in_float32(products)


def nobody(line: str) -> None:
    """Report to nobody."""
