"""Open a bundle by name: a trained bundle, or a vision GGUF with its `mmproj`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.reader import GGUFFile
from reellama.gguf_tools.locate.naming import HUB_PREFIX, OLLAMA_PREFIX
from reellama.gguf_tools.text.prompt_parts import Prompt
from reellama.models.array_cache import ArrayCache
from reellama.models.bundle import Bundle
from reellama.models.bundle_config import BUNDLES, BundleError
from reellama.models.encoded_frames import ChosenFrames, EncodedFrames
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions


class VideoBundle(Protocol):
    """The interface that `Bundle` and `VisionBundle` share: frames in, parts of a prompt out.

    Attributes:
        name: for people.
        version: changes with the bundle's files.
        changed: whether the files were written since the bundle was opened.
        frames: how many frames of a video are sampled by default.
        max_frames: how many at most where a user asks for a rate and not for a number.
        max_side: pixels on the longest side of a decoded frame.
        still_side: the same of a still, or of the only frame that is taken.
        system, describe: the system prompt, and the prompt that asks for a description.
        describe_briefly: the prompt that asks for a description of one sentence.
        lora: GGUF LoRA adapters of the LLM and their scales.
        n_embd: width of the LLM's token embeddings.
        warning: for users, "" for none.
        languages: ISO 639-1 codes of the languages of its questions, () where they are unknown.
        joins_pictures: whether several pictures in one message are the frames of one clip.
        unloaded_bytes: what its weights, beside the LLM's, will take in memory and do not take yet,
            as far as that is much. `unload` frees them until they are needed again.
        reads_text: whether a prompt may have text beside a video, such as its subtitles.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def changed(self) -> bool: ...
    @property
    def frames(self) -> int: ...
    @property
    def max_frames(self) -> int: ...
    @property
    def max_side(self) -> int: ...
    @property
    def still_side(self) -> int: ...
    @property
    def system(self) -> str: ...
    @property
    def describe(self) -> str: ...
    @property
    def describe_briefly(self) -> str: ...
    @property
    def lora(self) -> Sequence[tuple[Path, float]]: ...
    @property
    def n_embd(self) -> int: ...
    @property
    def warning(self) -> str: ...
    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def joins_pictures(self) -> bool: ...
    @property
    def reads_text(self) -> bool: ...

    @property
    def unloaded_bytes(self) -> int: ...

    def unload(self) -> None: ...

    def footage_caveat(self, features: np.ndarray) -> str: ...

    def llm_path(self) -> Path: ...

    def check_llm(self, file: GGUFFile) -> None: ...

    def prepare(self) -> None: ...

    def prepare_projection(self, frames: Sequence[np.ndarray]) -> None: ...

    def choose_frames(
        self,
        frames: Sequence[np.ndarray],
        times: np.ndarray,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> ChosenFrames: ...

    def chosen_features(self, chosen: ChosenFrames) -> np.ndarray: ...

    def encoding_version(
        self, options: PoolingOptions, n_frames: int, context_left: int | None
    ) -> str: ...

    def features(self, frames: Sequence[np.ndarray]) -> np.ndarray: ...

    def project(self, features: np.ndarray, times: np.ndarray) -> np.ndarray: ...

    def encode(
        self,
        frames: Sequence[np.ndarray],
        times: np.ndarray,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> EncodedFrames: ...

    def check_pooling(self, options: PoolingOptions) -> None: ...

    def n_tokens(self, options: PoolingOptions = DEFAULT_POOLING) -> int: ...

    def prompt_parts(
        self,
        video: EncodedFrames,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> Prompt: ...

    def pooling_summary(
        self,
        video: EncodedFrames,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> tuple[str, ...]: ...


def open_bundle(
    name: str | Path = "mini",
    mmproj: str | Path | None = None,
    *,
    tiles: bool = False,
    use_gpu: bool = False,
    cache: Path | None = None,
) -> VideoBundle:
    """Open a bundle by name.

    Args:
        name: of a bundle that comes with reellama; a bundle's folder; or an LLM with an `mmproj`,
            named as for `reellama.gguf_tools.locate.find.resolve`: a path, `hf:owner/repo[:quant]`
            or `ollama:name[:tag]`.
        mmproj: the vision GGUF's `mmproj`, in place of the one that is found for the LLM.
        tiles: whether a vision model gets large pictures in tiles, see `VisionBundle`.
        use_gpu: whether its tower runs on a GPU, where llama.cpp was built for one.
        cache: folder for the tokens of a vision model; a trained bundle, whose tower is small,
            ignores it.

    Raises:
        BundleError: there is no such bundle.
        GGUFError: a GGUF file cannot be used.
    """
    if mmproj is None and ((BUNDLES / str(name)).is_dir() or Path(name).is_dir()):
        return Bundle.load(name)
    # Imported late: a trained bundle does not need these modules.
    from reellama.gguf_tools.locate.vision_models import resolve_vision
    from reellama.models.vision_bundle import VisionBundle

    try:
        model = resolve_vision(name, mmproj)
    except GGUFError as error:
        if mmproj is not None or is_vision_gguf(name):
            raise
        raise BundleError(f"{name}: no bundle.json there, and {error}") from error
    array_cache = ArrayCache(cache, for_scans=True) if cache else None
    return VisionBundle(model.llm, model.mmproj, tiles=tiles, use_gpu=use_gpu, cache=array_cache)


def trained_bundle(name: str | Path, why: str) -> Bundle:
    """Open a trained bundle by name, for a task that vision GGUFs cannot do.

    why: message for a vision GGUF: what it lacks, and what to do. Raises BundleError.
    """
    if is_vision_gguf(name):
        raise BundleError(f"{name} is a vision GGUF: {why}")
    return Bundle.load(name)


def is_vision_gguf(name: str | Path) -> bool:
    """Whether a name is that of GGUF files, not of a bundle's folder."""
    return Path(name).is_file() or str(name).startswith((HUB_PREFIX, OLLAMA_PREFIX))


def search_bundle(bundle: VideoBundle) -> Bundle:
    """The bundle that embeds frames and texts for search: `mini` for a vision GGUF, whose tower
    does not embed texts."""
    return bundle if isinstance(bundle, Bundle) else Bundle.load("mini")
