"""The options that commands share, a dataclass for each group: see `option_groups.grouped`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from typer import BadParameter, Option

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.locate.naming import OLLAMA_PREFIX
from reellama.gguf_tools.user_paths import expand_user
from reellama.models.token_pooling.options import (
    AUTO,
    DEFAULT_TOKENS,
    POOLING_METHODS,
    STILL_TOKENS,
    PoolingOptions,
)
from reellama.pipeline.cli.arguments.checks import (
    bad_arguments,
    check_gpu_layers,
    checked_by,
    one_of,
)
from reellama.pipeline.cli.arguments.typed_text import typed_text
from reellama.pipeline.llm.generation_options import GenerationOptions, Sampling
from reellama.pipeline.option_fields import option_field
from reellama.pipeline.video.read_options import (
    SAMPLING_MODES,
    SUBTITLE_MODES,
    SamplingMode,
    SubtitleMode,
    VideoReadOptions,
)
from reellama.pipeline.video.timestamps import parse_time

if TYPE_CHECKING:
    from reellama.gguf_tools.format.reader import GGUFFile
    from reellama.gguf_tools.runtime.backend import GpuLayers
    from reellama.models.open_bundle import VideoBundle
    from reellama.pipeline.chat.video_chat import VideoChat


@checked_by
def check_llm_name(text: str) -> None:
    """A path or name, or a model of Ollama's."""
    if text == OLLAMA_PREFIX:
        raise ReellamaError("ollama:NAME wants a name, as `ollama list` shows them")


POOLING_NAMES = (AUTO, *POOLING_METHODS)


_check_seconds = checked_by(parse_time)
_check_sampling = one_of(*SAMPLING_MODES)
check_subtitles = one_of(*SUBTITLE_MODES)


def parse_gpu_layers(text: str) -> GpuLayers:
    """The number of layers on the GPU as the engine takes it: a number, auto or all.

    Says so where there is no GPU to take them. Raises BadParameter for another word.
    """
    say_without_gpu(check_gpu_layers(text))
    return int(text) if text.isdecimal() else text  # type: ignore[return-value]  # a literal


ModelOnlyOption = Annotated[
    bool,
    Option("--model-only", help="The model answers, also what a file or a rule could answer."),
]
BundleOption = Annotated[
    str,
    Option(
        metavar="NAME|DIR|GGUF",
        help="What sees and answers: a bundle, or a vision GGUF (path, hf:..., ollama:...).",
    ),
]
MmprojOption = Annotated[
    Path | None,
    Option(metavar="GGUF", help="The projector of a vision GGUF (default: the one beside it)."),
]


TilesOption = Annotated[
    bool, Option("--tiles", help="A vision GGUF sees all frames in tiles too, in full.")
]
_N_CTX = Option(
    "--n-ctx", "--ctx-size", "-c", min=64, metavar="N", help="Positions in the context."
)
ContextOption = Annotated[int, _N_CTX]
OptionalContextOption = Annotated[int | None, _N_CTX]  # None: as many as will be needed


def _option(
    options: type,
    name: str,
    metavar: str,
    callback: Any = None,
    low: int | None = None,
    names: Sequence[str] = (),
) -> Any:
    """An option of a command for a field of the library's options: its help and its bounds.

    low: the command's own bound where it takes less than the library does.
    names: of the option, the main one first, where it has llama.cpp's as well.
    """
    about = option_field(options, name).metadata
    lowest, highest = (about[key] if math.isfinite(about[key]) else None for key in ("low", "high"))
    return Option(
        *names,
        min=lowest if low is None else low,
        max=highest,
        metavar=metavar,
        help=about["help"],
        callback=callback,
    )


@dataclass(frozen=True)
class SamplingOptions:
    """How frames are taken of a video."""

    frames: Annotated[int | None, _option(VideoReadOptions, "frames", "N")] = None
    sampling: Annotated[str, _option(VideoReadOptions, "sampling", "HOW", _check_sampling)] = (
        VideoReadOptions.sampling
    )
    fps: Annotated[float | None, _option(VideoReadOptions, "fps", "X")] = None

    def read_options(self) -> VideoReadOptions:
        """These options as `VideoReadOptions`, which the library takes."""
        with bad_arguments():
            return VideoReadOptions(self.frames, cast(SamplingMode, self.sampling), self.fps)


