"""Ollama's routes for models: tags, ps, show, create, blobs, copy, delete, pull, push, embed."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.locate.naming import HUB_PREFIX, split_hub_name
from reellama.gguf_tools.temporary_folders import temporary_folder
from reellama.pipeline.llm.text_embedding import shortened
from reellama.pipeline.server.disconnects import cancel_on_disconnect
from reellama.pipeline.server.model_registry.model_lookup import (
    all_models,
    delete_stored_model,
    look_up_model,
    open_registered_bundle,
)
from reellama.pipeline.server.model_registry.model_name import (
    ModelName,
    ModelStoreError,
    short_name,
)
from reellama.pipeline.server.model_registry.model_store import Manifest, ModelStore
from reellama.pipeline.server.model_registry.registered_model import RegisteredModel
from reellama.pipeline.server.ollama.ndjson import ItemCallback, OllamaRoute, answer_progress
from reellama.pipeline.server.ollama.ollama_schemas import (
    CopyRequest,
    CreateRequest,
    EmbeddingsRequest,
    EmbedRequest,
    ModelRequest,
    PushRequest,
    ShowRequest,
    generation_options,
)
from reellama.pipeline.server.ollama.registry_push import check_host, push_model
from reellama.pipeline.server.request_bodies.json_bodies import json_body

# The version of Ollama whose API this is: clients compare it with the one that they need.
API_VERSION = "0.13.0"
HUB_HOSTS = ("hf.co/", "huggingface.co/", HUB_PREFIX)

router = APIRouter(route_class=OllamaRoute, tags=["ollama"])


@router.api_route("/", methods=["GET", "HEAD"], response_class=PlainTextResponse)
async def root() -> str:
    """A line of text by which clients detect a server."""
    return "Ollama is running"


@router.api_route("/api/version", methods=["GET", "HEAD"])
async def version() -> dict[str, str]:
    """The version of Ollama's API."""
    return {"version": API_VERSION}


@router.api_route("/api/tags", methods=["GET", "HEAD"])
async def tags(request: Request) -> dict[str, Any]:
    """The bundle and the models of the store."""
    models = await asyncio.to_thread(all_models, _service(request).settings, store(request))
    return {"models": [await _entry(request, registered) for registered in models]}


@router.post("/api/show")
async def show(
    request: Request, body: Annotated[ShowRequest, json_body(ShowRequest)]
) -> dict[str, Any]:
    """Details of one model."""
    registered = await find_model(request, body.model)
    chat_format = await _service(request).chat_formats.get(registered)
    return await asyncio.to_thread(registered.show, chat_format, bool(body.verbose))


@router.post("/api/copy")
async def copy(request: Request, body: Annotated[CopyRequest, json_body(CopyRequest)]) -> Response:
    """Give a model another name."""
    _check_new_name(body.destination, request)
    manifest = _as_parent(await find_model(request, body.source))
    store(request).put(replace(manifest, name=body.destination))
    return Response()


@router.delete("/api/delete")
async def delete(
    request: Request, body: Annotated[ModelRequest, json_body(ModelRequest)]
) -> Response:
    """Delete a model of the store."""
    await asyncio.to_thread(
        delete_stored_model, body.model, _service(request).settings, store(request)
    )
    return Response()


@router.head("/api/blobs/{digest}")
async def has_blob(request: Request, digest: str) -> Response:
    """Whether a blob exists: 200 or 404."""
    return Response(status_code=200 if store(request).blobs.path(digest).is_file() else 404)


@router.post("/api/blobs/{digest}")
async def take_blob(request: Request, digest: str) -> Response:
    """Store an uploaded file, if it has this digest."""
    model_store = store(request)
    if model_store.blobs.path(digest).is_file():
        return Response(status_code=200)
    size = request.headers.get("content-length", "")
    with model_store.blobs.receive(digest, int(size) if size.isdecimal() else 0) as blob:
        async for piece in request.stream():
            await asyncio.to_thread(blob.write, piece)
    return Response(status_code=201)


