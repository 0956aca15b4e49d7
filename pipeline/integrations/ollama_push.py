"""Register the LLM of a bundle, with all that belongs to it, in an Ollama server.

What is registered speaks as the bundle does but sees nothing: Ollama takes no soft tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.format.split_names import part_names
from reellama.gguf_tools.text.chat_template import CHATML, ChatTemplate
from reellama.models.bundle import Bundle
from reellama.pipeline.llm.ollama_model import ollama_client
from reellama.pipeline.progress_callbacks import StepProgress

CHUNK_BYTES = 1 << 20  # bytes read and sent at a time
MAX_CTX = 4096  # positions; more cost memory for every conversation
# ChatML in the words of Go's templates, which are Ollama's. Other templates it knows by their text.
GO_CHATML = (
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n"
)
CHATML_STOP = ["<|im_start|>", "<|im_end|>"]


def push(
    bundle: Bundle,
    name: str | None = None,
    host: str | None = None,
    report: StepProgress | None = None,
) -> str:
    """Register the LLM of `bundle` as `name` (the bundle's own, if None) and return that name.

    Blobs that the server has are not sent again. Raises ReellamaError when the server is absent or
    refuses, and when the LLM or an adapter is of a kind that Ollama cannot take.
    """
    name = name or bundle.config.name.lower()
    llm = bundle.llm_path()
    if (n := len(part_names(llm.name))) > 1:
        raise ReellamaError(
            f"{llm} is one model in {n} files, and Ollama takes it in one: "
            f"join them first (reellama gguf join {llm.name} -o MODEL.gguf)"
        )
    for path, scale in bundle.lora:
        if scale != 1:
            raise ReellamaError(
                f"{path}: the bundle applies it at scale {scale}, and Ollama only at 1: "
                f"merge it into the LLM first (reellama gguf quantize ... --lora {path}={scale:g})"
            )
    with ollama_client(host) as client:
        files = {llm.name: _upload(client, llm, report)}
        adapters = {path.name: _upload(client, path, report) for path, _ in bundle.lora}
        request = {**_settings(bundle, llm), "files": files, "adapters": adapters or None}
        for part in client.create(model=name, stream=True, **request):
            if report:
                report(part.status or "", part.completed or 0, part.total or 0)
    return name


def _settings(bundle: Bundle, llm: Path) -> dict[str, Any]:
    """System prompt, template and parameters, as Ollama's create takes them."""
    file = read_gguf(llm)
    parameters: dict[str, Any] = {"temperature": 0, "num_ctx": min(MAX_CTX, file.n_ctx_train)}
    settings: dict[str, Any] = {"system": bundle.system or None, "parameters": parameters}
    if _is_chatml(ChatTemplate.from_gguf(file)):
        settings["template"] = GO_CHATML
        parameters["stop"] = CHATML_STOP
    return settings


def _is_chatml(template: ChatTemplate) -> bool:
    """Whether conversations come out as in ChatML, which stands in for a missing template too."""
    roles = ("system", "user", "assistant", "user")
    conversation = [{"role": role, "content": f"It is {i}."} for i, role in enumerate(roles)]
    rendered = [
        "".join(segment.text for segment in each.render(conversation))
        for each in (template, ChatTemplate(CHATML))
    ]
    return rendered[0] in (rendered[1], template.bos + rendered[1])


def _upload(client: ollama.Client, path: Path, report: StepProgress | None) -> str:
    """Send a file, unless the server has it; returns its digest."""
    try:
        size = path.stat().st_size
        sha256 = hashlib.sha256()
        for piece in _pieces(path, f"checking {path.name}", size, report):
            sha256.update(piece)
        digest = f"sha256:{sha256.hexdigest()}"
        # The public `create_blob` tells nothing on its way, and sends what is there already.
        http = client._client
        if http.head(f"/api/blobs/{digest}").status_code == 200:
            return digest
        content = _pieces(path, f"sending {path.name}", size, report)
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        reply = http.post(f"/api/blobs/{digest}", content=content, headers=headers)
    except OSError as error:
        if error.filename is None:
            raise
        raise ReellamaError(f"cannot read {path}: {error.strerror}") from error
    if reply.is_error:
        raise ollama.ResponseError(reply.text, reply.status_code)
    return digest


def _pieces(path: Path, what: str, size: int, report: StepProgress | None) -> Iterator[bytes]:
    done = 0
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece
            done += len(piece)
            if report:
                report(what, done, size)