@dataclass(frozen=True)
class FrameOptions(SamplingOptions):
    """Which frames of a video are looked at."""

    start: Annotated[str | None, _option(VideoReadOptions, "start", "TIME", _check_seconds)] = None
    end: Annotated[str | None, _option(VideoReadOptions, "end", "TIME", _check_seconds)] = None
    subtitles: Annotated[
        str, _option(VideoReadOptions, "subtitles", "auto|off", check_subtitles)
    ] = VideoReadOptions.subtitles

    def read_options(self) -> VideoReadOptions:
        """These options as `VideoReadOptions`, which the library takes."""
        start, end = (None if t is None else parse_time(t) for t in (self.start, self.end))
        subtitles = cast(SubtitleMode, self.subtitles)
        with bad_arguments():
            return replace(super().read_options(), start=start, end=end, subtitles=subtitles)


@dataclass(frozen=True)
class BundleOptions:
    """What sees."""

    bundle: BundleOption = "mini"
    mmproj: MmprojOption = None


@dataclass(frozen=True)
class TokenOptions:
    """How many tokens a video gets."""

    tokens: Annotated[
        int | None,
        Option(
            min=1,
            metavar="N",
            help=f"Tokens of a video or scene, for a vision GGUF (default: {DEFAULT_TOKENS}; of a "
            f"still up to {STILL_TOKENS}).",
        ),
    ] = None
    pooling: Annotated[
        str,
        Option(
            metavar="NAME",
            callback=one_of(*POOLING_NAMES),
            help="How these are pooled: " + ", ".join(POOLING_NAMES),
        ),
    ] = AUTO

    def pooling_options(self) -> PoolingOptions:
        """These options as `PoolingOptions`, which the library takes."""
        return PoolingOptions(self.tokens, self.pooling)


@dataclass(frozen=True)
class ComputeOptions:
    """Where models are computed."""

    threads: Annotated[
        int | None, Option(min=1, metavar="N", help="Processor threads (default: free cores).")
    ] = None
    gpu_layers: Annotated[
        str,
        Option(
            "--gpu-layers",
            "-ngl",
            callback=check_gpu_layers,
            metavar="N|auto|all",
            help="Layers on the GPU.",
        ),
    ] = "0"

    def engine_options(self) -> dict[str, Any]:
        """These options as keywords of whatever loads an LLM."""
        layers = parse_gpu_layers(self.gpu_layers)
        return {"n_threads": self.threads, "n_gpu_layers": layers}


@dataclass(frozen=True)
class ModelOptions(ComputeOptions, TokenOptions, BundleOptions):
    """Which model answers, and how it is run."""

    llm: Annotated[
        str | None,
        Option(
            metavar="GGUF|ollama:NAME",
            callback=check_llm_name,
            help="Another LLM with embeddings of the same width, or one that Ollama runs.",
        ),
    ] = None
    lora: Annotated[
        list[str] | None, Option(metavar="GGUF[=SCALE]", help="A LoRA adapter; may be repeated.")
    ] = None
    system: Annotated[
        str | None,
        Option(metavar="TEXT", callback=typed_text, help="System prompt instead of the bundle's."),
    ] = None
    model_only: ModelOnlyOption = False
    tiles: TilesOption = False
    n_ctx: ContextOption = 4096

    def open(
        self,
        frames: FrameOptions,
        *,
        merge: bool = False,
        wait: bool = True,
        needed: Callable[[VideoBundle, GGUFFile], int] | None = None,
    ) -> VideoChat:
        """Load the bundle and the LLM, which may still be loading without `wait`. No video is read
        yet.

        merge: whether the bundle's adapter is merged into the LLM first, which takes seconds, once.
        needed: the positions that will be used at most: the context is made no larger.
        """
        options: dict[str, Any] = {
            "bundle": self.bundle,
            "mmproj": self.mmproj,
            "tokens": self.tokens,
            "pooling": self.pooling,
            "tiles": self.tiles,
            "model_only": self.model_only,
            "system": self.system,
            "read_options": frames.read_options(),
            "n_ctx": self.n_ctx,
            **self.engine_options(),
        }
        if self.llm and self.llm.startswith(OLLAMA_PREFIX):
            return self._open_ollama(self.llm.removeprefix(OLLAMA_PREFIX), options)
        from reellama.gguf_tools.quantization.merged_llm import MERGED_LLMS
        from reellama.models.array_cache import ArrayCache
        from reellama.models.cache_folders import KV_CACHE_STATES
        from reellama.pipeline.chat.video_chat import VideoChat

        if needed is not None:
            options["n_ctx"] = lambda bundle, llm: min(self.n_ctx, needed(bundle, llm))
        options |= {"lora": parse_adapters(self.lora), "prompt_cache": ArrayCache(KV_CACHE_STATES)}
        return VideoChat(llm=self.llm, wait=wait, merged=MERGED_LLMS, merge=merge, **options)

    def _open_ollama(self, name: str, options: dict[str, Any]) -> VideoChat:
        """Let the bundle's own LLM watch, and a model of Ollama's talk."""
        if self.lora:
            raise BadParameter(f"--lora has no place in {name}: Ollama loads it, with its own")
        from reellama.pipeline.chat.ollama_chat import OllamaVideoChat

        return OllamaVideoChat(model=name, **options)


