"""Errors that no route answers, in the shape of the path's protocol."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.helpers.live_server import serving


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(n_ctx=256) as url:
        yield url


@pytest.mark.parametrize(("method", "status"), [("GET", 404), ("DELETE", 404)])
def test_an_unknown_path_is_told_in_the_words_of_its_protocol(
    url: str, method: str, status: int
) -> None:
    def ask(path: str) -> dict[str, Any]:
        reply = httpx.request(method, f"{url}{path}")
        assert reply.status_code == status
        found: dict[str, Any] = reply.json()
        return found

    assert ask("/api/nothing") == {"error": "Not Found"}
    assert ask("/v1/nothing")["error"]["type"] == "invalid_request_error"
    assert ask("/v1/messages/nothing")["error"]["type"] == "not_found_error"


def test_a_method_that_a_path_does_not_have_is_told_too(url: str) -> None:
    for path in ("/api/chat", "/v1/chat/completions", "/v1/files"):
        reply = httpx.put(f"{url}{path}")
        assert reply.status_code == 405 and reply.headers["allow"]
        error = reply.json()["error"]
        assert (error if path.startswith("/api") else error["message"]) == "Method Not Allowed"
