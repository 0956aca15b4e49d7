"""What sees for an LLM, by name: a trained bundle, or a vision GGUF with its `mmproj`."""

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
from reellama.models.bundle import BUNDLES, Bundle
from reellama.models.bundle_config import BundleError
from reellama.models.encoded_frames import EncodedFrames
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions


class VideoBundle(Protocol):
    """What a `Bundle` and a `VisionBundle` have in common: frames in, parts of a prompt out.

    name: for people. version: changes with its files. frames: how many are looked at by default.
    max_side: pixels on the longest side of a frame. system, describe: prompts. lora: adapters.
    warning: what a person should know of it, "" for nothing. joins_pictures: whether pictures that
    come together are the frames of one clip.
    languages: codes of those that it can be asked in, () where nobody knows.
    reads_text: whether text may stand beside a video in a prompt, such as its subtitles.
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
    def max_side(self) -> int: ...
    @property
    def system(self) -> str: ...
    @property
    def describe(self) -> str: ...
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

    def footage_caveat(self, features: np.ndarray) -> str: ...

    def llm_path(self) -> Path: ...

    def check_llm(self, file: GGUFFile) -> None: ...

    def prepare(self) -> None: ...

    def prepare_projection(self, frames: Sequence[np.ndarray]) -> None: ...

    def features(self, frames: Sequence[np.ndarray]) -> np.ndarray: ...

    def project(self, features: np.ndarray, times: np.ndarray) -> np.ndarray: ...

    def encode(self, frames: Sequence[np.ndarray], times: np.ndarray) -> EncodedFrames: ...

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
    cache: Path | None = None,
) -> VideoBundle:
    """Open a bundle by name.

    name: that of a bundle that comes with reellama, a bundle's folder, or what
    `reellama.gguf_tools.locate.find.resolve` takes for an LLM that has an `mmproj`: a path,
    `hf:owner/repo[:quant]`, `ollama:name[:tag]`. mmproj: another projector. tiles: whether a vision
    model shows pictures in tiles, see `VisionBundle`. cache: the folder where a vision model's
    tokens are kept; the small tower of a trained bundle needs none.
    Raises BundleError, and GGUFError for files that cannot be used.
    """
    if mmproj is None and ((BUNDLES / str(name)).is_dir() or Path(name).is_dir()):
        return Bundle.load(name)
    # A trained bundle needs none of what a vision GGUF does.
    from reellama.gguf_tools.locate.vision_models import resolve_vision
    from reellama.models.vision_bundle import VisionBundle

    try:
        model = resolve_vision(name, mmproj)
    except GGUFError as error:
        if mmproj is not None or is_vision_gguf(name):
            raise
        raise BundleError(f"{name}: no bundle.json there, and {error}") from error
    kept = ArrayCache(cache) if cache else None
    return VisionBundle(model.llm, model.mmproj, tiles=tiles, cache=kept)


def trained_bundle(name: str | Path, why: str) -> Bundle:
    """Open a trained bundle by name, for what only those can do.

    Raises BundleError: for a vision GGUF with `why`, which says what it lacks and what to do.
    """
    if is_vision_gguf(name):
        raise BundleError(f"{name} is a vision GGUF: {why}")
    return Bundle.load(name)


def is_vision_gguf(name: str | Path) -> bool:
    """Whether a name means GGUF files in place of a bundle's folder, as far as a name tells."""
    return Path(name).is_file() or str(name).startswith((HUB_PREFIX, OLLAMA_PREFIX))


def search_bundle(bundle: VideoBundle) -> Bundle:
    """The bundle whose tower compares frames with words: `mini` for a vision GGUF, whose own tower
    knows no words."""
    return bundle if isinstance(bundle, Bundle) else Bundle.load("mini")