@dataclass(frozen=True)
class AnswerOptions:
    """How an answer is generated. `/set` in a chat changes these by name."""

    temperature: Annotated[
        float, _option(Sampling, "temperature", "X", names=("--temperature", "--temp"))
    ] = Sampling.temperature
    top_k: Annotated[int, _option(Sampling, "top_k", "N")] = Sampling.top_k
    top_p: Annotated[float, _option(Sampling, "top_p", "P")] = Sampling.top_p
    min_p: Annotated[float, _option(Sampling, "min_p", "P")] = Sampling.min_p
    repeat_penalty: Annotated[float, _option(Sampling, "repeat_penalty", "X")] = (
        Sampling.repeat_penalty
    )
    seed: Annotated[int | None, _option(Sampling, "seed", "N")] = Sampling.seed
    max_tokens: Annotated[
        int,
        _option(
            GenerationOptions, "max_tokens", "N", low=1, names=("--max-tokens", "--n-predict", "-n")
        ),
    ] = GenerationOptions.max_tokens
    stop: Annotated[list[str] | None, _option(GenerationOptions, "stop", "TEXT")] = None
    grammar: Annotated[Path | None, _option(Sampling, "grammar", "FILE")] = None
    json_schema: Annotated[Path | None, _option(Sampling, "json_schema", "FILE")] = None

    def generation(self) -> dict[str, Any]:
        """These options as keywords of `Engine.generate`; reads the grammar and the schema."""
        options = asdict(self)
        max_tokens, stop = options.pop("max_tokens"), options.pop("stop")
        if self.grammar:
            options["grammar"] = read_text(self.grammar)
        if self.json_schema:
            try:
                options["json_schema"] = json.loads(read_text(self.json_schema))
            except ValueError as error:
                raise ReellamaError(f"{self.json_schema} is not JSON: {error}") from error
        return vars(GenerationOptions(Sampling(**options), max_tokens, stop or ()))


def read_text(path: Path) -> str:
    """The text of a small file. Raises ReellamaError when it cannot be read."""
    try:
        return expand_user(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ReellamaError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReellamaError(f"{path} is not a text file (UTF-8)") from error


def say_without_gpu(layers: str) -> None:
    """Say that layers which were asked for stay on the processor, where there is no GPU."""
    if layers in ("0", "auto"):
        return
    from reellama.gguf_tools.runtime import backend
    from reellama.pipeline.cli.console import note

    if not backend.supports_gpu_offload():
        note("llama.cpp finds no GPU here: all layers stay on the processor")


def parse_adapters(texts: Sequence[str] | None) -> list[tuple[Path, float]]:
    """What `--lora` was given, each `FILE` or `FILE=SCALE`: files and scales, 1.0 by default.

    A file that has a `=` in its own name is that file. Raises ReellamaError for a file that is not
    there and for a scale that is no number, before any model is loaded.
    """
    return [_parse_adapter(text) for text in texts or ()]


def _parse_adapter(text: str) -> tuple[Path, float]:
    if expand_user(text).is_file():
        return expand_user(text), 1.0
    name, _, number = text.rpartition("=") if "=" in text else (text, "", "1")
    try:
        scale = float(number)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise ReellamaError(
            f"--lora {text}: {number!r} is not a scale, and no file is called {text}; write FILE "
            "or FILE=SCALE, such as adapter.gguf=0.5"
        )
    path = expand_user(name)
    if not path.is_file():
        raise ReellamaError(f"--lora {text}: there is no such LoRA adapter")
    return path, scale
