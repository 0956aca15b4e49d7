"""Downloading from the hub: the real client against a hub on this machine that can misbehave."""

import re
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest

from reellama.gguf_tools.download import hub
from reellama.gguf_tools.download.pull import pull
from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.locate import find, stores
from tests.conftest import Result
from tests.gguf_tools.download.conftest import Q4, Q8
from tests.helpers.hub_server import Hub
from tests.helpers.terminal import REELLAMA, ROOT, Terminal

Run = Callable[..., Result]


def blobs() -> list[str]:
    """What is in the cache's folders of blobs."""
    return sorted(path.name for path in stores.hub_cache().glob("models--*/blobs/*"))


def cached() -> list[str]:
    """The names that can be found in the cache."""
    return sorted(path.name for path in stores.hub_cache().rglob("snapshots/*/**/*.gguf"))


def test_a_model_is_pulled_into_the_cache_that_all_tools_share(server: Hub, content: bytes) -> None:
    from huggingface_hub import try_to_load_from_cache

    path = pull("owner/Tiny-GGUF:Q4_K_M")
    assert path.name == Q4 and path.read_bytes() == content
    cache = stores.hub_cache()
    assert try_to_load_from_cache("owner/Tiny-GGUF", Q4, cache_dir=cache) == str(path)
    assert find.resolve("hf:owner/Tiny-GGUF") == path
    assert (path.resolve().parent.name, blobs()) == ("blobs", [server.etag(Q4, content)])


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("owner/Tiny-GGUF", Q4),
        ("hf:owner/Tiny-GGUF", Q4),
        ("owner/Tiny-GGUF:q8_0", Q8),
        (f"owner/Tiny-GGUF:{Q8}", Q8),
        ("https://huggingface.co/owner/Tiny-GGUF", Q4),
        ("https://huggingface.co/owner/Tiny-GGUF/tree/main", Q4),
        (f"https://huggingface.co/owner/Tiny-GGUF/blob/main/{Q8}", Q8),
        (f"https://huggingface.co/owner/Tiny-GGUF/resolve/main/{Q8}?download=true", Q8),
        ("hf.co/owner/Tiny-GGUF:Q8_0", Q8),
    ],
)
def test_a_file_is_chosen_by_its_quantization_name_or_address(
    server: Hub, name: str, chosen: str
) -> None:
    assert pull(name).name == chosen
    assert cached() == [chosen]


def test_a_revision_is_pulled_and_found_by_its_name(server: Hub) -> None:
    server.tags = {"v1"}
    path = pull("owner/Tiny-GGUF@v1:Q8_0")
    assert path.name == Q8
    assert find.resolve("hf:owner/Tiny-GGUF@v1:Q8_0") == path
    assert find.resolve(f"hf:owner/Tiny-GGUF@{path.parent.name}:Q8_0") == path
    with pytest.raises(GGUFError, match=r"hf:owner/Tiny-GGUF@v2:Q8_0 is not on this machine"):
        find.resolve("hf:owner/Tiny-GGUF@v2:Q8_0")
    with pytest.raises(GGUFError):
        pull("owner/Tiny-GGUF@v2:Q8_0")


def test_what_is_there_is_not_downloaded_again(server: Hub) -> None:
    first = pull("owner/Tiny-GGUF")
    server.log.clear()
    assert pull("owner/Tiny-GGUF") == first
    assert not server.downloads


def test_what_is_there_but_damaged_is(server: Hub, content: bytes) -> None:
    path = pull("owner/Tiny-GGUF")
    path.resolve().write_bytes(content[:5000])
    assert pull("owner/Tiny-GGUF").read_bytes() == content


def test_a_file_in_git_itself_is_checked_with_gits_hash(server: Hub, content: bytes) -> None:
    server.in_git.add(Q4)
    assert pull("owner/Tiny-GGUF").read_bytes() == content
    assert blobs() == [server.etag(Q4, content)] and len(blobs()[0]) == 40


def test_a_cut_connection_is_taken_up_where_it_broke(server: Hub, content: bytes) -> None:
    server.cuts = [100_000, 50_000]
    assert pull("owner/Tiny-GGUF").read_bytes() == content
    ranges = [request.range for request in server.downloads]
    assert ranges == ["bytes=0-", "bytes=100000-", "bytes=150000-"]
    assert sum(request.sent for request in server.downloads) == len(content)


