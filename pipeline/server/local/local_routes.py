"""The route by which `reellama ask` checks that a server has the same program and bundle."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, HTTPException, Request

from reellama.pipeline.server.local.local_socket import ABOUT, identity
from reellama.pipeline.server.model_registry.model_lookup import open_registered_bundle
from reellama.pipeline.server.request_context import CLIENT, LOCAL
from reellama.pipeline.server.service import Service

router = APIRouter(include_in_schema=False)


@router.get(ABOUT)
async def about(request: Request) -> dict[str, Any]:
    """The server's identity and bundle, for clients of the Unix socket alone."""
    if CLIENT.get() != LOCAL:
        raise HTTPException(404)
    service: Service = request.app.state.service
    settings = service.settings
    bundle = await asyncio.to_thread(open_registered_bundle, settings)
    fields = {"model": bundle.name, "describe": bundle.describe, "n_ctx": settings.n_ctx}
    return identity(settings.bundle, settings.mmproj, settings.llm, settings.tiles) | fields
