"""A bundle: a folder with the tower, the projector and the settings that belong to one LLM.

bundle.json             names of tower and LLM, prompts, number of frames, training stages
projector.safetensors   the temporal projector's weights, fp16

A bundle may also have:

scores.json             results of its evaluations
labels.safetensors      token ids of the ImageNet class names
concepts.safetensors    weights of the concept model for real footage, fp16
concepts.json           vocabulary of the concept model
tower/                  the visual tower, an open_clip folder
graphs/                 ONNX graphs of its networks, without weights
*.gguf                  LoRA adapters for the LLM, named in bundle.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reellama.gguf_tools import heap
from reellama.gguf_tools.format.reader import GGUFFile, token_embeddings
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.text.prompt_parts import Prompt
from reellama.models.bundle_config import SCORES, BundleConfig, BundleError, find_bundle, version_of
from reellama.models.concepts.concept_config import CLASSIFIER, TOKENS, VOCABULARY, WEIGHTS
from reellama.models.concepts.vocabulary import ConceptVocabulary
from reellama.models.encoded_frames import EncodedFrames, EncodesAllFrames, frame_size
from reellama.models.networks.bundle_networks import BundleNetworks
from reellama.models.networks.frame_search import ClipSearch, ConceptSearch
from reellama.models.networks.network_sources import ClipPart, FeatureSource
from reellama.models.networks.numpy_footage_classifier import NumpyFootageClassifier
from reellama.models.networks.onnx_tower import FrameEncoder, OnnxTower
from reellama.models.networks.weights_file import read_weights, weight_shapes
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions
from reellama.models.vision import imagenet_labels
from reellama.models.vision.imagenet_labels import ImageNetClassifier

if TYPE_CHECKING:  # torch is imported late: answers do not need it
    from torch import Tensor

    from reellama.models.concepts.concept_model import ConceptModel
    from reellama.models.concepts.concept_tokens import ConceptTokens
    from reellama.models.projector.interpretation import SlotReading
    from reellama.models.projector.temporal_projector import Projector
    from reellama.models.vision.encoder import Tower

# Pixels on the longest side of a decoded frame. Larger than the input of any tower here, and small
# enough that 64 frames of a 4K video fit into memory.
MAX_SIDE = 768
PROJECTOR, LABELS = "projector.safetensors", "labels.safetensors"


class Bundle(EncodesAllFrames):
    """A bundle in a folder; the tower and the projector are loaded when they are first needed.

    Attributes:
        version: `version_of` the folder before any file in it was read. Caches of soft tokens use
            it as a key, and store nothing once the bundle has `changed`.
    """

    def __init__(self, folder: Path, config: BundleConfig, version: str | None = None) -> None:
        self.folder = folder
        self.config = config
        self.version = version or version_of(folder)
        self.networks = BundleNetworks(self.network_sources())

    @classmethod
    def load(cls, name_or_path: str | Path = "mini") -> Bundle:
        """Open a bundle by the name of one that comes with reellama, or by its folder.

        Raises:
            BundleError: there is no such bundle, or its `bundle.json` is broken.
        """
        folder = find_bundle(name_or_path)
        version = version_of(folder)
        return cls(folder, BundleConfig.read(folder / "bundle.json"), version)

    @property
    def changed(self) -> bool:
        """Whether its files were written since it was opened. Its weights may then be a mix of
        both versions."""
        return version_of(self.folder) != self.version

    @property
    def n_embd(self) -> int:
        """Width of the soft tokens, which is the width of the LLM's embeddings."""
        return self.config.projector.n_embd

    @property
    def tokens(self) -> int:
        """Largest number of soft tokens of a video, ImageNet labels included."""
        label_tokens = imagenet_labels.N_TOKENS if (self.folder / LABELS).is_file() else 0
        concept_tokens = self.config.concepts.tokens if self.config.concepts else 0
        return max(self.config.projector.tokens, concept_tokens) + label_tokens

    @property
    def frames(self) -> int:
        """How many frames of a video are sampled by default."""
        return self.config.frames

    joins_pictures = True  # several pictures in one message are frames of a clip, as in training
    max_frames = property(lambda self: self.config.frames)  # no more than in training
    max_side = still_side = MAX_SIDE
    languages = property(lambda self: self.config.known_languages)
    reads_text = False  # training prompts had no text beside the video

    @property
    def warning(self) -> str:
        """Which graphs could not be used, and why; "" for none."""
        return self.networks.warning

    @property
    def system(self) -> str:
        """The system prompt that the bundle was trained with."""
        return self.config.system

    @property
    def scores(self) -> dict[str, Any]:
        """Results of evaluations, by the name of each evaluation."""
        path = self.folder / SCORES
        try:
            scores = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            scores = {}
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: not the scores of a bundle: {error}") from error
        return {**self.config.scores, **scores}

    @property
    def describe(self) -> str:
        """The prompt that asks for a description."""
        return self.config.describe

    unloaded_bytes = 0  # the networks are small beside an LLM

    def unload(self) -> None:
        """Do nothing: the networks are small beside an LLM."""

    @property
    def describe_briefly(self) -> str:
        """The same prompt: descriptions are as long as those that it was trained on."""
        return self.describe

    def footage_caveat(self, features: np.ndarray) -> str:
        """A caveat for users about answers on real footage; "" for other videos.

        features: of the video, `[T, cells, channels]`.
        """
        can_classify = self.config.concepts is not None and self._footage_classifier.has_weights
        return self.config.footage_caveat if can_classify and self.is_footage(features) else ""

    @property
    def lora(self) -> list[tuple[Path, float]]:
        """GGUF LoRA adapters of the LLM and their scales."""
        return [(self.folder / name, scale) for name, scale in self.config.lora]

    def llm_path(self) -> Path:
        """The GGUF that the bundle was made for."""
        return find.resolve(self.config.llm)

    @property
    def name(self) -> str:
        """The bundle's name, for people."""
        return self.config.name

    def check_llm(self, file: GGUFFile) -> None:
        """Raise BundleError unless the soft tokens are as wide as the embeddings of an LLM."""
        if file.n_embd != self.n_embd:
            raise BundleError(
                f"{file.path}: its embeddings have {file.n_embd} numbers, the bundle "
                f"{self.config.name} makes soft tokens of {self.n_embd}; it was made for "
                f"{self.config.llm}"
            )

    @cached_property
    def tower(self) -> Tower:
        """The visual tower in torch."""
        from reellama.models.vision.encoder import Tower

        spec = self.config.tower
        inside = self.folder / spec.name
        name = inside if inside.is_dir() else spec.name
        return Tower.load(
            name, pretrained=spec.pretrained, layer=spec.layer, fine_layers=spec.fine_layers
        )

    @cached_property
    def projector(self) -> Projector:
        """The temporal projector in torch, in float32."""
        from reellama.models.torch_networks import load_projector

        return load_projector(self.folder / PROJECTOR, self.config.projector)

    @cached_property
    def concepts(self) -> ConceptModel | None:
        """The concept model in torch, which makes the soft tokens of real footage; None in a bundle
        without one."""
        from reellama.models.torch_networks import load_concepts

        config = self.config.concepts
        return load_concepts(self.folder, config) if config is not None else None

    @cached_property
    def vocabulary(self) -> ConceptVocabulary:
        """The words of the concepts, in a bundle with a concept model."""
        return ConceptVocabulary.load(self.folder / VOCABULARY)

    @cached_property
    def labels(self) -> ImageNetClassifier | None:
        """The ImageNet classifier of the tower, if the bundle uses labels."""
        path = self.folder / LABELS
        return ImageNetClassifier.load(path, self.llm_path()) if path.is_file() else None

    @cached_property
    def word_ids(self) -> list[int]:
        """The LLM's token id of each row of the word mixture.

        Older bundles do not store the ids. There, the id of a row is that of the nearest token
        embedding by cosine, since training moves the rows only a little.
        """
        if self.config.word_ids is not None:
            return list(self.config.word_ids)
        from reellama.models.projector.interpretation import nearest_rows

        path = self.folder / PROJECTOR
        (name,) = (name for name in weight_shapes(path) if name.endswith(".embeddings"))
        rows = read_weights(path, [name])[name]
        return nearest_rows(rows, token_embeddings(self.llm_path()))

    def network_sources(self) -> dict[str, ClipPart | FeatureSource]:
        """The networks that can run in onnxruntime, by name. `open_network` picks the runtime."""
        config = self.config
        sizes = config.projector.to_json()
        sources: list[ClipPart | FeatureSource] = [
            *(ClipPart(name, self.folder, config.tower) for name in ("tower", "images", "texts")),
            *(
                FeatureSource(name, self.folder, PROJECTOR, sizes, lambda: self.projector)
                for name in ("projector", "projector_reading")
            ),
        ]
        if config.concepts is not None:
            sizes, prefix = asdict(config.concepts), f"{TOKENS}."
            sources += (
                FeatureSource(name, self.folder, WEIGHTS, sizes, self._concept_tokens, prefix)
                for name in ("concepts", "concept_reading", "frame_concepts")
            )
        return {source.name: source for source in sources}

    def _concept_tokens(self) -> ConceptTokens:
        assert self.concepts is not None
        return self.concepts.tokens

    def prepare(self) -> None:
        """Load the network of `features`. For a thread that runs while frames are decoded."""
        self.networks.session("tower")

    def prepare_projection(self, frames: Sequence[np.ndarray]) -> None:
        """Load the network that `project` will most likely need, judged by the first frames of a
        video. For a thread that runs while the other frames are decoded and encoded."""
        self.networks.session(self._projection(self.features(frames)))

    @property
    def encoder(self) -> FrameEncoder:
        """The visual tower, in onnxruntime where its graph can be used, else in torch."""
        session = self.networks.session("tower")
        return OnnxTower(session) if session else self.tower

    def features(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 RGB frames `[H, W, 3]` -> float32 `[frames, cells, channels]`."""
        return self.encoder.grid(frames)

    @staticmethod
    def batch(features: np.ndarray, times: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """See `torch_networks.video_batch`."""
        from reellama.models.torch_networks import video_batch

        return video_batch(features, times)

    @cached_property
    def _footage_classifier(self) -> NumpyFootageClassifier:
        return NumpyFootageClassifier(self.folder / WEIGHTS, CLASSIFIER)

    def is_footage(self, features: np.ndarray) -> bool:
        """Whether features `[T, cells, channels]` are of real footage or of a drawn clip.

        The concept model makes the soft tokens of footage, the projector those of drawn clips.
        """
        return self.config.concepts is not None and self._footage_classifier(features)

    def _projection(self, features: np.ndarray) -> str:
        """Name of the network that makes the soft tokens of features `[T, cells, channels]`."""
        return "concepts" if self.is_footage(features) else "projector"

    def project(self, features: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Features `[T, cells, channels]` at `times [T]` seconds -> `[tokens, n_embd]`."""
        # Labels come first because another thread may still be loading the network.
        labels = [self.labels.tokens(features)] if self.labels else []
        rows = [*self.networks.run(self._projection(features), features, times), *labels]
        return np.ascontiguousarray(np.concatenate(rows))

    def interpret(self, features: np.ndarray, times: np.ndarray) -> list[SlotReading]:
        """The words and the attention of the soft tokens of a video.

        features `[T, cells, channels]`, at times `[T]` in seconds. Raises ReellamaError when the
        LLM, whose tokenizer has the words, is missing.
        """
        from reellama.models.concepts.concept_readings import concept_readings, seen_concepts
        from reellama.models.projector.interpretation import interpret
        from reellama.models.synthetic.slot_choices import slot_choices

        labels = self.labels.top_classes(features) if self.labels else ()
        if self.config.concepts is not None and self.is_footage(features):
            likely, cells, *free = self.networks.run("concept_reading", features, times)
            concepts = seen_concepts(self.vocabulary, likely, cells, self.config.concepts.named)
            return concept_readings(
                concepts, self.vocabulary, *free, llm=self.llm_path(), top_classes=labels
            )
        return interpret(
            *self.networks.run("projector_reading", features, times),
            word_ids=self.word_ids, llm=self.llm_path(),
            slot_texts=slot_choices() if self.config.slots else None, top_classes=labels,
        )  # fmt: skip

    def encode(
        self,
        frames: Sequence[np.ndarray],
        times: np.ndarray,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> EncodedFrames:
        """uint8 RGB frames `[H, W, 3]` at `times [T]` seconds -> soft tokens, float32
        `[tokens, n_embd]`."""
        soft = self.project(self.features(frames), times)
        heap.trim_heap()
        return EncodedFrames(soft, times, frame_size(frames))

    def check_pooling(self, options: PoolingOptions) -> None:
        """Raise BundleError unless the options are the default: the projector was trained for one
        number of tokens."""
        if options != DEFAULT_POOLING:
            raise BundleError(
                f"the bundle {self.name} always makes {self.tokens} soft tokens of a video: leave "
                "out the number of tokens and the pooling"
            )

    def n_tokens(self, options: PoolingOptions = DEFAULT_POOLING) -> int:
        """Largest number of soft tokens of a video."""
        return self.tokens

    def prompt_parts(
        self,
        video: EncodedFrames,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> Prompt:
        """The prompt parts of a video: its soft tokens. Raises as `check_pooling`."""
        self.check_pooling(options)
        return [video.array]

    def pooling_summary(
        self,
        video: EncodedFrames,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> tuple[str, ...]:
        """How many tokens were pooled: an empty line, since this bundle has a fixed number."""
        return ("",)

    def embed_images(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """L2-normalized embeddings of frames for search: float32 `[frames, d]`."""
        if self._concept_search is None:
            return self._clip_search.images(frames)
        return self._concept_search.images(frames, self.features(frames))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of texts `[texts, d]`; their dot product with `embed_images` ranks frames."""
        return (self._concept_search or self._clip_search).texts(texts)

    @cached_property
    def _clip_search(self) -> ClipSearch:
        return ClipSearch(self.networks, lambda: self.tower)

    @cached_property
    def _concept_search(self) -> ConceptSearch | None:
        if self.config.concepts is None:
            return None
        return ConceptSearch(
            self._clip_search, self.networks, self.vocabulary, self._footage_classifier, self.folder
        )
