"""The settings of a server, which the command line gives, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from reellama.gguf_tools.quantization.merged_llm import MERGED_LLMS
from reellama.models.cache_folders import ENCODED_FRAMES
from reellama.pipeline.server.video_options import DEFAULT_VIDEO_OPTIONS, VideoOptions

if TYPE_CHECKING:
    from reellama.gguf_tools.runtime.backend import GpuLayers

HOST, PORT = "127.0.0.1", 11435  # one above Ollama's, so that both can run


@dataclass(frozen=True)
class Settings:
    """What the server is started with.

    Attributes:
        bundle, mmproj: as `reellama.models.open_bundle.open_bundle` takes them.
        llm: another GGUF than the bundle's own, as `reellama.gguf_tools.locate.find.resolve` takes
        it.
        video, tiles: how videos are read and their tokens pooled where a request does not say, and
        whether vision models see pictures in tiles.
        model_only: whether the model also answers what a file or a rule could answer, where a
        request does not say.
        n_parallel: answers at the same time; n_ctx: positions that each of them may take.
        queue: requests that may wait beyond these; more get status 503.
        max_per_client: requests of one client address that are answered or wait; None: no limit.
        answer_seconds: seconds that an answer may take, waiting included; None: no limit.
        keep_alive: seconds that a model stays in memory after its last use; -1 for ever.
        token: the bearer token that clients must send; None: none.
        allow_dirs: folders in which clients may name files; allow_urls: hosts that media are
            fetched from; allow_hosts: more host names of the server, see
            `reellama.pipeline.server.middleware.allowed_hosts`; allow_pushes: registries to which
            models may be pushed.
        store: folder of the models that clients create, and of the files that they send.
        merged: folder of LLMs that have their adapters merged in; None: adapters are not merged.
        local_socket: the Unix socket that the server listens on as well, see
            `reellama.pipeline.server.local.local_socket`.
        max_body: bytes of a request. max_files: bytes of all files that clients sent.
            max_responses: bytes of all stored responses. cache_*: bytes of cached soft tokens.
        max_video_seconds, max_pixels, decode_*: limits of pictures and videos and their decoding.
    """

    bundle: str = "mini"
    mmproj: Path | None = None
    llm: str | None = None
    video: VideoOptions = DEFAULT_VIDEO_OPTIONS
    tiles: bool = False
    model_only: bool = False
    host: str = HOST
    port: int = PORT
    n_parallel: int = 4
    n_ctx: int = 4096
    n_threads: int | None = None
    n_gpu_layers: GpuLayers = 0
    queue: int = 64
    max_per_client: int | None = None
    answer_seconds: float | None = None
    keep_alive: float = 300.0
    token: str | None = field(default=None, repr=False)
    allow_dirs: tuple[Path, ...] = ()
    allow_urls: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    allow_pushes: tuple[str, ...] = ()
    store: Path = Path(platformdirs.user_data_dir("reellama")) / "serve"
    cache: Path | None = ENCODED_FRAMES
    local_socket: Path | None = None
    merged: Path | None = MERGED_LLMS
    max_body: int = 256 << 20
    max_files: int = 4 << 30
    max_responses: int = 256 << 20
    cache_memory: int = 64 << 20
    cache_disk: int = 1 << 30
    max_video_seconds: float = 4 * 3600.0
    max_pixels: int = 8192 * 8192
    decode_seconds: float = 60.0
    decode_memory: int = 2 << 30
    fetch_seconds: float = 60.0
