"""`reellama ask` through a running `reellama serve`: the same answer, without loading anything."""

import base64
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import skimage
from PIL import Image

from reellama.pipeline.cli.commands.ask_server import can_be_asked
from reellama.pipeline.cli.options import AnswerOptions, FrameOptions, ModelOptions
from reellama.pipeline.server.local import local_socket
from tests.conftest import Result
from tests.helpers.film import steady, write_film
from tests.helpers.terminal import ROOT
from tests.pipeline.cli.test_serve import started

Run = Callable[..., Result]

QUESTION = "What happens?"


@pytest.fixture(scope="module")
def quick(small_bundle: Path) -> list[str]:
    return [f"--bundle={small_bundle}", "--n-ctx=256", "--max-tokens=6"]


@pytest.fixture(scope="module")
def server(small_bundle: Path, runtime_folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Address and log of a server with a token, and with frames that `ask` does not want; `asked`
    says what of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REELLAMA_TOKEN", "secret")
        options = (f"--bundle={small_bundle}", "--n-ctx=256", "--threads=1", "--frames=1")
        with started(*options) as (process, url, log):
            yield url, log
            process.send_signal(signal.SIGTERM)
    assert not list(runtime_folder.glob(local_socket.PATTERN))


def asked(server: tuple[str, list[str]]) -> list[str]:
    """Paths of the requests so far, without those of this function."""
    url, log = server
    mark = f"/asked/{time.monotonic_ns()}"
    httpx.get(url + mark)
    until = time.monotonic() + 60
    while not any(mark in line for line in log):  # the log comes through a thread, in order
        assert time.monotonic() < until, log
        time.sleep(0.01)
    paths = [json.loads(line)["path"] for line in log if line.startswith("{")]
    return [path for path in paths if not path.startswith("/asked/")]


def test_the_answer_is_the_servers_and_the_same_as_ones_own(
    reellama: Run, square_video: Path, quick: list[str], server: tuple[str, list[str]]
) -> None:
    one_thread = "--threads=1"  # an option that a server cannot follow
    alone = reellama("ask", square_video, QUESTION, *quick, one_thread)
    before = asked(server)
    through = reellama("ask", square_video, QUESTION, *quick)
    assert asked(server)[len(before) :] == ["/api/local", "/api/chat"]
    assert through == alone
    assert through.out.strip()
    described = reellama("describe", square_video, *quick)
    assert described == reellama("describe", square_video, *quick, "--no-server")
    assert asked(server)[len(before) :].count("/api/chat") == 2


def test_an_answer_of_a_server_imports_nothing_heavy(
    square_video: Path, quick: list[str], server: tuple[str, list[str]]
) -> None:
    code = (
        "import sys\nfrom reellama.pipeline.cli.main import run\n"
        f"run({['ask', str(square_video), QUESTION, *quick]!r})\n"
        "heavy = {'torch', 'open_clip', 'llama_cpp', 'av', 'numpy', 'httpx', 'jinja2'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_an_error_of_a_file_is_the_same_with_and_without_a_server(
    reellama: Run,
    square_video: Path,
    quick: list[str],
    server: tuple[str, list[str]],
    tmp_path: Path,
) -> None:
    (tmp_path / "half.mp4").write_bytes(square_video.read_bytes()[:-300] + b"\0" * 200)
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("half.mp4", "text.mp4", "missing.mp4"):
        through = reellama("ask", tmp_path / name, QUESTION, *quick)
        assert through == reellama("ask", tmp_path / name, QUESTION, *quick, "--no-server")
        assert str(tmp_path / name) in through.err or through.status == 0


@pytest.mark.parametrize("seen_by", ["nobody", "ask", "a client"])
def test_notes_on_a_video_are_printed_when_a_server_answers(
    reellama: Run, square_video: Path, quick: list[str], server: tuple[str, list[str]], seen_by: str
) -> None:
    """Also where what was made of the video is kept already."""
    frames = {"nobody": 60, "ask": 61, "a client": 62}[seen_by]
    if seen_by == "ask":
        reellama("ask", square_video, QUESTION, *quick, f"--frames={frames}", "--no-server")
    if seen_by == "a client":
        video = base64.b64encode(square_video.read_bytes()).decode()
        message = {"role": "user", "content": QUESTION, "videos": [video]}
        options = {"frames": frames, "num_predict": 1}
        body = {"model": "small", "messages": [message], "options": options, "stream": False}
        token = {"Authorization": "Bearer secret"}
        answer = httpx.post(f"{server[0]}/api/chat", json=body, headers=token, timeout=60)
        assert answer.status_code == 200
        [note] = json.loads(answer.headers["x-video-notes"])
        assert f"asked for {frames} frames" in note
    before = asked(server)
    result = reellama("ask", square_video, QUESTION, *quick, f"--frames={frames}")
    assert asked(server)[len(before) :] == ["/api/local", "/api/chat"]
    assert f"asked for {frames} frames" in result.err
    alone = reellama("ask", square_video, QUESTION, *quick, f"--frames={frames}", "--no-server")
    assert result == alone


def test_the_footage_caveat_is_printed_when_a_server_answers(
    reellama: Run, runtime_folder: Path, tmp_path: Path
) -> None:
    photo = Image.open(Path(skimage.__file__).parent / "data/chelsea.png").convert("RGB")
    wide = np.asarray(photo.resize((420, 280)))
    cat = write_film(tmp_path / "cat.mp4", steady(1), draw=lambda i: wide[:, i : i + 360])
    ask = ("ask", cat, "What is in it?", "--n-ctx=512")
    with started("--n-ctx=512", "--threads=1") as (process, url, log):
        through = reellama(*ask)
        token = {"Authorization": f"Bearer {os.environ.get('REELLAMA_TOKEN', '')}"}
        video = base64.b64encode(cat.read_bytes()).decode()
        message = {"role": "user", "content": "What is in it?", "videos": [video]}
        body = {"model": "mini", "messages": [message], "stream": False}
        network = httpx.post(f"{url}/api/chat", json=body, headers=token, timeout=60).json()
        process.send_signal(signal.SIGTERM)
    assert sum('"/api/chat"' in line for line in log) == 2, log
    assert through == reellama(*ask, "--no-server")
    assert "cat.mp4: real footage: mini names what it sees" in through.err
    assert "remark" not in network


def test_clients_of_the_network_have_none_of_these_rights(
    square_video: Path, server: tuple[str, list[str]], small_bundle: Path, runtime_folder: Path
) -> None:
    url = server[0]
    token = {"Authorization": "Bearer secret"}
    assert httpx.get(url + local_socket.ABOUT).status_code == 401
    assert httpx.get(url + local_socket.ABOUT, headers=token).status_code == 404
    message = {"role": "user", "content": "?", "videos": [str(square_video)]}
    body = {"model": "small", "messages": [message]}
    assert httpx.post(f"{url}/api/chat", json=body, headers=token).status_code == 403
    (path,) = runtime_folder.glob(local_socket.PATTERN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(runtime_folder.stat().st_mode) == 0o700


VIDEO = [Path(__file__)]  # any file


def may_ask(**changed: object) -> bool:
    """Whether a server may be asked where these options are not at their defaults."""
    groups = [FrameOptions(), ModelOptions(), AnswerOptions()]
    for i, group in enumerate(groups):
        names = {name: value for name, value in changed.items() if hasattr(group, name)}
        groups[i] = replace(group, **names)  # type: ignore[type-var]
    return can_be_asked(VIDEO, "What?", *groups)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("frames", 4),
        ("fps", 2.0),
        ("sampling", "scenes"),
        ("start", "0:01"),
        ("system", "You are a pirate."),
        ("tokens", 64),
        ("pooling", "mean"),
        ("tiles", True),
        ("model_only", True),
        ("llm", "other.gguf"),
        ("temperature", 0.5),
        ("seed", 3),
        ("max_tokens", 9),
        ("stop", ["."]),
    ],
)
def test_options_that_a_request_carries_go_through_a_server(option: str, value: object) -> None:
    assert may_ask(**{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lora", ["a.gguf"]),
        ("threads", 2),
        ("gpu_layers", "all"),
        ("system", ""),
        ("grammar", Path("a.gbnf")),
        ("json_schema", Path("a.json")),
    ],
)
def test_with_other_options_ask_answers_by_itself(option: str, value: object) -> None:
    assert not may_ask(**{option: value})


