"""`reellama serve`: Ollama's, OpenAI's and Anthropic's protocols on this machine."""

from __future__ import annotations

import errno
import os
import socket
import sys
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.user_paths import expand_user
from reellama.pipeline.cli.arguments.checks import bad_arguments, checked_by, one_of
from reellama.pipeline.cli.options import (
    BundleOptions,
    ComputeOptions,
    ContextOption,
    ModelOnlyOption,
    SamplingOptions,
    TilesOption,
    TokenOptions,
)

if TYPE_CHECKING:
    from reellama.pipeline.server.settings import Settings

TOKEN_VARIABLE = "REELLAMA_TOKEN"
MIB = 1 << 20


@checked_by
def _check_keep_alive(text: str) -> None:
    from reellama.pipeline.server.keep_alive import parse_keep_alive

    parse_keep_alive(text)


@dataclass(frozen=True)
class ListenOptions:
    """Where the server listens, and who may ask."""

    host: Annotated[str, Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, Option(min=0, max=65535, metavar="N", help="Port; 0 takes a free one.")
    ] = 11435
    allow_dir: Annotated[
        list[Path] | None,
        Option(metavar="FOLDER", help="Clients may name files in it. Can be repeated."),
    ] = None
    allow_url: Annotated[
        list[str] | None,
        Option(metavar="HOST", help="Fetch videos from this host. Can be repeated."),
    ] = None
    allow_host: Annotated[
        list[str] | None,
        Option(metavar="NAME", help="Another name of this server. Can be repeated."),
    ] = None
    allow_push: Annotated[
        list[str] | None,
        Option(metavar="HOST", help="Clients may push models to this registry. Can be repeated."),
    ] = None


@dataclass(frozen=True)
class ServedModelOptions(ComputeOptions, BundleOptions):
    """What the server runs, and how much of it."""

    llm: Annotated[str | None, Option(metavar="GGUF", help="Another LLM of its width.")] = None
    tiles: TilesOption = False
    model_only: ModelOnlyOption = False
    parallel: Annotated[
        int, Option(min=1, max=64, metavar="N", help="Answers at the same time.")
    ] = 4
    queue: Annotated[
        int, Option(min=0, metavar="N", help="Requests that may wait; more get 503.")
    ] = 64
    max_per_client: Annotated[
        int | None, Option(min=1, metavar="N", help="Of these, at most N of one client.")
    ] = None
    timeout: Annotated[
        float | None, Option(min=1, metavar="SECONDS", help="An answer ends after so long.")
    ] = None
    decode_timeout: Annotated[
        float, Option(min=1, metavar="SECONDS", help="Decoding a video ends after so long.")
    ] = 60.0
    n_ctx: ContextOption = 4096
    keep_alive: Annotated[
        str,
        Option(
            metavar="TIME",
            callback=_check_keep_alive,
            help="How long an unused model stays: 5m, 0, -1 for ever.",
        ),
    ] = "5m"
    max_body: Annotated[int, Option(min=1, metavar="MIB", help="Size of a request.")] = 256
    max_files: Annotated[
        int, Option(min=0, metavar="MIB", help="Size of all files that clients send.")
    ] = 4096
    store: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Where models and files of clients are kept."),
    ] = None


Unit = Annotated[
    str | None,
    Option(
        metavar="KIND",
        callback=one_of("systemd", "launchd"),
        help="Print a unit: systemd or launchd.",
    ),
]
LogLevel = Annotated[
    str,
    Option(
        metavar="LEVEL",
        callback=one_of("debug", "info", "warning", "error"),
        help="debug, info, warning or error.",
    ),
]


def run(
    listen: ListenOptions,
    serving: ServedModelOptions,
    frames: SamplingOptions,
    tokens: TokenOptions,
    log_level: str,
    unit: str | None,
) -> None:
    """Serve until Ctrl-C or SIGTERM; or print how a service manager would start this.

    frames, tokens: of videos whose requests do not say.
    """
    if unit is not None:
        _print_unit(unit, listen.host, listen, serving, frames, tokens)
        return
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ReellamaError(
            f"{error.name} is not installed: pip install 'reellama[serve]'"
        ) from error

    from reellama.gguf_tools.heap import set_mmap_threshold
    from reellama.pipeline.cli.console import note
    from reellama.pipeline.server.app import create_app
    from reellama.pipeline.server.local import local_socket
    from reellama.pipeline.server.memory_trimmer import freeze_startup_objects
    from reellama.pipeline.server.monitoring import logs
    from reellama.pipeline.server.uvicorn_server import TimedShutdownServer, uvicorn_config

    settings = _settings(listen, serving, frames, tokens)
    _check(settings)
    sockets = [_listen(listen.host, listen.port)]
    logs.set_up(log_level)
    with local_socket.listening() as local:
        if local is not None:
            settings = replace(settings, local_socket=local[0])
            sockets.append(local[1])
        app = create_app(settings)
        set_mmap_threshold()
        freeze_startup_objects()
        # uvloop has no TCP servers on Unix sockets.
        config = uvicorn_config(app, log_config=None, access_log=False, loop="asyncio")
        server = TimedShutdownServer(config)
        models = app.state.service.models
        models.on_failure = server.fail
        shown = f"[{listen.host}]" if ":" in listen.host else listen.host
        _note_if_open(listen.host, settings.token is not None)
        note(f"serving on http://{shown}:{sockets[0].getsockname()[1]} (Ctrl-C stops)")
        server.run(sockets=sockets)
    if models.failure:  # a supervisor, such as systemd, starts another process
        raise ReellamaError(f"{models.failure}; see the log")


