"""A bundle: a folder with the tower, the projector and the settings that belong to one LLM.

bundle.json             names of tower and LLM, prompts, frames, and the stages that trained it
projector.safetensors   the temporal projector's weights, fp16
scores.json             what evaluations of it measured, if there were any
labels.safetensors      token ids of the ImageNet class names, if the bundle uses labels
tower/                  an open_clip folder, if the tower is the bundle's own
*.gguf                  LoRA adapters for the LLM, if bundle.json names them
"""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reellama.gguf_tools.atomic_write import stamp
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import GGUFFile, token_embeddings
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.text.prompt_parts import Prompt
from reellama.models.encoded_frames import EncodedFrames, frame_size
from reellama.models.older_bundles import updated_keys
from reellama.models.projector.config import ProjectorConfig
from reellama.models.projector.interpretation import SlotReading, interpret
from reellama.models.projector.temporal_projector import Projector, build_projector
from reellama.models.projector.word_mixture import nearest_rows
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions
from reellama.models.vision import imagenet_labels
from reellama.models.vision.encoder import Tower
from reellama.models.vision.imagenet_labels import ImageNetClassifier

# Pixels on the longest side of a frame: more than any tower here takes, and 64 frames of 4K fit
# into memory.
MAX_SIDE = 768
BUNDLES = Path(__file__).parent / "bundles"
FORMAT = 1
SCORES = "scores.json"


class BundleError(ReellamaError):
    """A bundle that is missing, broken, or made for another LLM."""


@dataclass(frozen=True)
class TowerSpec:
    """Arguments of `Tower.load`; a relative folder is one inside the bundle."""

    name: str = "tower"
    pretrained: str | None = None
    layer: int = -1
    finer: int = 0


