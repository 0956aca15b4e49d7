"""What a server tells `reellama ask` of its own user."""

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
    """What this server is, as far as `ask` must know; clients of the network learn nothing."""
    if CLIENT.get() != LOCAL:
        raise HTTPException(404)
    service: Service = request.app.state.service
    settings = service.settings
    bundle = await asyncio.to_thread(open_registered_bundle, settings)
    said = {"model": bundle.name, "describe": bundle.describe, "n_ctx": settings.n_ctx}
    return identity(settings.bundle, settings.mmproj, settings.llm) | said
