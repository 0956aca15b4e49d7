"""/v1/files: a picture or video is uploaded once, and referred to by its id.

OpenAI's and Anthropic's clients use the same paths; ANTHROPIC_HEADER tells them apart.
"""

from __future__ import annotations

import asyncio
import re
from datetime import datetime, timezone
from typing import Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile

from reellama.pipeline.server.anthropic.anthropic_errors import ANTHROPIC_HEADER
from reellama.pipeline.server.files.file_store import (
    FileStore,
    FileStoreError,
    HeldFile,
    StoredFile,
    whole_characters,
)
from reellama.pipeline.server.openai.openai_routes import OpenAIRoute

MAX_NAME_CHARACTERS = 200  # of a file's name; of a longer one the end is stored
MAX_FORM_FIELDS = 16
LIFETIMES = range(3600, 30 * 86400 + 1)  # seconds that a file may be stored, as in OpenAI's API
_SECONDS = re.compile("[0-9]{1,9}")  # int() fails for thousands of digits

router = APIRouter(prefix="/v1/files", route_class=OpenAIRoute, tags=["files"])


class HeldFileResponse(FileResponse):
    """A file's bytes, complete even if the file is deleted meanwhile."""

    def __init__(self, held: HeldFile) -> None:
        # A download, so that no browser shows an uploaded file as a page of this server.
        super().__init__(
            held.path,
            media_type="application/octet-stream",
            filename=held.stored.filename,
            headers={"X-Content-Type-Options": "nosniff"},
        )
        self._held = held


@router.post("")
async def upload_file(request: Request) -> dict[str, Any]:
    """Store a file."""
    _check_charset(request)
    async with request.form(max_files=1, max_fields=MAX_FORM_FIELDS) as form:
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise FileStoreError("file: send a form (multipart/form-data) with a file in it")
        path = whole_characters(upload.filename or "file")
        name = path.replace("\\", "/").rpartition("/")[2][-MAX_NAME_CHARACTERS:]
        purpose = whole_characters(str(form.get("purpose") or "user_data"))[:MAX_NAME_CHARACTERS]
        stored = await asyncio.to_thread(
            _files(request).add, upload.file, name, purpose, _lifetime(form)
        )
    return _file_entry(request, stored)


@router.get("")
async def list_files(
    request: Request,
    purpose: str | None = None,
    limit: int = Query(10_000, ge=1, le=10_000),
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> dict[str, Any]:
    """A page of at most `limit` files."""
    files = await asyncio.to_thread(_files(request).list)
    if order == "asc":
        files.reverse()
    files = [file for file in files if purpose in (None, file.purpose)]
    ids = [file.id for file in files]
    start = ids.index(after) + 1 if after in ids else 0
    page = files[start : start + limit]
    return {
        "object": "list",
        "data": [_file_entry(request, file) for file in page],
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": start + limit < len(files),
    }


@router.get("/{id_}")
async def show_file(request: Request, id_: str) -> dict[str, Any]:
    """The metadata of a file."""
    return _file_entry(request, await asyncio.to_thread(_files(request).get, id_))


@router.get("/{id_}/content", response_model=None)
async def send_file(request: Request, id_: str) -> HeldFileResponse:
    """A file's bytes."""
    return HeldFileResponse(await asyncio.to_thread(_files(request).hold, id_))


@router.delete("/{id_}")
async def delete_file(request: Request, id_: str) -> dict[str, Any]:
    """Remove a file."""
    await asyncio.to_thread(_files(request).delete, id_)
    if ANTHROPIC_HEADER in request.headers:
        return {"id": id_, "type": "file_deleted"}
    return {"id": id_, "object": "file", "deleted": True}


def _files(request: Request) -> FileStore:
    return request.app.state.service.files


def _check_charset(request: Request) -> None:
    """Raise FileStoreError for a form in another charset than UTF-8.

    Starlette decodes forms by any codec of Python, also by some that make lone surrogates or are no
    charsets (utf-7, unicode_escape, undefined).
    """
    _, options = parse_options_header(request.headers.get("content-type"))
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise FileStoreError("the form's charset: only UTF-8 is taken")


def _lifetime(form: FormData) -> int | None:
    value = form.get("expires_after[seconds]")
    if value is None:
        return None
    seconds = int(value) if isinstance(value, str) and _SECONDS.fullmatch(value) else 0
    if seconds not in LIFETIMES:
        allowed = f"{LIFETIMES.start} to {LIFETIMES.stop - 1}"
        raise FileStoreError(f"expires_after[seconds]: a number from {allowed} is allowed")
    if form.get("expires_after[anchor]", "created_at") != "created_at":
        raise FileStoreError('expires_after[anchor]: "created_at" is allowed')
    return seconds


def _file_entry(request: Request, stored: StoredFile) -> dict[str, Any]:
    if ANTHROPIC_HEADER in request.headers:
        return {
            "id": stored.id,
            "type": "file",
            "filename": stored.filename,
            "mime_type": "image/*" if stored.kind == "picture" else "video/*",
            "size_bytes": stored.size,
            "created_at": datetime.fromtimestamp(stored.created, timezone.utc).isoformat(),
            "downloadable": True,
        }
    return {
        "id": stored.id,
        "object": "file",
        "bytes": stored.size,
        "created_at": stored.created,
        "expires_at": stored.expires,
        "filename": stored.filename,
        "purpose": stored.purpose,
        "status": "processed",
    }
