"""Which models look at long videos: options of `timeline`, `watch` and `search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from typer import Option

from reellama.gguf_tools.locate.naming import OLLAMA_PREFIX
from reellama.pipeline.cli.options import (
    BundleOptions,
    ComputeOptions,
    OptionalContextOption,
    SamplingOptions,
    TokenOptions,
    check_llm_name,
)

if TYPE_CHECKING:
    from reellama.pipeline.llm.ollama_model import OllamaModel
    from reellama.pipeline.long_video.timeline import LongVideo


@dataclass(frozen=True)
class LongVideoOptions(BundleOptions):
    """Which models look for moments."""

    llm: Annotated[
        str | None,
        Option(
            metavar="GGUF|ollama:NAME",
            callback=check_llm_name,
            help="Another LLM, or one that retells what is seen.",
        ),
    ] = None
    threads: Annotated[int | None, Option(min=1, metavar="N", help="Processor threads.")] = None
    no_cache: Annotated[
        bool, Option("--no-cache", help="Encode videos again, and keep nothing of it.")
    ] = False


@dataclass(frozen=True)
class SceneOptions(ComputeOptions, TokenOptions, SamplingOptions, LongVideoOptions):
    """Which models watch scenes, and with how many frames and tokens."""

    max_tokens: Annotated[
        int,
        Option(
            "--max-tokens",
            "--n-predict",
            "-n",
            min=1,
            metavar="N",
            help="Tokens of what is written of a scene, at most.",
        ),
    ] = 128
    n_ctx: OptionalContextOption = None

    def open(self) -> LongVideo:
        """The bundle and its LLM."""
        from reellama.gguf_tools.quantization.merged_llm import MERGED_LLMS
        from reellama.pipeline.long_video.timeline import LongVideo
        from reellama.pipeline.long_video.video_index import CACHE_FOLDER

        llm = None if self.ollama_model() else self.llm
        cache = None if self.no_cache else CACHE_FOLDER
        return LongVideo(
            self.bundle,
            mmproj=self.mmproj,
            llm=llm,
            read_options=self.read_options(),
            pooling=self.pooling_options(),
            max_tokens=self.max_tokens,
            n_ctx=self.n_ctx,
            **self.engine_options(),
            cache=cache,
            merged=MERGED_LLMS,
        )

    def ollama_model(self) -> OllamaModel | None:
        """The model of Ollama's that retells, if one was named."""
        if self.llm is None or not self.llm.startswith(OLLAMA_PREFIX):
            return None
        from reellama.pipeline.llm.ollama_model import OllamaModel

        return OllamaModel(self.llm.removeprefix(OLLAMA_PREFIX))
