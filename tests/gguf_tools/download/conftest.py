"""A hub on this machine with one small repository."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reellama.gguf_tools.download import hub
from tests.helpers.hub_server import Hub, running

Q4, Q8 = "Tiny-Q4_K_M.gguf", "Tiny-Q8_0.gguf"


@pytest.fixture
def content(tiny_llama: Path) -> bytes:
    return tiny_llama.read_bytes()


@pytest.fixture
def server(empty_home: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repository, and a client that does not take its time over trying again."""
    files = {"README.md": b"# Tiny", Q4: content, Q8: content[:-64] + bytes(64)}
    with running(Hub({"owner/Tiny-GGUF": files})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # as it was at start
        monkeypatch.setattr(hub, "FIRST_PAUSE", 0.01)
        yield server
