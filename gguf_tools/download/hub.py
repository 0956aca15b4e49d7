"""The Hugging Face hub: list the files of a repository, and download one with resumption.

Sessions, tokens, addresses and errors are those of the hub's own client, huggingface_hub, which is
imported late because its import takes a second. This module adds what the client lacks (as of
version 2): to resume a download of an earlier process, and to limit how long a server may make it
wait.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from reellama.gguf_tools.errors import GGUFError

T = TypeVar("T")
MessageCallback = Callable[[str], None]
ByteProgress = Callable[[int], None]  # bytes so far

MAX_TRIES = 5  # in a row without a byte, before a download fails
FIRST_PAUSE = 1.0  # seconds before the second try; twice as long before each one after that
MAX_WAIT = 310.0  # seconds that a server may ask for; the hub counts requests in 5 minutes
# "nothing remaining, for so many seconds": draft-ietf-httpapi-ratelimit-headers-09.
RATE_LIMIT = re.compile(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)")
HASH = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")  # SHA-256, or git's SHA-1; blobs are named by it
TRUE = {"1", "ON", "YES", "TRUE"}  # how the hub's client spells it


class HubError(GGUFError):
    """The hub cannot be reached, or does not have or give the file."""


class Unreachable(HubError):
    """The hub cannot be reached; callers use the files on this machine."""


@dataclass(frozen=True)
class HubFile:
    """One file of a repository at one commit.

    Attributes:
        etag: its SHA-256 in hexadecimal, or git's SHA-1 of it where it is kept in git itself.
        size: in bytes.
        url: where it is read, through redirects.
    """

    repo: str
    name: str
    commit: str
    etag: str
    size: int
    url: str
    revision: str = ""  # "" for main

    def __str__(self) -> str:
        return f"{self.repo}/{self.name}"


def endpoint() -> str:
    """The address of the hub: HF_ENDPOINT, or the client's default."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def list_files(repo: str, report: MessageCallback, revision: str = "") -> list[str]:
    """Return the paths of all files in a repository.

    Raises HubError, which says what to do, and Unreachable if the hub does not answer.
    """
    _check_online(repo)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    ask = partial(HfApi(endpoint()).model_info, repo, revision=revision or None, timeout=_timeout())
    try:
        names = [sibling.rfilename for sibling in _with_retries(ask, repo, report).siblings or []]
        return [name for name in names if not {"", ".", ".."} & set(name.split("/"))]
    except HFValidationError as error:
        raise HubError(f"{repo} cannot be a name on the hub; check how it is written") from error
    except (KeyError, TypeError, ValueError) as error:  # a page where JSON should be
        raise _no_hub() from error


def file_info(repo: str, name: str, report: MessageCallback, revision: str = "") -> HubFile:
    """Return the hub's metadata of a file, without a download. Raises HubError."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo, name, revision=revision or None, endpoint=endpoint())
    ask = partial(get_hf_file_metadata, url, timeout=_timeout(), endpoint=endpoint())
    metadata = _with_retries(ask, repo, report)
    if not metadata.commit_hash or metadata.size is None:
        raise _no_hub()
    etag = metadata.etag or ""
    if not HASH.fullmatch(etag):
        raise HubError(f"the hub has no hash of {repo}/{name}, so a download could not be checked")
    url = hf_hub_url(repo, name, revision=metadata.commit_hash, endpoint=endpoint())
    return HubFile(repo, name, metadata.commit_hash, etag, metadata.size, url, revision)


def download(file: HubFile, part: Path, progress: ByteProgress, report: MessageCallback) -> None:
    """Download the rest of a file to `part`, which has its beginning or does not exist.

    After an error `part` stays, and the next call resumes there. Raises HubError if the download
    fails, and OSError if `part` cannot be written.
    """
    with part.open("ab") as out:
        if out.tell() > file.size:
            _empty(out)
        try:
            while out.tell() < file.size:
                # `_read_some` fails only if it got no byte, so tries are counted from the last one.
                _with_retries(
                    partial(_read_some, file, out, progress), file.repo, report, tries=MAX_TRIES
                )
        except Unreachable as error:
            raise Unreachable(f"{error}; the same command goes on where it stopped") from error


def add_to_cache(file: HubFile, cache: Path, report: MessageCallback) -> Path:
    """Let the hub's client register a downloaded blob in its cache; returns the file's path.

    Raises HubError.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    ask = partial(
        hf_hub_download,
        file.repo,
        file.name,
        revision=file.revision or None,
        cache_dir=cache,
        endpoint=endpoint(),
    )
    try:
        path = Path(_with_retries(ask, file.repo, report))
    except LocalEntryNotFoundError as error:
        raise Unreachable(f"cannot reach {endpoint()} any more; try again later") from error
    if file.commit not in path.parts:
        raise HubError(f"{file} was changed on the hub in this moment; download it again")
    return path


