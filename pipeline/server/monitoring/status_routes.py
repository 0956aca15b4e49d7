"""/healthz and /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from reellama.pipeline.server.service import Service

router = APIRouter()


@router.api_route("/healthz", methods=["GET", "HEAD"])
async def healthz(request: Request) -> JSONResponse:
    """Whether the server can answer: 503 once the thread of a model has died."""
    service: Service = request.app.state.service
    failed = service.models.failure
    return JSONResponse({"status": "failed" if failed else "ok"}, 503 if failed else 200)


@router.api_route("/metrics", methods=["GET", "HEAD"])
async def read_metrics(request: Request) -> Response:
    """The metrics for Prometheus."""
    service: Service = request.app.state.service
    media_type = "text/plain; version=0.0.4; charset=utf-8"
    return Response(service.metrics.text(), media_type=media_type)
