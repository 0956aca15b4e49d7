"""`reellama ollama push`: the LLM of a bundle, and all that belongs to it, in an Ollama server."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest
from typer.testing import CliRunner

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.bundle import Bundle
from reellama.pipeline.cli.commands.ollama import app
from reellama.pipeline.integrations.ollama_push import push
from reellama.pipeline.llm.ollama_model import OllamaModel
from tests.helpers.ollama_server import Ollama, serve


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    with serve({}) as server:
        yield server


@pytest.fixture
def bundle(small_bundle: Path) -> Bundle:
    return Bundle.load(small_bundle)


def with_adapter(small_bundle: Path, folder: Path, scale: float) -> Bundle:
    """A copy of the bundle, with an adapter beside it."""
    shutil.copytree(small_bundle, folder)
    (folder / "lora.gguf").write_bytes(b"GGUF adapter")
    description = json.loads((folder / "bundle.json").read_text())
    description["lora"] = [["lora.gguf", scale]]
    (folder / "bundle.json").write_text(json.dumps(description))
    return Bundle.load(folder)


def test_the_llm_its_prompt_and_its_parameters_are_registered(
    ollama: Ollama, bundle: Bundle, small_llm: Path
) -> None:
    assert push(bundle, host=ollama.url) == "small"
    created = ollama.created["small"]
    (digest,) = created["files"].values()
    assert digest == f"sha256:{hashlib.sha256(small_llm.read_bytes()).hexdigest()}"
    assert len(ollama.blobs[digest]) == small_llm.stat().st_size
    assert created["system"] == bundle.system
    assert created["parameters"]["temperature"] == 0
    assert created["parameters"]["num_ctx"] == 4096
    assert "adapters" not in created


def test_chatml_becomes_a_template_of_ollamas(ollama: Ollama, bundle: Bundle) -> None:
    push(bundle, host=ollama.url)
    created = ollama.created["small"]
    assert created["template"].endswith("<|im_start|>assistant\n")
    assert "<|im_end|>" in created["parameters"]["stop"]


def test_another_template_is_left_to_ollama(
    ollama: Ollama, small_bundle: Path, tmp_path: Path
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "llm.gguf", "llama")
    writer.add_context_length(2048)
    writer.add_chat_template("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    folder = shutil.copytree(small_bundle, tmp_path / "bundle")
    description = json.loads((folder / "bundle.json").read_text())
    description["llm"] = str(tmp_path / "llm.gguf")
    (folder / "bundle.json").write_text(json.dumps(description))
    push(Bundle.load(folder), host=ollama.url)
    created = ollama.created["small"]
    assert "template" not in created
    assert created["parameters"] == {"temperature": 0, "num_ctx": 2048}


def test_what_the_server_has_is_not_sent_again(ollama: Ollama, bundle: Bundle) -> None:
    push(bundle, "one", ollama.url)
    push(bundle, "two", ollama.url)
    assert ollama.uploads == 1
    assert ollama.created.keys() == {"one", "two"}


def test_progress_counts_every_byte(ollama: Ollama, bundle: Bundle, small_llm: Path) -> None:
    reports: list[tuple[str, int, int]] = []
    push(bundle, host=ollama.url, report=lambda *what: reports.append(what))
    size = small_llm.stat().st_size
    for doing in ("checking", "sending"):
        counts = [done for what, done, _ in reports if what == f"{doing} {small_llm.name}"]
        assert counts == sorted(counts)
        assert counts[-1] == size
    assert reports[-1][0] == "success"


def test_an_adapter_goes_along(ollama: Ollama, small_bundle: Path, tmp_path: Path) -> None:
    push(with_adapter(small_bundle, tmp_path / "bundle", 1.0), host=ollama.url)
    (digest,) = ollama.created["small"]["adapters"].values()
    assert ollama.blobs[digest] == b"GGUF adapter"


def test_an_adapter_at_another_scale_is_refused(
    ollama: Ollama, small_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(ReellamaError, match=r"lora\.gguf.*scale 0\.5"):
        push(with_adapter(small_bundle, tmp_path / "bundle", 0.5), host=ollama.url)
    assert ollama.uploads == 0


def test_a_missing_adapter_is_one_line(ollama: Ollama, small_bundle: Path, tmp_path: Path) -> None:
    bundle = with_adapter(small_bundle, tmp_path / "bundle", 1.0)
    (bundle.folder / "lora.gguf").unlink()
    with pytest.raises(ReellamaError, match=r"cannot read .*lora\.gguf"):
        push(bundle, host=ollama.url)


def test_a_refusal_of_the_server_is_passed_on(ollama: Ollama, bundle: Bundle) -> None:
    ollama.fail = "unsupported architecture"
    with pytest.raises(ReellamaError, match="unsupported architecture"):
        push(bundle, host=ollama.url)


def test_a_missing_ollama_server_is_reported(bundle: Bundle) -> None:
    with pytest.raises(ReellamaError, match=r"no Ollama server answers at 127\.0\.0\.1:1:"):
        push(bundle, host="127.0.0.1:1")


def test_the_command_prints_the_name_under_which_it_can_be_used(
    ollama: Ollama, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    result = CliRunner().invoke(app, ["push", str(small_bundle), "--name", "eyes"])
    assert (result.exit_code, result.stdout) == (0, "eyes\n")
    assert OllamaModel("eyes").capabilities == {"completion"}