def test_a_network_that_stays_away_leaves_what_came(server: Hub, content: bytes) -> None:
    server.cuts = [100_000, *[0] * hub.MAX_TRIES]
    with pytest.raises(GGUFError, match=r"cannot reach .*; the same command goes on where it st"):
        pull("owner/Tiny-GGUF")
    assert cached() == [] and blobs() == [f"{server.etag(Q4, content)}.incomplete"]
    server.log.clear()
    assert pull("owner/Tiny-GGUF").read_bytes() == content
    (request,) = server.downloads
    assert (request.range, request.sent) == ("bytes=100000-", len(content) - 100_000)


def test_a_server_that_sends_no_parts_sends_all_of_it_again(server: Hub, content: bytes) -> None:
    server.ranges = False
    server.cuts = [100_000]
    assert pull("owner/Tiny-GGUF").read_bytes() == content
    assert server.downloads[-1].sent == len(content)


def test_a_file_with_another_hash_does_not_stay(server: Hub) -> None:
    server.hashes[Q4] = "0" * 64
    with pytest.raises(GGUFError, match=rf"{Q4} was damaged on the way: its hash is \w+, not 000"):
        pull("owner/Tiny-GGUF")
    assert cached() == blobs() == []


def test_a_beginning_that_was_spoilt_is_found_out(server: Hub, content: bytes) -> None:
    part = stores.hub_cache() / "models--owner--Tiny-GGUF/blobs"
    part.mkdir(parents=True)
    (part / f"{server.etag(Q4, content)}.incomplete").write_bytes(bytes(1000))
    with pytest.raises(GGUFError, match="download it again"):
        pull("owner/Tiny-GGUF")
    assert pull("owner/Tiny-GGUF").read_bytes() == content


def test_a_file_that_is_no_gguf_does_not_stay(server: Hub) -> None:
    server.repos["owner/Tiny-GGUF"][Q4] = b"<html>" * 1000
    with pytest.raises(GGUFError, match=rf"be used: owner/Tiny-GGUF/{Q4} is not a GGUF file"):
        pull("owner/Tiny-GGUF")
    assert cached() == blobs() == []


def test_a_gguf_of_a_later_version_waits_for_an_update(server: Hub, content: bytes) -> None:
    later = server.repos["owner/Tiny-GGUF"][Q4] = content[:4] + b"\x09" + content[5:]
    for _ in range(2):
        with pytest.raises(GGUFError, match=rf"be used: owner/Tiny-GGUF/{Q4} is GGUF version 9"):
            pull("owner/Tiny-GGUF")
    assert len(server.downloads) == 1
    assert cached() == [] and blobs() == [f"{server.etag(Q4, later)}.incomplete"]


def test_a_size_that_is_not_the_files_does_not_go_on_for_ever(server: Hub, content: bytes) -> None:
    server.sizes[Q4] = len(content) + 10
    with pytest.raises(GGUFError, match=r"HTTP 416"):
        pull("owner/Tiny-GGUF")
    server.sizes[Q4] = len(content) - 10
    with pytest.raises(GGUFError, match="longer than the hub says"):
        pull("owner/Tiny-GGUF")
    assert cached() == []