@router.post("/api/create")
async def create(
    request: Request, body: Annotated[CreateRequest, json_body(CreateRequest)]
) -> Response:
    """Create a model from another one, or from uploaded blobs."""
    model_store = store(request)
    _check_new_name(body.model, request)
    if not (body.from_ or body.files):
        raise ReellamaError("neither 'from' or 'files' was specified")
    if body.template:
        await _service(request).check_template(body.template)
    parent = _as_parent(await find_model(request, body.from_)) if body.from_ else Manifest("")
    manifest = await asyncio.to_thread(_new_manifest, model_store, body, parent)

    def run(report: ItemCallback) -> None:
        report({"status": "reading model metadata"})
        created = manifest
        if body.quantize:
            created = _quantized(model_store, manifest, body.quantize, report)
        for part in ("template", "system", "parameters", "license", "messages"):
            if getattr(body, part):
                report({"status": f"creating {part} layer"})
        report({"status": "writing manifest"})
        model_store.put(created)
        report({"status": "success"})

    return await answer_progress(request, run, body.streams)


@router.post("/api/pull")
async def pull(
    request: Request, body: Annotated[ModelRequest, json_body(ModelRequest)]
) -> Response:
    """Download a model from the hub into the store; any other model must exist already."""
    model_store = store(request)
    success = {"status": "success"}
    if not (name := _hub_name(body.model)):
        await find_model(request, body.model)
        return await answer_progress(request, lambda report: report(success), body.streams)

    def run(report: ItemCallback) -> None:
        report({"status": "pulling manifest"})
        path = _download(name, report)
        report({"status": "writing manifest"})
        # Names in the store have Ollama's prefix of the hub.
        model_name = f"hf.co/{name}" if body.model.startswith(HUB_PREFIX) else body.model
        model_store.put(Manifest(model_name, llm=str(path)))
        report(success)

    return await answer_progress(request, run, body.streams)


@router.post("/api/push")
async def push(request: Request, body: Annotated[PushRequest, json_body(PushRequest)]) -> Response:
    """Push a model to the registry in its name."""
    registered = await find_model(request, body.model)
    name = ModelName.parse(body.model)
    check_host(name, _service(request).settings.allow_pushes)
    model_store, insecure = store(request), bool(body.insecure)

    def run(report: ItemCallback) -> None:
        push_model(registered, name, model_store, report, insecure=insecure)

    return await answer_progress(request, run, body.streams)


@router.post("/api/embed")
async def embed(
    request: Request, body: Annotated[EmbedRequest, json_body(EmbedRequest)]
) -> dict[str, Any]:
    """Unit vectors for texts."""
    started_at = time.perf_counter_ns()
    registered = await find_model(request, body.model)
    vectors, n_tokens = await _embedded(request, registered, body, body.texts)
    if body.dimensions:
        vectors = [shortened(vector, body.dimensions) for vector in vectors]
    return {
        "model": body.model,
        "embeddings": vectors,
        "total_duration": time.perf_counter_ns() - started_at,
        "load_duration": 0,
        "prompt_eval_count": n_tokens,
    }


@router.post("/api/embeddings")
async def embeddings(
    request: Request, body: Annotated[EmbeddingsRequest, json_body(EmbeddingsRequest)]
) -> dict[str, Any]:
    """A unit vector for a text, by the older API."""
    registered = await find_model(request, body.model)
    vectors, _ = await _embedded(request, registered, body, [body.prompt] if body.prompt else [])
    return {"embedding": vectors[0] if vectors else []}


@router.api_route("/api/ps", methods=["GET", "HEAD"])
async def ps(request: Request) -> dict[str, Any]:
    """The models that are loaded."""
    entries = []
    for loaded in _service(request).loaded():
        with suppress(ReellamaError):
            registered = await find_model(request, loaded.name)
            entry = await _entry(request, registered)
            entries.append(
                {
                    **{k: v for k, v in entry.items() if k != "modified_at"},
                    "expires_at": loaded.expires_at.isoformat(),
                    "size_vram": round(registered.size * loaded.batcher.model.on_gpu),
                    "context_length": loaded.n_ctx,
                }
            )
    return {"models": entries}


async def _entry(request: Request, registered: RegisteredModel) -> dict[str, Any]:
    """A model's entry in /api/tags."""
    chat_format = await _service(request).chat_formats.get(registered)
    return await asyncio.to_thread(registered.entry, chat_format)


def store(request: Request) -> ModelStore:
    """The server's store."""
    return ModelStore(_service(request).settings.store)


async def find_model(request: Request, name: str) -> RegisteredModel:
    """The model of this name. Raises ModelStoreError, status 404, if there is none."""
    return await asyncio.to_thread(look_up_model, name, _service(request).settings, store(request))


