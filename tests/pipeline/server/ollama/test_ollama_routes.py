"""The server as Ollama's Python client meets it: conversations about video, models, errors."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import ollama
import pytest

from reellama.gguf_tools.download import hub
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm.engine import Engine, Text
from tests.helpers import lora_adapters, tiny_model
from tests.helpers.hub_server import Hub, running
from tests.helpers.live_server import serving

pytestmark = pytest.mark.numeric

INFILL = ("pre", "suf", "mid")

PROMPT = "1, 2, 3, 4,"

HI = {"messages": [{"role": "user", "content": "Hi."}]}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, square_video: Path) -> Iterator[str]:
    store = tmp_path_factory.mktemp("store")
    with serving(store=store, n_ctx=1024, allow_dirs=(square_video.parent,)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> ollama.Client:
    return ollama.Client(url)


@pytest.fixture
def video(square_video: Path) -> bytes:
    return square_video.read_bytes()


def test_logprobs_come_with_each_token(client: ollama.Client) -> None:
    reply = client.generate(
        "mini", "Say yes.", logprobs=True, top_logprobs=3, options={"num_predict": 4}
    )
    assert reply.logprobs and len(reply.logprobs) == reply.eval_count
    for each in reply.logprobs:
        assert each.logprob <= 0 and each.top_logprobs and len(each.top_logprobs) == 3
        assert each.logprob == pytest.approx(each.top_logprobs[0].logprob)
    assert "".join(each.token for each in reply.logprobs) == reply.response


def test_an_answer_keeps_to_a_schema(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    reply = client.generate("mini", "x or y?", format=schema)
    assert json.loads(reply.response or "")["a"] in ("x", "y")


def test_a_stop_text_and_raw_prompts(client: ollama.Client) -> None:
    counted = {"enum": ["one two three four"]}
    options = {"num_predict": 30, "stop": ["three"]}
    reply = client.generate("mini", PROMPT, raw=True, format=counted, options=options)
    assert reply.response == '"one two ' and reply.done_reason == "stop"
    assert reply.prompt_eval_count == len(Tokenizer.from_path(find.smollm2()).encode(PROMPT))


def test_a_context_is_continued(client: ollama.Client) -> None:
    first = client.generate("mini", "My name is Ada.", options={"num_predict": 4})
    assert first.context and first.prompt_eval_count
    n_known = len(first.context)
    second = client.generate("mini", "What is my name?", context=first.context)
    alone = client.generate("mini", "What is my name?")
    assert second.prompt_eval_count and alone.prompt_eval_count
    assert second.prompt_eval_count == n_known + alone.prompt_eval_count
    assert list(second.context or ())[:n_known] == list(first.context)
    third = client.generate("mini", "And?", context=second.context, system="Be brief.")
    assert len(third.context or ()) > len(second.context or ())


def test_text_between_two_others_is_written_where_the_model_can(
    client: ollama.Client, url: str, tmp_path: Path
) -> None:
    """A model of bytes, three of which are made its tokens for that."""
    ends = {f"tokenizer.ggml.fim_{name}_token_id": 3 + i for i, name in enumerate(INFILL)}
    digest = client.create_blob(tiny_model.write(tmp_path / "infill.gguf", keys=ends))
    client.create("infill", files={"infill.gguf": digest})
    options = {"num_predict": 2}
    reply = client.generate("infill", "abc", suffix="de", options=options)
    assert reply.context and reply.context[: -(reply.eval_count or 0)] == [
        *(3, *(3 + byte for byte in b"abc"), 4, *(3 + byte for byte in b"de"), 5)
    ]
    asked = {"model": "infill", "prompt": "abc", "suffix": "de", "max_tokens": 2}
    told = httpx.post(f"{url}/v1/completions", json=asked, timeout=60).json()
    assert told["usage"]["prompt_tokens"] == 8
    client.delete("infill")


def test_a_conversation_too_long_is_refused_where_truncate_is_false(url: str) -> None:
    said = [{"role": ("user", "assistant")[i % 2], "content": "hi " * 30} for i in range(101)]
    options = {"num_predict": 1, "num_ctx": 256}
    asked = {"model": "mini", "messages": said, "stream": False, "options": options}
    assert httpx.post(f"{url}/api/chat", json=asked, timeout=60).status_code == 200
    refused = httpx.post(f"{url}/api/chat", json={**asked, "truncate": False}, timeout=60)
    assert refused.status_code == 400 and "the context has 256" in refused.json()["error"]


def test_an_empty_prompt_loads_and_keep_alive_0_unloads(client: ollama.Client) -> None:
    assert client.generate("mini", keep_alive="5m").done_reason == "load"
    assert [each.model for each in client.ps().models] == ["mini:latest"]
    assert client.chat("mini", keep_alive=0).done_reason == "unload"
    assert client.ps().models == []


def test_tags_and_show_describe_the_bundle(client: ollama.Client) -> None:
    (mini,) = (each for each in client.list().models if each.model == "mini:latest")
    assert mini.details and mini.details.parameter_size == "134.52M"
    assert (mini.details.family, mini.details.quantization_level) == ("llama", "Q4_1")
    shown = client.show("mini")
    assert shown.capabilities == ["completion", "vision", "video", "tools"]
    assert shown.modelinfo and shown.modelinfo["llama.embedding_length"] == 576
    assert shown.modelinfo["general.parameter_count"] == 134_515_008


def test_a_model_is_made_copied_shown_and_deleted(client: ollama.Client) -> None:
    client.create("pirate", from_="mini", system="Talk like a pirate.", parameters={"seed": 1})
    client.copy("pirate", "me/captain:v2")
    shown = client.show("me/captain:v2")
    assert "Talk like a pirate." in (shown.modelfile or "")
    assert (shown.parameters or "").split() == ["seed", "1"]
    names = {each.model for each in client.list().models}
    assert {"mini:latest", "pirate:latest", "me/captain:v2"} <= names
    for name in ("pirate", "me/captain:v2"):
        client.delete(name)
    with pytest.raises(ollama.ResponseError, match="not found") as error:
        client.delete("pirate")
    assert error.value.status_code == 404


def test_a_model_is_made_from_an_uploaded_file(client: ollama.Client, tiny_llama: Path) -> None:
    digest = client.create_blob(tiny_llama)
    told = client.create("tiny", files={"tiny.gguf": digest}, stream=True)
    assert [part.status for part in told][-2:] == ["writing manifest", "success"]
    assert client.show("tiny").capabilities == ["completion", "tools"]
    client.delete("tiny")
    with pytest.raises(ollama.ResponseError, match="not found; upload it"):
        client.create("tiny", files={"tiny.gguf": digest})


def test_a_model_is_made_smaller(client: ollama.Client, tiny_llama: Path) -> None:
    digest = client.create_blob(tiny_llama)
    client.create("smaller", files={"tiny.gguf": digest}, quantize="q8_0")
    details = client.show("smaller").details
    assert details and details.quantization_level == "Q8_0"
    client.delete("smaller")


def test_an_adapter_is_part_of_the_model_that_it_was_created_with(
    client: ollama.Client, tiny_llama: Path, tmp_path: Path
) -> None:
    adapter = lora_adapters.write_adapter(tmp_path / "adapter.gguf", lora_adapters.pairs(seed=1))
    model, change = client.create_blob(tiny_llama), client.create_blob(adapter)
    client.create("plain", files={"tiny.gguf": model})
    client.create("changed", files={"tiny.gguf": model}, adapters={"adapter.gguf": change})
    # Both are made to say the same, and each finds it as likely as its model does.
    said, options = '"left"', {"num_predict": 6, "num_ctx": 256}
    likely = []
    for name, lora in (("plain", []), ("changed", [(adapter, 1.0)])):
        reply = client.generate(
            name, "abc", raw=True, format={"enum": ["left"]}, logprobs=True, options=options
        )
        assert reply.response == said and reply.logprobs
        likely.append(np.array([token.logprob for token in reply.logprobs]))
        with Engine(tiny_llama, n_ctx=256, n_threads=1, lora=lora) as engine:
            ids = engine.tokenizer.encode(said)
            [expected] = engine.logprobs([Text("abc", special=True)], [ids])
        np.testing.assert_allclose(likely[-1], expected, atol=0.02)
    assert np.abs(likely[0] - likely[1]).max() > 0.5


def test_a_blob_must_have_the_digest_that_it_is_sent_under(url: str) -> None:
    digest = f"sha256:{hashlib.sha256(b'abc').hexdigest()}"
    assert httpx.head(f"{url}/api/blobs/{digest}").status_code == 404
    reply = httpx.post(f"{url}/api/blobs/{digest}", content=b"abd")
    assert reply.status_code == 400 and "digest mismatch" in reply.json()["error"]
    assert httpx.post(f"{url}/api/blobs/{digest}", content=b"abc").status_code == 201
    assert httpx.head(f"{url}/api/blobs/{digest}").status_code == 200
    assert httpx.post(f"{url}/api/blobs/sha256:..%2f..", content=b"").status_code in (400, 404)


def test_a_model_is_pulled_from_the_hub(
    client: ollama.Client, tiny_llama: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tiny_llama.read_bytes()
    with running(Hub({"owner/Tiny-GGUF": {"Tiny-Q8_0.gguf": content}})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "FIRST_PAUSE", 0.01)
        told = list(client.pull("hf.co/owner/Tiny-GGUF:Q8_0", stream=True))
        with pytest.raises(ollama.ResponseError, match="no repository owner/none"):
            client.pull("hf.co/owner/none")
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert (told[0].status, told[-1].status) == ("pulling manifest", "success")
    assert {part.digest for part in told if part.digest} == {digest}
    assert any(part.completed == part.total == len(content) for part in told)
    assert client.show("hf.co/owner/Tiny-GGUF:Q8_0").details is not None
    client.delete("hf.co/owner/Tiny-GGUF:Q8_0")


def test_embeddings_in_both_forms(client: ollama.Client) -> None:
    found = client.embed("mini", ["a cat", "a dog"], dimensions=2)
    assert len(found.embeddings) == 2
    for vector in found.embeddings:
        assert len(vector) == 2 and sum(x * x for x in vector) == pytest.approx(1)
    assert client.embeddings("mini", "a cat").embedding


@pytest.mark.parametrize(
    ("path", "asked", "status", "message"),
    [
        ("chat", {"model": "none", "messages": []}, 404, "model 'none' not found"),
        ("show", {"model": "/etc/passwd"}, 404, "model 'passwd' not found"),
        ("chat", {"messages": []}, 400, "model: Field required"),
        ("generate", {"model": "mini", "prompt": "a", "suffix": "b"}, 400, "not support insert"),
        ("generate", {"model": "mini", "prompt": "a", "format": "xml"}, 400, "invalid format"),
        ("generate", {"model": "mini", "prompt": "a", "top_logprobs": 21}, 400, "less than or eq"),
        ("generate", {"model": "mini", "keep_alive": "soon"}, 400, "keep_alive is 'soon'"),
        ("generate", {"model": "mini", "options": {"top_p": "x"}}, 400, "must be of type float32"),
        ("generate", {"model": "mini", "prompt": "a", "images": ["%%"]}, 400, "base64"),
        ("chat", {"model": "mini", "tools": [{}], **HI}, 400, 'a tool is {"type": "function"'),
        ("create", {"model": "a"}, 400, "neither 'from' or 'files'"),
        ("create", {"model": "../a", "from": "mini"}, 400, "invalid model name"),
        ("copy", {"source": "mini", "destination": "a b"}, 400, "invalid model name"),
    ],
)
def test_errors_have_ollamas_shape(
    url: str, path: str, asked: dict[str, object], status: int, message: str
) -> None:
    reply = httpx.post(f"{url}/api/{path}", json=asked)
    assert reply.status_code == status and message in reply.json()["error"]


def test_curl_without_a_content_type_is_understood(url: str) -> None:
    body = json.dumps({"model": "mini"})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert httpx.post(f"{url}/api/show", content=body, headers=headers).status_code == 200
    reply = httpx.post(f"{url}/api/show", content=b"{", headers=headers)
    assert reply.status_code == 400 and "Invalid JSON" in reply.json()["error"]
    assert httpx.get(url).text == "Ollama is running"
    assert httpx.head(url).status_code == 200