def test_the_parts_of_a_split_model_come_together(server: Hub, content: bytes) -> None:
    parts = [f"Q8_0/Big-Q8_0-0000{i}-of-00002.gguf" for i in (1, 2)]
    server.repos["owner/Big"] = {parts[0]: content, parts[1]: content + b" "}
    messages: list[str] = []
    path = pull("owner/Big", report=messages.append)
    assert path.as_posix().endswith(parts[0])
    assert cached() == [Path(part).name for part in parts]
    assert messages == [f"{parts[0]} is one model in 2 files"]
    assert find.resolve("hf:owner/Big:Q8_0") == path
    del server.repos["owner/Big"][parts[1]]
    with pytest.raises(GGUFError, match=rf"lacks a part of {parts[0]}: {parts[1]}"):
        pull("owner/Big")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owner/Tiny-GGUF:Q5_K_M", r"has no Q5_K_M; choose one of: Q4_K_M, Q8_0$"),
        ("owner/nothing", r"the hub has no repository owner/nothing; check the name, or if it is"),
        ("owner/empty", r"hf:owner/empty has no GGUF file"),
        ("owner/x.git", r"owner/x.git cannot be a name on the hub"),
        ("nonsense", r"nonsense is not a name on the hub; write OWNER/REPO"),
        (
            "owner/gated",
            r"gated: accept its terms at http://.*/owner/gated, then log in with: hf a",
        ),
        ("owner/private", r"no repository owner/private; .* log in with: hf auth login"),
    ],
)
def test_what_cannot_be_had_says_what_to_do(server: Hub, name: str, message: str) -> None:
    files = {"x-Q8_0.gguf": b""}
    server.repos |= {"owner/empty": {"a.txt": b""}, "owner/gated": files, "owner/private": files}
    server.gated.add("owner/gated")
    server.private.add("owner/private")
    with pytest.raises(GGUFError, match=message) as error:
        pull(name)
    assert "\n" not in str(error.value)
    assert blobs() == []


def test_a_token_opens_a_gated_repository_and_stays_on_the_hub(
    server: Hub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.gated.add("owner/Tiny-GGUF")
    monkeypatch.setenv("HF_TOKEN", server.token)
    assert pull("owner/Tiny-GGUF").read_bytes() == content
    (request,) = server.downloads  # from the servers with the bytes, who must not see the token
    assert request.authorization is None
    assert any(request.authorization for request in server.log)


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_is_said_to_be(server: Hub, status: int) -> None:
    server.refusals = [(status, {"X-Error-Message": "Invalid credentials in Authorization header"})]
    with pytest.raises(GGUFError, match="with this token, or without one; log in with: hf auth"):
        pull("owner/Tiny-GGUF")


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "0"},
        {"Retry-After": format_datetime(datetime.now(timezone.utc) - timedelta(1), usegmt=True)},
        {"RateLimit": '"api";r=0;t=0'},
        {},
    ],
)
def test_a_hub_that_asks_to_wait_is_waited_for(
    server: Hub, content: bytes, headers: dict[str, str]
) -> None:
    server.refusals = [(429, headers), (503, {}), (429, headers)]
    messages: list[str] = []
    assert pull("owner/Tiny-GGUF", report=messages.append).read_bytes() == content
    assert messages[0] == "the hub asks to wait (HTTP 429): going on in 0 s" and len(messages) == 3


def test_the_wait_is_as_long_as_the_hub_asks(server: Hub) -> None:
    server.refusals = [(429, {"Retry-After": "1"})]
    start = time.monotonic()
    pull("owner/Tiny-GGUF")
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize(
    "refusals", [[(429, {"Retry-After": "3600"})], [(429, {"Retry-After": "0"})] * 99]
)
def test_nobody_waits_for_an_hour_or_for_ever(
    server: Hub, refusals: list[tuple[int, dict[str, str]]]
) -> None:
    server.refusals = refusals
    with pytest.raises(GGUFError, match=r"too busy for owner/Tiny-GGUF \(HTTP 429\); try again"):
        pull("owner/Tiny-GGUF")


def test_a_full_disk_is_told_before_a_byte_comes(server: Hub) -> None:
    server.sizes[Q4] = 10**18
    with pytest.raises(GGUFError, match=r"needs 909,494.7 TiB more, and .* free; make room, or"):
        pull("owner/Tiny-GGUF")
    assert not server.downloads and blobs() == []


def test_a_file_that_cannot_be_written_is_told(server: Hub) -> None:
    stores.hub_cache().parent.mkdir(parents=True)
    stores.hub_cache().write_text("in the way")
    with pytest.raises(GGUFError, match=rf"cannot save owner/Tiny-GGUF/{Q4} in .*: (Not a dir|Fi)"):
        pull("owner/Tiny-GGUF")


def test_a_disk_that_fills_up_keeps_what_came(server: Hub, content: bytes) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(GGUFError, match=r"File too large; the same command goes on where it"):
            pull("owner/Tiny-GGUF")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    server.log.clear()
    assert pull("owner/Tiny-GGUF").read_bytes() == content
    assert server.downloads[0].range == "bytes=100000-"