@dataclass(frozen=True)
class BundleConfig:
    """The contents of `bundle.json`.

    Attributes:
        llm: a name that `reellama.gguf_tools.locate.find.resolve` knows, or a path.
        frames: how many frames of a video are sampled by default.
        lora: GGUF adapters inside the bundle, with their scales.
        slots: whether the soft tokens were trained to fill the slots of
            `reellama.models.projector.slots`.
        inverse_temperature: what the logits of the words were multiplied by after training; the
            weights contain it.
        word_ids: the LLM's tokens that the rows of the word mixture began as, one for each; None
            in older bundles.
        stages: what made it, one stage after the other: each with its `config` and `seconds`.
        scores: of older bundles, what evaluations measured; others have it in `scores.json`.
    """

    name: str
    llm: str
    projector: ProjectorConfig
    tower: TowerSpec = TowerSpec()
    frames: int = 8
    system: str = ""
    describe: str = "Describe the video."
    lora: tuple[tuple[str, float], ...] = ()
    slots: bool = False
    inverse_temperature: float = 1.0
    word_ids: tuple[int, ...] | None = None
    stages: tuple[Mapping[str, Any], ...] = ()
    scores: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.word_ids is not None and len(self.word_ids) != self.projector.words:
            raise BundleError(
                f"{len(self.word_ids)} word_ids for {self.projector.words} rows of the projector"
            )

    @classmethod
    def read(cls, path: Path) -> BundleConfig:
        """Read and check a `bundle.json`."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("format") != FORMAT:
                raise BundleError(f"{path}: a bundle of another format; update reellama")
            data = updated_keys(data)
            data["projector"] = ProjectorConfig(**data["projector"])
            data["tower"] = TowerSpec(**data["tower"])
            data["lora"] = tuple((str(name), float(scale)) for name, scale in data["lora"])
            data["stages"] = tuple(data.get("stages", ()))
            if "word_ids" in data:
                data["word_ids"] = tuple(int(token) for token in data["word_ids"])
            return cls(**data)
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BundleError(f"{path}: not a bundle's description: {error}") from error

    def to_json(self) -> str:
        """The text of `bundle.json`."""
        data: dict[str, Any] = {"format": FORMAT}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is None or (entry.name == "scores" and not value):
                continue
            data[entry.name] = vars(value) if hasattr(value, "__dataclass_fields__") else value
        text = json.dumps(data, indent=2)
        return re.sub(r"\[\n(?:\s+[-\d]\S*\n)+\s*\]", _fill_lines, text) + "\n"


class Bundle:
    """A bundle in a folder; the tower and the projector are loaded when they are first needed.

    Attributes:
        version: `version_of` the folder before anything in it was read. Caches of soft tokens use
            it as a key, and store nothing once the bundle has `changed`.
    """

    def __init__(self, folder: Path, config: BundleConfig, version: str | None = None) -> None:
        self.folder = folder
        self.config = config
        self.version = version or version_of(folder)

    @classmethod
    def load(cls, name_or_path: str | Path = "mini") -> Bundle:
        """Open a bundle by the name of one that comes with reellama, or by its folder.

        Raises:
            BundleError: there is none, or it is broken.
        """
        folder = find_bundle(name_or_path)
        version = version_of(folder)
        return cls(folder, BundleConfig.read(folder / "bundle.json"), version)

    @property
    def changed(self) -> bool:
        """Whether files were written since it was opened: its weights may be of both versions."""
        return version_of(self.folder) != self.version

    @property
    def n_embd(self) -> int:
        """Width of the soft tokens, which is the width of the LLM's embeddings."""
        return self.config.projector.n_embd

    @property
    def tokens(self) -> int:
        """Soft tokens of a video, ImageNet labels included."""
        label_tokens = (
            imagenet_labels.N_TOKENS if (self.folder / "labels.safetensors").is_file() else 0
        )
        return self.config.projector.tokens + label_tokens

    @property
    def frames(self) -> int:
        """How many frames of a video are sampled by default."""
        return self.config.frames

    max_side = MAX_SIDE
    remark = ""

    @property
    def system(self) -> str:
        """The system prompt that the bundle was trained with."""
        return self.config.system

    @property
    def scores(self) -> dict[str, Any]:
        """What evaluations measured, by the name that each was recorded under."""
        path = self.folder / SCORES
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            kept = {}
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: not the scores of a bundle: {error}") from error
        return {**self.config.scores, **kept}

    @property
    def describe(self) -> str:
        """The prompt that asks for a description."""
        return self.config.describe

    @property
    def lora(self) -> list[tuple[Path, float]]:
        """GGUF LoRA adapters of the LLM and their scales."""
        return [(self.folder / name, scale) for name, scale in self.config.lora]

    def llm_path(self) -> Path:
        """The GGUF that the bundle was made for."""
        return find.resolve(self.config.llm)

    @property
    def name(self) -> str:
        """Its name for people."""
        return self.config.name

    def check_llm(self, file: GGUFFile) -> None:
        """Raise BundleError when the soft tokens do not fit the embeddings of an LLM."""
        if file.n_embd != self.n_embd:
            raise BundleError(
                f"{file.path}: its embeddings have {file.n_embd} numbers, the bundle "
                f"{self.config.name} makes soft tokens of {self.n_embd}; it was made for "
                f"{self.config.llm}"
            )

    @cached_property
    def tower(self) -> Tower:
        """The visual tower."""
        spec = self.config.tower
        inside = self.folder / spec.name
        name = inside if inside.is_dir() else spec.name
        return Tower.load(name, pretrained=spec.pretrained, layer=spec.layer, finer=spec.finer)

    @cached_property
    @torch.inference_mode(False)  # else weights that `project` loads could not be trained
    def projector(self) -> Projector:
        """The temporal projector, in float32."""
        path = self.folder / "projector.safetensors"
        weights = _load_weights(path)
        projector = build_projector(self.config.projector)
        try:
            projector.load_state_dict(weights)
        except RuntimeError as error:
            raise BundleError(
                f"{path}: its weights are not those that bundle.json describes"
            ) from error
        return projector.eval().requires_grad_(False)

    @cached_property
    def labels(self) -> ImageNetClassifier | None:
        """The ImageNet classifier of the tower, if the bundle uses labels."""
        path = self.folder / "labels.safetensors"
        return ImageNetClassifier.load(path, self.llm_path()) if path.is_file() else None

    @cached_property
    def word_ids(self) -> list[int]:
        """The LLM's token of each row of the word mixture.

        Older bundles do not store them: there, the nearest by cosine, for training moves the rows
        only a little.
        """
        if self.config.word_ids is not None:
            return list(self.config.word_ids)
        vocabulary = torch.from_numpy(token_embeddings(self.llm_path()))
        return nearest_rows(self.projector.word_mixture.embeddings, vocabulary)

    def features(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 RGB frames `[H, W, 3]` -> float32 `[frames, cells, channels]`."""
        return self.tower.grid(frames)

    @staticmethod
    def batch(features: np.ndarray, times: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """The inputs of the projector for one video: features, times and mask, as a batch of 1."""
        grid = torch.from_numpy(np.ascontiguousarray(features, np.float32))[None]
        seconds = torch.from_numpy(np.ascontiguousarray(times, np.float32))[None]
        return grid, seconds, torch.ones(1, len(times), dtype=torch.bool)

    @torch.inference_mode()
    def project(self, features: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Features `[T, cells, channels]` at `times [T]` seconds -> `[tokens, n_embd]`."""
        soft = self.projector(*self.batch(features, times))
        rows = [soft[0].cpu().numpy(), *([self.labels.tokens(features)] if self.labels else [])]
        return np.ascontiguousarray(np.concatenate(rows))

    def interpret(self, features: np.ndarray, times: np.ndarray) -> list[SlotReading]:
        """Read the soft tokens of `features` at `times`: their words and their attention.

        Raises ReellamaError when the LLM that has the words is missing.
        """
        return interpret(
            self.projector, *self.batch(features, times),
            word_ids=self.word_ids, llm=self.llm_path(), slotted=self.config.slots,
            top_classes=self.labels.top_classes(features) if self.labels else (),
        )  # fmt: skip

    def encode(self, frames: Sequence[np.ndarray], times: np.ndarray) -> EncodedFrames:
        """Frames at `times` seconds -> soft tokens, float32 `[tokens, n_embd]`."""
        return EncodedFrames(self.project(self.features(frames), times), times, frame_size(frames))

    def prompt_parts(
        self, video: EncodedFrames, options: PoolingOptions = DEFAULT_POOLING
    ) -> Prompt:
        """What stands for a video in a prompt: its soft tokens.

        Raises BundleError where another number of them is asked for: it was trained with one.
        """
        if options != DEFAULT_POOLING:
            raise BundleError(
                f"the bundle {self.name} always makes {self.tokens} soft tokens of a video: leave "
                "out the number of tokens and the pooling"
            )
        return [video.array]

    def pooling_summary(
        self, video: EncodedFrames, options: PoolingOptions = DEFAULT_POOLING
    ) -> str:
        """Nothing: its projector pools as it was trained to."""
        return ""


def find_bundle(name_or_path: str | Path) -> Path:
    """The folder of a bundle, by a shipped bundle's name or a path; raises BundleError."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = BUNDLES / str(name_or_path)
    if not (folder / "bundle.json").is_file():
        shipped = sorted(path.parent.name for path in BUNDLES.glob("*/bundle.json"))
        raise BundleError(
            f"{name_or_path}: no bundle.json there; name a bundle's folder"
            + (f", or one of {', '.join(shipped)}" if shipped else "")
        )
    return folder


def version_of(folder: Path) -> str:
    """SHA-256, in hexadecimal, of the names, sizes and dates of a bundle's files but its scores."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SCORES)
    entries = [[path.relative_to(folder).as_posix(), *stamp(path)] for path in files]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _fill_lines(array: re.Match[str]) -> str:
    """An array of numbers, of which each has a line, in as few lines as there can be."""
    numbers = " ".join(array[0].split()).replace("[ ", "[").replace(" ]", "]")
    return textwrap.fill(numbers, 100, subsequent_indent=" " * 4)


def _load_weights(path: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(path)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: missing; copy the whole bundle, or train it again") from error
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: not a safetensors file: {error}") from error
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise BundleError(
                f"{path}: {name} holds NaN or infinite numbers; the training diverged or the "
                "file is damaged"
            )
    return weights


def save_bundle(folder: Path, config: BundleConfig, projector: Projector) -> Bundle:
    """Write `bundle.json` and the projector's weights (fp16) into `folder`.

    Scores that stand there are of the weights before, and are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCORES).unlink(missing_ok=True)
    weights = {name: t.detach().half().contiguous() for name, t in projector.state_dict().items()}
    save_file(weights, folder / "projector.safetensors")
    (folder / "bundle.json").write_text(config.to_json(), encoding="utf-8")
    return Bundle(folder, config)
