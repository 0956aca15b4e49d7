"""Names that no file can have are those of no model."""

from collections.abc import Iterator

import httpx
import pytest

from tests.helpers.live_server import serving
from tests.helpers.protocol_requests import FIELDS, error_message, send


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(n_ctx=512, n_parallel=1, store=tmp_path_factory.mktemp("store")) as url:
        yield url


NAMES = {
    "long": "a" * 5000,
    "long path": "/" + "a" * 5000,
    "many folders": "a/" * 2500 + "a",
    "long of the hub": "hf:" + "a" * 2500 + "/" + "b" * 2500,
    "long revision": "hf:a/b@" + "c" * 5000,
    "long of Ollama": "ollama:" + "a" * 5000,
    "NUL": "a\0b",
    "NUL in a path": "./a\0b",
    "NUL from the root": "/a\0b",
    "NUL of the hub": "hf:a\0/b",
    "nobody's folder": "~no-such-user-here/a.gguf",
    "long user": "~" + "a" * 5000,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", [path for path in FIELDS if path != "/api/pull"])
def test_a_name_that_no_file_can_have_is_that_of_no_model(url: str, path: str, name: str) -> None:
    reply = send(url, path, model=NAMES[name])
    assert reply.status_code == 404, reply.text[-300:]
    assert "not found" in error_message(reply, path)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_file_can_have_is_no_source(url: str, name: str) -> None:
    for path, fields in (
        ("/api/copy", {"source": NAMES[name], "destination": "other"}),
        ("/api/create", {"model": "other", "from": NAMES[name]}),
    ):
        unknown = {
            each: "nothing" if value == NAMES[name] else value for each, value in fields.items()
        }
        reply = send(url, path, **fields)
        assert reply.status_code == send(url, path, **unknown).status_code == 404
        assert "not found" in error_message(reply, path)
    for method in ("GET", "DELETE"):
        of_openai = httpx.request(method, f"{url}/v1/models/{name_in_url(NAMES[name][:3000])}")
        assert of_openai.status_code == 404
        assert (
            error_message(of_openai, "/v1/models")
            and of_openai.json()["error"]["code"] == "model_not_found"
        )
    deleted = httpx.request("DELETE", f"{url}/api/delete", json={"model": NAMES[name]})
    assert deleted.status_code == 404 and "not found" in error_message(deleted, "/api/delete")


def name_in_url(name: str) -> str:
    return httpx.URL("http://x/", params={"n": name}).query.decode()[2:].replace("+", "%20")


@pytest.mark.parametrize("name", ["long", "long path", "NUL", "NUL from the root"])
def test_a_name_that_no_file_can_have_is_not_pulled(url: str, name: str) -> None:
    reply = send(url, "/api/pull", model=NAMES[name], stream=False)
    assert 400 <= reply.status_code < 500 and error_message(reply, "/api/pull")


@pytest.mark.parametrize("image", ["/" + "a" * 3000 + ".png", "/a\0.png", "~no-such-user/a.png"])
def test_a_path_that_no_file_can_have_shows_nothing(url: str, image: str) -> None:
    reply = send(url, "/api/generate", images=[image])
    assert 400 <= reply.status_code < 500 and error_message(reply, "/api/generate")