def test_a_file_that_would_lie_outside_of_the_repository_is_not_seen(server: Hub) -> None:
    files = server.repos["owner/Tiny-GGUF"]
    server.repos["owner/evil"] = {"../../../x.gguf": files[Q4], "/x.gguf": files[Q4]}
    with pytest.raises(GGUFError, match="has no GGUF file"):
        pull("owner/evil")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address where nothing answers: the port is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield url


def test_without_a_network_there_is_what_is_on_this_machine(
    server: Hub, request: pytest.FixtureRequest
) -> None:
    path = pull("owner/Tiny-GGUF")
    url = request.getfixturevalue("nowhere")
    messages: list[str] = []
    assert pull("owner/Tiny-GGUF", report=messages.append) == path
    assert messages[0].startswith(f"cannot reach {url} (") and messages[0].endswith(
        "machine is used"
    )
    with pytest.raises(GGUFError, match=rf"^cannot reach {url} \(.*refused.*; check the network"):
        pull("owner/Tiny-GGUF:Q8_0")


def test_offline_means_that_nobody_is_asked(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pull("owner/Tiny-GGUF")
    server.log.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pull("owner/Tiny-GGUF") == path
    with pytest.raises(GGUFError, match="HF_HUB_OFFLINE is set; unset it to use the network"):
        pull("owner/other")
    assert not server.log


def test_an_address_that_is_no_hub_is_said_to_be_none(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.refusals = [(200, {"Content-Type": "text/html"})]
    with pytest.raises(GGUFError, match="does not answer as a hub does"):
        pull("owner/Tiny-GGUF")
    monkeypatch.setenv("HF_ENDPOINT", "nonsense")
    with pytest.raises(GGUFError, match="cannot reach nonsense"):
        pull("owner/Tiny-GGUF")


def test_two_pulls_of_one_file_download_it_once(server: Hub, content: bytes) -> None:
    server.delay = 0.05
    messages: list[str] = []
    paths: list[Path] = []
    both = [
        threading.Thread(
            target=lambda: paths.append(pull("owner/Tiny-GGUF", report=messages.append))
        )
        for _ in range(2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(paths) == 2 and paths[0] == paths[1]
    assert sum(request.sent for request in server.downloads) == len(content)


def test_the_command_prints_the_path(server: Hub, reellama: Run, content: bytes) -> None:
    result = reellama("gguf", "pull", "owner/Tiny-GGUF:Q4_K_M")
    assert (result.status, result.err) == (0, "")
    assert Path(result.out.rstrip("\n")).read_bytes() == content
    result = reellama("gguf", "pull", "owner/Tiny-GGUF:Q2_K")
    assert (result.status, result.out) == (1, "")
    assert result.err == "reellama: hf:owner/Tiny-GGUF has no Q2_K; choose one of: Q4_K_M, Q8_0\n"


def test_a_killed_pull_goes_on_where_it_was(server: Hub, content: bytes) -> None:
    server.piece, server.delay = 20_000, 0.2
    partial = stores.hub_cache() / "models--owner--Tiny-GGUF/blobs"
    partial /= f"{server.etag(Q4, content)}.incomplete"
    with Terminal([*REELLAMA, "gguf", "pull", "owner/Tiny-GGUF"]) as terminal:
        terminal.wait_for(r"^downloading Tiny-Q4_K_M\.gguf .*\b([6-9]\d|1\d\d)\.\d/420\.1 kB")
        # The end of this block is its end: SIGKILL.
    had = partial.stat().st_size
    assert 50_000 < had < len(content) and cached() == []

    server.delay = 0.0
    server.log.clear()
    assert pull("owner/Tiny-GGUF").read_bytes() == content
    (request,) = server.downloads
    assert (request.range, request.sent) == (f"bytes={had}-", len(content) - had)
    assert blobs() == [server.etag(Q4, content)]


def test_the_hubs_client_is_imported_only_by_those_who_download() -> None:
    modules = ("pipeline.cli.app", "gguf_tools.download.pull", "gguf_tools.locate.find")
    names = ", ".join(f"reellama.{module}" for module in modules)
    code = f"import sys, {names}; print(*sys.modules)"
    command = [REELLAMA[0], "-c", code]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not re.search(r"\bhuggingface_hub\b", loaded)
