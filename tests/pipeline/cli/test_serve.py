"""`reellama serve` as a process: it says where it listens, stops when told to, prints units."""

import json
import os
import plistlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from reellama.gguf_tools.locate.vision_models import VisionModel
from reellama.pipeline.cli.commands.serve import _listen

pytestmark = pytest.mark.measures

READY = re.compile(r"serving on (http://\S+)")


PROGRAM = ("-m", "reellama")
# The same, and a thread of it that raises SystemExit in the one that runs the model.
MORTAL = """
import ctypes, threading, time
def kill():
    exception = ctypes.py_object(SystemExit)
    while True:
        for thread in threading.enumerate():
            if thread.name.startswith("batcher") and thread.ident:
                ident = ctypes.c_ulong(thread.ident)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, exception)
        time.sleep(0.5)  # a second one must not come while the first is told of
threading.Thread(target=kill, daemon=True).start()
from reellama.pipeline.cli.main import main
main()
"""
# The same, whose models are never done with what they compute.
BUSY = """
import threading
from reellama.pipeline.llm.batching.batcher import Batcher
Batcher.close = lambda self: threading.Event().wait()
from reellama.pipeline.cli.main import main
main()
"""


@contextmanager
def started(
    *options: str, program: Sequence[str] = PROGRAM
) -> Iterator[tuple["subprocess.Popen[str]", str, list[str]]]:
    """The server in a process of its own: the process, its address, and its lines on stderr."""
    command = [sys.executable, *program, "serve", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        lines: list[str] = []
        try:
            assert process.stderr is not None
            for line in process.stderr:
                lines.append(line)
                if found := READY.search(line):
                    break
            else:
                raise AssertionError("".join(lines))
            rest = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
            rest.start()
            yield process, found[1], lines
            process.wait(30)
            rest.join()
        finally:
            process.kill()


def test_serve_answers_logs_and_stops_cleanly() -> None:
    with started("--n-ctx", "256") as (process, url, lines):
        prompt = {"model": "mini", "prompt": "1, 2, 3,", "raw": True, "stream": False}
        short = {**prompt, "options": {"num_predict": 2}}
        reply = httpx.post(f"{url}/api/generate?secret=1", json=short, timeout=60)
        assert reply.status_code == 200
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0 or process.returncode == -signal.SIGTERM
    (event,) = [json.loads(line) for line in lines if line.startswith("{")]
    assert (event["event"], event["path"], event["status"]) == ("request", "/api/generate", 200)
    assert "secret" not in "".join(lines) and "Traceback" not in "".join(lines)
    assert not [child for child in children if child.is_running()]


def test_serve_takes_a_vision_gguf_by_its_path(vision_model: Callable[[str], VisionModel]) -> None:
    model = vision_model("gemma3")
    with started("--bundle", str(model.llm), "--n-ctx", "512") as (process, url, _):
        tags = httpx.get(f"{url}/api/tags", timeout=60).json()
        assert f"{model.llm.stem}:latest" in [entry["name"] for entry in tags["models"]]
        shown = httpx.post(f"{url}/api/show", json={"model": model.llm.stem}, timeout=60).json()
        assert {"vision", "video"} <= set(shown["capabilities"])
        process.send_signal(signal.SIGTERM)


def test_sigterm_in_the_middle_of_answers_texts_and_requests_ends_them() -> None:
    with started("--n-ctx", "4096") as (process, url, lines):
        schema = {"type": "array", "items": {"enum": ["tick", "tock"]}, "minItems": 5000}
        prompt = {
            "model": "mini",
            "prompt": "Go.",
            "format": schema,
            "options": {"num_predict": -1},
        }
        address = urlsplit(url)
        texts = json.dumps({"model": "mini", "input": ["word " * 3000] * 40}).encode()
        head = b"POST /api/embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
        with (
            httpx.stream("POST", f"{url}/api/generate", json=prompt, timeout=60) as reply,
            socket.create_connection((address.hostname, address.port)) as whole,
            socket.create_connection((address.hostname, address.port)) as half,
        ):
            next(reply.iter_lines())
            whole.sendall(head % len(texts) + texts)
            half.sendall(head % len(texts) + texts[:-1])
            time.sleep(1)  # until both are read
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        assert time.monotonic() - begin < 20
    assert "Traceback" not in "".join(lines), "".join(lines)


def test_sigterm_ends_a_computation_that_nothing_interrupts() -> None:
    with started("--n-ctx", "256", program=("-c", BUSY)) as (process, url, lines):
        prompt = {"model": "mini", "prompt": "Go.", "stream": False, "options": {"num_predict": 1}}
        httpx.post(f"{url}/api/generate", json=prompt, timeout=120)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert "in the middle of a computation" in lines[-1]


def test_a_process_whose_model_thread_has_died_ends_with_a_status_that_says_so() -> None:
    with started("--n-ctx", "256", program=("-c", MORTAL)) as (process, url, lines):
        prompt = {"model": "mini", "prompt": "1, 2, 3,", "raw": True, "stream": False}
        while process.poll() is None:  # what ends within one answer's own code ends that alone
            with suppress(httpx.HTTPError):
                httpx.post(f"{url}/api/generate", json=prompt, timeout=120)
        assert process.wait(60) == 1
    assert "the thread of a model has died" in lines[-1] and "Traceback" not in lines[-1]


def test_a_taken_port_is_said_in_a_line(reellama: Callable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = reellama("serve", "--port", port)
    assert result.status == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose" in result.err
    assert "--port" in result.err and "Traceback" not in result.err


def test_small_answers_are_sent_at_once() -> None:
    """TCP does not hold them back until the client has acknowledged the ones before."""
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_that_is_none_of_this_machine_is_called_so(reellama: Callable) -> None:
    result = reellama("serve", "--host", "300.1.1.1")
    assert result.status == 1 and result.err.endswith("; choose another --host\n")
    assert "--port" not in result.err


def test_a_folder_that_is_not_there_cannot_be_allowed(reellama: Callable, tmp_path: Path) -> None:
    result = reellama("serve", "--port", "0", "--allow-dir", tmp_path / "nodir")
    assert result.status == 1
    assert result.err == f"reellama: --allow-dir {tmp_path}/nodir: there is no such folder\n"


def test_a_bundle_that_is_not_there_is_said_at_once(reellama: Callable) -> None:
    result = reellama("serve", "--bundle", "nothing-there")
    assert result.status == 1
    assert "nothing-there" in result.err and result.err.count("\n") == 1


def test_units_start_the_same_command(
    reellama: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    systemd = reellama("serve", "--port", "8000", "--unit", "systemd", "--allow-dir", "my videos")
    assert systemd.status == 0
    (line,) = [each for each in systemd.out.splitlines() if each.startswith("ExecStart=")]
    assert line.endswith(f"serve --port 8000 --allow-dir '{tmp_path / 'my videos'}'")
    assert os.path.isabs(line.removeprefix("ExecStart=").split()[0])
    options = ("--gpu-layers", "auto", "--tiles", "--queue", "9", "--fps", "2.0", "--tokens", "64")
    launchd = plistlib.loads(reellama("serve", "--unit=launchd", *options).out.encode())
    assert launchd["ProgramArguments"][-1 - len(options) :] == ["serve", *options]
    assert reellama("serve", "--unit", "upstart").status == 2


@pytest.fixture
def bare_home(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and none of the variables that a server reads."""
    for name in [*os.environ]:
        if name.startswith(("REELLAMA_", "HF_", "OLLAMA_", "OMP_")):
            monkeypatch.delenv(name)
    return empty_home


def test_units_read_variables_from_a_file_and_never_hold_them(
    reellama: Callable, bare_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "serve.env" not in reellama("serve", "--unit", "systemd").err
    monkeypatch.setenv("REELLAMA_TOKEN", "secret")
    monkeypatch.setenv("HF_HOME", "/models")
    file = bare_home / ".config/reellama/serve.env"
    for kind in ("systemd", "launchd"):
        unit = reellama("serve", "--unit", kind)
        assert "HF_HOME, REELLAMA_TOKEN" in unit.err and str(file) in unit.err
        assert "secret" not in unit.out + unit.err
    file.parent.mkdir(parents=True)
    file.write_text("# for the service\nREELLAMA_TOKEN=secret\n")
    unit = reellama("serve", "--unit", "systemd")
    assert "EnvironmentFile=-%h/.config/reellama/serve.env\n" in unit.out
    assert "HF_HOME" in unit.err and "REELLAMA_TOKEN" not in unit.err


@pytest.mark.parametrize("has_file", [False, True])
def test_a_property_list_starts_the_server_with_the_files_variables(
    has_file: bool, reellama: Callable, empty_home: Path
) -> None:
    file = empty_home / ".config/reellama/serve.env"
    file.parent.mkdir(parents=True)
    if has_file:
        file.write_text('REELLAMA_TOKEN="two words"\n')
    arguments = plistlib.loads(reellama("serve", "--unit=launchd").out.encode())["ProgramArguments"]
    program = arguments.index("serve") - 1
    show = "import os; print(os.environ.get('REELLAMA_TOKEN'))"
    environment = {"HOME": str(empty_home)}
    command = [*arguments[:program], sys.executable, "-c", show]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout == ("two words\n" if has_file else "None\n")


def test_a_server_for_everyone_is_pointed_out(reellama: Callable, bare_home: Path) -> None:
    for host, is_open in (("0.0.0.0", True), ("::", True), ("127.0.0.2", False), ("::1", False)):
        unit = reellama("serve", "--unit", "systemd", "--host", host)
        assert (f"--host {host} without REELLAMA_TOKEN" in unit.err) == is_open
    file = bare_home / ".config/reellama/serve.env"
    file.parent.mkdir(parents=True)
    file.write_text("REELLAMA_TOKEN=secret\n")
    assert reellama("serve", "--unit", "systemd", "--host", "0.0.0.0").err == ""


def test_layers_on_the_gpu_are_a_number_auto_or_all(reellama: Callable) -> None:
    result = reellama("serve", "--gpu-layers", "lots")
    assert result.status == 2
    assert "'lots' is neither a number nor auto nor all" in " ".join(result.err.split())
