"""Models sent to a registry, as Ollama's client asks for it."""

import json
from collections.abc import Iterator

import ollama
import pytest

from reellama.gguf_tools.locate import find
from reellama.models.bundle import Bundle
from tests.helpers.live_server import serving
from tests.helpers.model_registry_server import Registry, running

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with running(Registry()) as registry:
        yield registry


@pytest.fixture(scope="module")
def client(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ollama.Client]:
    store = tmp_path_factory.mktemp("store")
    with serving(store=store, n_ctx=256, allow_pushes=(registry.host,)) as url:
        yield ollama.Client(url)


def made(client: ollama.Client, name: str) -> str:
    """A model of this name with a part of each kind."""
    client.create(
        name,
        from_="mini",
        system="Be short.",
        template="{{ messages[0].content }}",
        license="Free.",
        parameters={"temperature": 0.5},
        messages=[{"role": "user", "content": "Hi."}],
    )
    return name


def test_a_model_is_pushed_with_all_that_belongs_to_it(
    client: ollama.Client, registry: Registry
) -> None:
    name = made(client, f"{registry.host}/owner/mine:small")
    told = list(client.push(name, insecure=True, stream=True))
    assert (told[0].status, told[-1].status) == ("retrieving manifest", "success")
    layers = registry.layers("owner/mine:small")
    assert layers["model"] == find.smollm2().read_bytes()
    assert layers["adapter"] == Bundle.load("mini").lora[0][0].read_bytes()
    assert (layers["system"], layers["license"]) == (b"Be short.", b"Free.")
    assert layers["template"] == b"{{ messages[0].content }}"
    assert json.loads(layers["params"]) == {"temperature": 0.5}
    assert json.loads(layers["messages"]) == [{"role": "user", "content": "Hi."}]
    sent = [part for part in told if part.total == len(layers["model"])]
    assert sent[0].completed == 0 and sent[-1].completed == sent[-1].total
    assert not registry.uploads


def test_layers_that_the_registry_has_are_not_sent_again(
    client: ollama.Client, registry: Registry
) -> None:
    client.push(made(client, f"{registry.host}/owner/twice"), insecure=True)
    n_uploads = registry.n_uploads
    client.push(f"{registry.host}/owner/twice", insecure=True)
    assert registry.n_uploads == n_uploads and "owner/twice:latest" in registry.manifests


@pytest.mark.parametrize("name", ["mine", "example.org/owner/mine", "127.0.0.1:1/owner/mine"])
def test_models_are_pushed_only_to_allowed_registries(client: ollama.Client, name: str) -> None:
    with pytest.raises(ollama.ResponseError, match="--allow-push") as refused:
        client.push(made(client, name), insecure=True)
    assert refused.value.status_code == 403


@pytest.mark.parametrize(("status", "said"), [(401, "wants an account"), (500, "status 500")])
def test_a_refusal_of_the_registry_is_told(
    client: ollama.Client, registry: Registry, status: int, said: str
) -> None:
    name = made(client, f"{registry.host}/owner/refused{status}")
    client.create(name, from_=name, system=f"New words {status}.")
    registry.refusal = status
    try:
        with pytest.raises(ollama.ResponseError, match=said):
            client.push(name, insecure=True)
    finally:
        registry.refusal = None


def test_a_model_is_not_led_to_another_host(client: ollama.Client, registry: Registry) -> None:
    name = made(client, f"{registry.host}/owner/led")
    client.create(name, from_=name, system="Words that it does not have.")
    registry.location = "http://127.0.0.1:9/v2/owner/led/blobs/uploads/1"
    try:
        with pytest.raises(ollama.ResponseError, match="another host"):
            client.push(name, insecure=True)
    finally:
        registry.location = None