def _read_some(file: HubFile, out: BinaryIO, progress: ByteProgress) -> None:
    """Read the rest of a file, or as much as arrives before the connection breaks."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # in its documentation
        build_hf_headers,
        hf_raise_for_status,
    )

    start = out.tell()
    headers = build_hf_headers(library_name="reellama")
    headers |= {"Range": f"bytes={start}-", "Accept-Encoding": "identity"}
    try:
        with get_session().stream(
            "GET", file.url, headers=headers, timeout=_timeout(), follow_redirects=True
        ) as response:
            hf_raise_for_status(response)
            if start and response.status_code != HTTPStatus.PARTIAL_CONTENT:
                _empty(out)  # the server sends all of it again
            for chunk in response.iter_bytes():
                out.write(chunk)
                progress(out.tell())
                if out.tell() > file.size:
                    raise HubError(f"{file} is longer than the hub says it is; try again later")
    except _network_errors():
        if out.tell() <= start:
            raise
    if out.tell() <= start:
        raise HubError(f"the hub sends {start:,} of the {file.size:,} bytes of {file} and no more")


def _empty(out: BinaryIO) -> None:
    out.seek(0)
    out.truncate()


def _with_retries(call: Callable[[], T], repo: str, report: MessageCallback, tries: int = 1) -> T:
    """Repeat a call while the hub says "try later", and up to `tries` times on network errors."""
    from huggingface_hub.errors import HfHubHTTPError

    failures = 0
    while True:
        try:
            return call()
        except HfHubHTTPError as error:
            failures += 1
            _wait_or_raise(error, failures, repo, report)
        except _network_errors() as error:
            failures += 1
            if failures >= tries:
                reason = str(error) or type(error).__name__
                raise Unreachable(
                    f"cannot reach {endpoint()} ({reason}); check the network, and HTTPS_PROXY and "
                    "HF_ENDPOINT if they are set"
                ) from error
            time.sleep(FIRST_PAUSE * 2 ** (failures - 1))


def _wait_or_raise(error: Any, failures: int, repo: str, report: MessageCallback) -> None:
    """Wait as the hub asks; raises HubError for an error that waiting does not resolve."""
    status = error.response.status_code
    if status != HTTPStatus.TOO_MANY_REQUESTS and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        _explain(error, repo)
    requested = _retry_after(error.response.headers)
    wait = FIRST_PAUSE * 2 ** (failures - 1) if requested is None else requested
    if failures >= MAX_TRIES or wait > MAX_WAIT:
        later = f"in {wait:.0f} seconds" if requested else "later"
        raise HubError(
            f"the hub is too busy for {repo} (HTTP {status}); try again {later}; it gives more to "
            "those who log in: hf auth login"
        ) from error
    report(f"the hub asks to wait (HTTP {status}): going on in {wait:.0f} s")
    time.sleep(wait)


def _explain(error: Any, repo: str) -> NoReturn:
    """Raise HubError with what was wrong and what to do."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )

    page, login = f"{endpoint()}/{repo}", "log in with: hf auth login (or set HF_TOKEN)"
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        message = f"{repo} is gated: accept its terms at {page}, then {login}"
    elif isinstance(error, DisabledRepoError):
        message = f"{repo} was disabled by the hub; see {page}"
    elif isinstance(error, RemoteEntryNotFoundError):
        message = f"the file is not in {repo} any more; see {page}"
    elif isinstance(error, RepositoryNotFoundError) or status == HTTPStatus.NOT_FOUND:
        message = f"the hub has no repository {repo}; check the name, or if it is private, {login}"
    elif status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        message = f"the hub does not give {repo} with this token, or without one; {login}"
    else:
        message = f"the hub refused {repo} (HTTP {status}); see {page}"
    raise HubError(message) from error


def _retry_after(headers: Any) -> float | None:
    """The seconds to wait that a response asks for, in any of three header formats."""
    if limit := RATE_LIMIT.search(headers.get("RateLimit", "")):
        return float(limit[1])
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _check_online(repo: str) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in TRUE:
            raise Unreachable(f"cannot download {repo}: {name} is set; unset it to use the network")


def _network_errors() -> tuple[type[Exception], ...]:
    """The network errors of the client's HTTP library: httpx, or httpx2 from its version 2 on."""
    from huggingface_hub import get_session

    library = sys.modules[type(get_session()).__module__.partition(".")[0]]
    return library.RequestError, library.InvalidURL


def _no_hub() -> HubError:
    return HubError(
        f"{endpoint()} does not answer as a hub does; check the network and HF_ENDPOINT"
    )


def _timeout() -> float:
    from huggingface_hub import constants

    return constants.HF_HUB_DOWNLOAD_TIMEOUT
