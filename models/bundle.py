"""A bundle: a folder with the tower, the projector and the settings that belong to one LLM.

bundle.json             names of tower and LLM, prompts, frames, and the stages that trained it
projector.safetensors   the temporal projector's weights, fp16
scores.json             what evaluations of it measured, if there were any
labels.safetensors      token ids of the ImageNet class names, if the bundle uses labels
concepts.safetensors    concepts of real footage and their soft tokens, fp16, if it knows any
concepts.json           the words of the concepts
tower/                  an open_clip folder, if the tower is the bundle's own
*.gguf                  LoRA adapters for the LLM, if bundle.json names them
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reellama.gguf_tools.atomic_write import stamp
from reellama.gguf_tools.format.reader import GGUFFile, token_embeddings
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.text.prompt_parts import Prompt
from reellama.models.bundle_config import BundleConfig, BundleError
from reellama.models.concepts import seen_concepts
from reellama.models.concepts.concept_readings import concept_readings
from reellama.models.concepts.seen_concepts import Concepts
from reellama.models.encoded_frames import EncodedFrames, frame_size
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
SCORES = "scores.json"


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
        """Soft tokens of a video at most, ImageNet labels included."""
        label_tokens = (
            imagenet_labels.N_TOKENS if (self.folder / "labels.safetensors").is_file() else 0
        )
        of_footage = self.config.concepts.tokens if self.config.concepts else 0
        return max(self.config.projector.tokens, of_footage) + label_tokens

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
    @torch.inference_mode(False)
    def concepts(self) -> Concepts | None:
        """What tells real footage, if the bundle knows any; else the projector tells everything."""
        if self.config.concepts is None:
            return None
        weights = _load_weights(self.folder / seen_concepts.WEIGHTS)
        return Concepts.load(self.folder, self.config.concepts, weights)

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
        grid, seconds, mask = self.batch(features, times)
        concepts = self.concepts
        is_footage = concepts is not None and concepts.is_footage(grid, mask)
        soft = (concepts.tokens if concepts and is_footage else self.projector)(grid, seconds, mask)
        rows = [soft[0].cpu().numpy(), *([self.labels.tokens(features)] if self.labels else [])]
        return np.ascontiguousarray(np.concatenate(rows))

    def interpret(self, features: np.ndarray, times: np.ndarray) -> list[SlotReading]:
        """Read the soft tokens of `features` at `times`: their words and their attention.

        Raises ReellamaError when the LLM that has the words is missing.
        """
        grid, seconds, mask = self.batch(features, times)
        top_classes = self.labels.top_classes(features) if self.labels else ()
        if self.concepts is not None and self.concepts.is_footage(grid, mask):
            return concept_readings(
                self.concepts, grid, seconds, mask, llm=self.llm_path(), top_classes=top_classes
            )
        return interpret(
            self.projector, grid, seconds, mask,
            word_ids=self.word_ids, llm=self.llm_path(), slotted=self.config.slots,
            top_classes=top_classes,
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

    def embed_images(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """Unit rows of frames to search by `embed_texts`, float32 `[frames, d]`."""
        if self.concepts is None:
            return self.tower.embed_images(frames)
        return self.concepts.embed_images(frames, self.features(frames), self.tower)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Rows of texts that `embed_images` is multiplied with, float32 `[texts, d]`."""
        if self.concepts is None:
            return self.tower.embed_texts(texts)
        return self.concepts.embed_texts(texts, self.tower)


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


def save_bundle(
    folder: Path, config: BundleConfig, projector: Projector, concepts: Concepts | None = None
) -> Bundle:
    """Write `bundle.json` and the weights (fp16) of projector and concepts into `folder`.

    Scores that stand there are of the weights before, and are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCORES).unlink(missing_ok=True)
    weights = {name: t.detach().half().contiguous() for name, t in projector.state_dict().items()}
    save_file(weights, folder / "projector.safetensors")
    if concepts is not None:
        concepts.save(folder)
    (folder / "bundle.json").write_text(config.to_json(), encoding="utf-8")
    return Bundle(folder, config)
