"""The application: both protocols, health, counts, and the guard before them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Response

from reellama.pipeline.server.guard import Cors, Guard
from reellama.pipeline.server.metrics import Metrics
from reellama.pipeline.server.ollama import generate_routes
from reellama.pipeline.server.openai import openai_routes
from reellama.pipeline.server.service import Service
from reellama.pipeline.server.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """An ASGI application; `app.state.service` is its service."""
    metrics = Metrics()
    service = Service(settings, metrics)
    metrics.watch_active(lambda: service.active)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    # No pages of documentation: they would load scripts from elsewhere.
    app = FastAPI(
        title="reellama",
        version=version("reellama"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.include_router(generate_routes.router)
    app.include_router(openai_routes.router)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    @app.get("/metrics")
    async def read_metrics() -> Response:
        """Counts for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_middleware(Cors, settings=settings)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app
