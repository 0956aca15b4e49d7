"""The application: all protocols, health, counts, and the guard before them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from reellama.pipeline.server.admission.work_threads import WorkThreads
from reellama.pipeline.server.anthropic import messages_routes
from reellama.pipeline.server.client_errors import error_body
from reellama.pipeline.server.files import file_routes
from reellama.pipeline.server.guard import Cors, Guard
from reellama.pipeline.server.local import local_routes
from reellama.pipeline.server.monitoring import status_routes
from reellama.pipeline.server.monitoring.metrics import Metrics
from reellama.pipeline.server.ollama import generate_routes
from reellama.pipeline.server.openai import openai_routes
from reellama.pipeline.server.responses import responses_routes
from reellama.pipeline.server.service import Service
from reellama.pipeline.server.settings import Settings

# After so long a thread that computes in Python lets another one go on: the loop answers, and the
# next token is written, however many of them there are.
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
        await asyncio.to_thread(service.store.sweep)
        await asyncio.to_thread(service.files.sweep)
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        yield
        sys.setswitchinterval(before)
        if settings.local_socket is not None:  # here, for uvicorn ends by the signal that it got
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
    )
    app.state.service = service
    app.state.bodies = WorkThreads("bodies")
    app.state.transfers = WorkThreads("transfers", N_TRANSFERS, max_each=N_TRANSFERS // 2)
    for router in ROUTERS:
        app.include_router(router)

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> JSONResponse:
        """Paths and methods that there are none of, in the words of their protocol."""
        body = error_body(request.url.path, error.status_code, str(error.detail))
        return JSONResponse(body, error.status_code, error.headers)

    app.add_middleware(Cors, settings=settings)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app
