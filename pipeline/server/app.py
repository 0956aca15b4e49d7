"""The ASGI application: the routes of all protocols, and the middleware before them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from reellama.pipeline.server.admission.fair_thread_pool import FairThreadPool
from reellama.pipeline.server.anthropic import messages_routes
from reellama.pipeline.server.client_errors import error_body
from reellama.pipeline.server.files import file_routes
from reellama.pipeline.server.local import local_routes
from reellama.pipeline.server.middleware.access_control import AccessControlMiddleware
from reellama.pipeline.server.middleware.access_log import AccessLogMiddleware
from reellama.pipeline.server.middleware.allowed_hosts import (
    AllowedHosts,
    AllowedOriginsMiddleware,
)
from reellama.pipeline.server.middleware.body_limit import BodyLimitMiddleware
from reellama.pipeline.server.middleware.error_responses import ErrorResponseMiddleware
from reellama.pipeline.server.middleware.generation_cleanup import GenerationCleanupMiddleware
from reellama.pipeline.server.middleware.request_context_middleware import (
    RequestContextMiddleware,
)
from reellama.pipeline.server.monitoring import status_routes
from reellama.pipeline.server.monitoring.metrics import Metrics
from reellama.pipeline.server.ollama import generate_routes
from reellama.pipeline.server.openai import openai_routes
from reellama.pipeline.server.responses import responses_routes
from reellama.pipeline.server.service import Service
from reellama.pipeline.server.settings import Settings
from reellama.pipeline.server.store_lock import using_store

# The interpreter's switch interval, a fifth of its default: with several threads that compute in
# Python, the event loop and the threads of the models get their turn soon enough.
SWITCH_SECONDS = 0.001
ROUTERS = (
    generate_routes.router,
    openai_routes.router,
    local_routes.router,
    file_routes.router,
    responses_routes.router,
    messages_routes.router,
    status_routes.router,
)
N_TRANSFERS = 4  # downloads, uploads and quantizations at once: each may take hours


def create_app(settings: Settings) -> FastAPI:
    """An ASGI application; `app.state.service` is its service."""
    metrics = Metrics()
    service = Service(settings, metrics)
    metrics.watch_admission(service.admission)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as opened:
            in_use = using_store(settings.store, service.sweep)
            await asyncio.to_thread(opened.enter_context, in_use)
            before = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH_SECONDS)
            yield
            sys.setswitchinterval(before)
            # Here, because uvicorn raises the signal again that has ended it.
            if settings.local_socket is not None:
                settings.local_socket.unlink(missing_ok=True)
            await service.close()
            app.state.bodies.close()
            app.state.transfers.close()

    # No pages of documentation: they would load scripts from elsewhere.
    app = FastAPI(
        title="reellama",
        version=version("reellama"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        middleware=_middleware(settings, metrics),
    )
    app.state.service = service
    app.state.bodies = FairThreadPool("bodies")
    app.state.transfers = FairThreadPool("transfers", N_TRANSFERS, max_per_client=N_TRANSFERS // 2)
    for router in ROUTERS:
        app.include_router(router)

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> JSONResponse:
        """Answer an unknown path or method with an error of the path's protocol."""
        body = error_body(request.url.path, error.status_code, str(error.detail))
        return JSONResponse(body, error.status_code, error.headers)

    return app


def _middleware(settings: Settings, metrics: Metrics) -> list[Middleware]:
    """What each request passes before its route, the first one outermost."""
    hosts = AllowedHosts(settings.host, settings.allow_hosts)
    return [
        Middleware(AccessLogMiddleware, metrics=metrics),
        Middleware(RequestContextMiddleware, local_socket=settings.local_socket),
        Middleware(ErrorResponseMiddleware),
        Middleware(AccessControlMiddleware, hosts=hosts, token=settings.token),
        Middleware(BodyLimitMiddleware, max_bytes=settings.max_body),
        Middleware(GenerationCleanupMiddleware),
        Middleware(AllowedOriginsMiddleware, hosts=hosts),
    ]