def test_what_files_answer_and_what_is_no_single_file_is_not_asked_of_a_server(
    tmp_path: Path,
) -> None:
    options = FrameOptions(), ModelOptions(), AnswerOptions()
    assert can_be_asked(VIDEO, None, *options)
    for question in ("How long is it?", "What is said?", "Was passiert im Video?", "-", " "):
        assert not can_be_asked(VIDEO, question, *options)
    alone = FrameOptions(), ModelOptions(model_only=True), AnswerOptions()
    assert can_be_asked(VIDEO, "How long is it?", *alone)
    assert not can_be_asked(VIDEO * 2, "What?", *options)
    assert not can_be_asked([tmp_path], "What?", *options)


@contextmanager
def impostor(folder: Path, reply: bytes) -> Iterator[list[bytes]]:
    """A socket where something else answers every connection with `reply`; what it was sent."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / "serve-1.sock"
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(65536))
                    connection.sendall(reply)

        threading.Thread(target=answer, daemon=True).start()
        yield heard
        listener.shutdown(socket.SHUT_RDWR)
    path.unlink()


def reply_of(about: object) -> bytes:
    body = json.dumps(about).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def other_version(bundle: Path) -> bytes:
    about = local_socket.identity(str(bundle), None, None, False)
    return reply_of({**about, "version": "0.0.1", "n_ctx": 4096, "model": "small"})


@pytest.mark.parametrize("kind", ["older", "garbage", "list", "silent", "open to others"])
def test_a_socket_of_something_else_is_passed_over(
    reellama: Run,
    square_video: Path,
    small_bundle: Path,
    quick: list[str],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    replies = {"older": other_version(small_bundle), "list": reply_of([1]), "garbage": b"\0\1\2"}
    with impostor(tmp_path / "reellama", replies.get(kind, b"")) as heard:
        if kind == "open to others":
            (tmp_path / "reellama").chmod(0o777)
        result = reellama("ask", square_video, QUESTION, *quick)
        assert (result.status, bool(result.out.strip())) == (0, True)
        assert len(heard) == (kind != "open to others")
        assert not any(b"/api/chat" in each for each in heard)


def test_a_server_that_is_killed_leaves_a_socket_that_misleads_nobody(
    reellama: Run, square_video: Path, quick: list[str], runtime_folder: Path, small_bundle: Path
) -> None:
    options = (f"--bundle={small_bundle}", "--n-ctx=4096", "--threads=1")
    with started(*options) as (process, *_):
        stale = runtime_folder / f"serve-{process.pid}.sock"
        assert stale in local_socket.sockets()
        schema = {"type": "array", "items": {"enum": ["tick", "tock"]}, "minItems": 2000}
        body = {"model": "small", "messages": [{"role": "user", "content": "?"}], "format": schema}
        transport = httpx.HTTPTransport(uds=str(stale))
        with (
            httpx.Client(transport=transport, base_url="http://localhost") as client,
            client.stream("POST", "/api/chat", json=body, timeout=60) as answer,
        ):
            next(answer.iter_lines())
            os.kill(process.pid, signal.SIGKILL)
    assert stale.exists()
    assert reellama("ask", square_video, QUESTION, *quick, "--threads=1").status == 0
    result = reellama("ask", square_video, QUESTION, *quick)
    assert (result.status, bool(result.out.strip())) == (0, True)
    with local_socket.listening() as own:
        assert own is not None and own[0].exists()
        assert not stale.exists()
    assert not own[0].exists()