def _check_new_name(name: str, request: Request) -> None:
    """Raise ModelStoreError for an invalid name, or that of the server's bundle."""
    ModelName.parse(name)
    bundle = open_registered_bundle(_service(request).settings).name
    if short_name(name).lower() == bundle.lower():
        raise ModelStoreError(f"{bundle} is the server's own model: choose another name")


def _service(request: Request) -> Any:
    return request.app.state.service


def _as_parent(registered: RegisteredModel) -> Manifest:
    """A manifest to create another model from this one."""
    return replace(registered.manifest, parent=registered.manifest.name)


def _new_manifest(model_store: ModelStore, body: CreateRequest, parent: Manifest) -> Manifest:
    """The manifest of the model to create. Raises ModelStoreError for files that cannot be used."""
    from reellama.gguf_tools.format.reader import read_gguf

    digests = [*(body.files or {}).values(), *(body.adapters or {}).values()]
    for digest in digests:
        path = model_store.blobs.path(digest)
        if not path.is_file():
            raise ModelStoreError(f"blob {digest} not found; upload it first")
        read_gguf(path)
    if len(body.files or {}) > 1:
        raise ModelStoreError(
            "one GGUF file makes a model; join parts, and name adapters in 'adapters'"
        )
    files = {"llm": next(iter(body.files.values()))} if body.files else {}
    license_ = [body.license] if isinstance(body.license, str) else body.license
    generation_options(body.parameters or {})
    changes: dict[str, Any] = {
        **files,
        "adapters": tuple((body.adapters or {}).values()),
        "template": body.template,
        "system": body.system,
        "license": tuple(license_ or ()),
        "messages": tuple(
            {"role": m.role, "content": m.content or ""} for m in body.messages or ()
        ),
        "parameters": {**parent.parameters, **(body.parameters or {})},
    }
    return replace(parent, name=body.model, **{k: v for k, v in changes.items() if v})


def _quantized(
    model_store: ModelStore, manifest: Manifest, type_: str, report: ItemCallback
) -> Manifest:
    """Quantize a model into a new blob; returns the manifest with it."""
    from reellama.gguf_tools.quantization.quantize import quantize

    if not manifest.llm:
        raise ModelStoreError("quantize needs a GGUF: name it in 'files', or a model made from one")
    with temporary_folder(model_store.root, ".quantizing-") as folder:
        status = f"quantizing to {type_.upper()}"
        (quantized,) = quantize(
            model_store.file(manifest.llm),
            type_.upper(),
            folder / "model.gguf",
            progress=lambda what, done, total: report(
                {"status": status, "completed": done, "total": total}
            ),
        )
        return replace(manifest, llm=model_store.blobs.adopt(quantized.path))


def _hub_name(name: str) -> str:
    """OWNER/REPO[:WHAT] if the name is one of the hub, else ""."""
    for host in HUB_HOSTS:
        name = name.removeprefix(host)
    if "/" not in name:
        return ""
    return str(split_hub_name(name.removesuffix(":latest")))


def _download(name: str, report: ItemCallback) -> Path:
    """Download from the hub, and report progress as Ollama does."""
    from reellama.gguf_tools.download import hub
    from reellama.gguf_tools.download.pull import pull

    repo, _, revision = split_hub_name(name)
    digests: dict[str, str] = {}

    def report_progress(doing: str, done: int, total: int) -> None:
        what, _, file = doing.partition(" ")
        if file not in digests:
            digests[file] = f"sha256:{hub.file_info(repo, file, lambda _: None, revision).etag}"
        digest = digests[file]
        is_pulling = what == "downloading"
        status = f"pulling {digest[7:19]}" if is_pulling else "verifying sha256 digest"
        report({"status": status, "digest": digest, "total": total, "completed": done})

    return pull(name, report_progress, lambda message: report({"status": message}))


async def _embedded(
    request: Request,
    registered: RegisteredModel,
    body: EmbedRequest | EmbeddingsRequest,
    texts: list[str],
) -> tuple[list[list[float]], int]:
    if not texts:
        return [], 0
    embedding = _service(request).embed(
        registered.service_name,
        texts,
        truncate=not (isinstance(body, EmbedRequest) and body.truncate is False),
        keep_alive=body.keep_alive,
    )
    return await cancel_on_disconnect(request, embedding)