def _print_unit(kind: str, host: str, *groups: Any) -> None:
    """Print a unit with the options of groups, and note what is not in it."""
    from reellama.pipeline.cli import service_units
    from reellama.pipeline.cli.console import note

    sys.stdout.write(service_units.unit(kind, service_units.command(*groups)))
    if unsaved := service_units.unsaved_variables():
        file = Path.home() / service_units.VARIABLES_FILE
        note(
            f"{', '.join(unsaved)}: set here, but not for the service; write NAME=VALUE lines into "
            f"{file}, and let nobody else read it (chmod 600)"
        )
    _note_if_open(host, TOKEN_VARIABLE in service_units.saved_variables())


def _note_if_open(host: str, has_token: bool) -> None:
    """Point out a server that other machines reach, and that asks for no token."""
    from reellama.pipeline.cli.console import note

    try:
        is_local = ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not (is_local or has_token):
        note(f"--host {host} without {TOKEN_VARIABLE}: whoever reaches this machine may ask")


def _settings(
    listen: ListenOptions,
    serving: ServedModelOptions,
    frames: SamplingOptions,
    tokens: TokenOptions,
) -> Settings:
    from reellama.pipeline.server.keep_alive import parse_keep_alive
    from reellama.pipeline.server.settings import Settings
    from reellama.pipeline.server.video_options import video_options

    keep_alive = parse_keep_alive(serving.keep_alive)
    with bad_arguments():
        video = video_options(asdict(frames) | asdict(tokens))
    return Settings(
        bundle=serving.bundle,
        mmproj=serving.mmproj,
        llm=serving.llm,
        video=video,
        tiles=serving.tiles,
        model_only=serving.model_only,
        host=listen.host,
        port=listen.port,
        n_parallel=serving.parallel,
        queue=serving.queue,
        max_per_client=serving.max_per_client,
        answer_seconds=serving.timeout,
        decode_seconds=serving.decode_timeout,
        n_ctx=serving.n_ctx,
        **serving.engine_options(),
        keep_alive=Settings.keep_alive if keep_alive is None else keep_alive,
        token=os.environ.get(TOKEN_VARIABLE) or None,
        allow_dirs=tuple(listen.allow_dir or ()),
        allow_urls=tuple(listen.allow_url or ()),
        allow_hosts=tuple(listen.allow_host or ()),
        allow_pushes=tuple(listen.allow_push or ()),
        max_body=serving.max_body * MIB,
        max_files=serving.max_files * MIB,
        store=serving.store or Settings.store,
    )


def _check(settings: Settings) -> None:
    """Raise ReellamaError when a folder, the bundle or its LLM is not there, before anyone asks."""
    from reellama.models.open_bundle import open_bundle
    from reellama.pipeline.server.model_registry.model_lookup import look_up_model
    from reellama.pipeline.server.model_registry.model_store import ModelStore

    for folder in settings.allow_dirs:
        if not expand_user(folder).is_dir():
            raise ReellamaError(f"--allow-dir {folder}: there is no such folder")
    name = open_bundle(settings.bundle, settings.mmproj).name
    if look_up_model(name, settings, ModelStore(settings.store)).bundle is None:
        raise ReellamaError(
            f"{settings.llm} does not fit {name}: its embeddings have another width"
        )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=512)
        # Connections inherit it, and asyncio does not set it for sockets of this origin. Without it
        # the second part of a small answer waits for the client's delayed ACK, 40 ms on Linux.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # Python adds the address once more
        is_taken = error.errno in (errno.EADDRINUSE, errno.EACCES)  # else it is no address of ours
        wrong = "--port" if is_taken else "--host"
        raise ReellamaError(
            f"cannot listen on {host}:{port}: {reason}; choose another {wrong}"
        ) from error
