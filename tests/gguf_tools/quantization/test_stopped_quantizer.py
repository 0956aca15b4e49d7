"""A quantizer that dies, or is stopped at any moment: whole files stay, half ones do not."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.model_summary import quantization
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.quantization import quantize_child
from reellama.gguf_tools.quantization.quantize import quantize
from tests.helpers import tiny_model


def test_a_quantizer_that_dies_takes_nothing_with_it(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys, os; sys.stdin.readline(); sys.stderr.write('ASSERT failed\\n'); os.abort()"
    monkeypatch.setattr(quantize_child, "COMMAND", (sys.executable, "-c", code))
    with pytest.raises(ReellamaError, match="ended with signal 6: ASSERT failed"):
        quantize(tiny_llama, "Q8_0", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes a type with a search (IQ4_NL) seconds."""
    path = tmp_path_factory.mktemp("slow") / "slow-f32.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "N_EMBD", 1024)
        patch.setattr(tiny_model, "N_FF", 4096)
        tiny_model.write(path)
    return path


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stop_at_any_moment_leaves_no_file(
    slow: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    code = "from reellama.pipeline.cli.main import main; main()"
    command = [sys.executable, "-c", code, "gguf", "quantize", str(slow), "Q8_0", "IQ4_NL"]
    child = subprocess.Popen([*command, "--output", f"{tmp_path}/"], stderr=subprocess.PIPE)
    first, second = (tmp_path / f"slow-{name}.gguf" for name in ("Q8_0", "IQ4_NL"))
    deadline = time.monotonic() + 120
    # The parent makes an empty file; from the first bytes on it is the quantizer's.
    while not any(path.stat().st_size for path in tmp_path.glob(f".{second.name}*")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(stop)
    _, err = child.communicate(timeout=60)
    assert child.returncode == (130 if stop == signal.SIGINT else -stop)
    assert b"Traceback" not in err
    deadline = time.monotonic() + 120
    while len(list(tmp_path.iterdir())) > 1 and time.monotonic() < deadline:
        time.sleep(0.02)  # the quantizer removes its half file when it finds itself alone
    assert list(tmp_path.iterdir()) == [first]
    assert quantization(read_gguf(first)) == "Q8_0"


def test_a_child_that_is_left_alone_removes_the_files_of_jobs_it_has_not_begun(
    tmp_path: Path,
) -> None:
    half = tmp_path / "half.gguf"
    half.touch()
    job = quantize_child.QuantizeJob("none.gguf", str(half), ftype=7)
    line = json.dumps(asdict(job)) + "\n"  # and then stdin ends: the parent is gone
    subprocess.run(quantize_child.COMMAND, input=line, text=True, check=False)
    assert not half.exists()


def test_a_child_that_is_left_alone_removes_all_files_of_a_split_model(tmp_path: Path) -> None:
    folder = tmp_path / ".split-x"
    folder.mkdir()
    (folder / "half-00001-of-00002.gguf").touch()
    job = quantize_child.QuantizeJob("none", str(folder / "half"), ftype=7, keep_split=True)
    line = json.dumps(asdict(job)) + "\n"
    subprocess.run(quantize_child.COMMAND, input=line, text=True, check=False)
    assert not folder.exists()
