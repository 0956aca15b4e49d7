"""The LLM in PyTorch: what it refuses, and what it leaves as it was."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.training.frozen_llm import FrozenLLM

pytestmark = pytest.mark.numeric


def test_a_file_that_pytorch_would_read_wrongly_is_refused(
    tiny_llama: Path, tmp_path: Path
) -> None:
    name = b"llama.attention.head_count_kv"
    data = tiny_llama.read_bytes()
    other = tmp_path / "without.gguf"
    other.write_bytes(data.replace(name, name[:-2] + b"xx"))
    with pytest.raises(ReellamaError, match="lacks llama.attention.head_count_kv"):
        FrozenLLM(other)


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.CRITICAL])
def test_loading_leaves_the_log_of_transformers_as_it_was(
    level: int, tiny_llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """After an error too; nothing is said while it loads."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(level)
    try:
        FrozenLLM(tiny_llama)
        assert logger.level == level
        other = tmp_path / "other.gguf"
        other.write_bytes(tiny_llama.read_bytes().replace(b"llama", b"otter"))
        with pytest.raises(ReellamaError, match="PyTorch cannot train with this GGUF"):
            FrozenLLM(other)
        assert logger.level == level
    finally:
        logger.setLevel(before)
    assert "transformers" not in "".join(capfd.readouterr())
