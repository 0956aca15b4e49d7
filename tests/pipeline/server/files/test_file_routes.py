"""A video is sent once, and named by its id from then on."""

import base64
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from PIL import Image
from starlette.responses import FileResponse

from reellama.pipeline.server.media.decode_process import decode
from reellama.pipeline.video.clip import read_frames
from tests.helpers.live_server import data_url, serving

SIZE = 400_000  # bytes of all files


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def url(store: Path) -> Iterator[str]:
    with serving(n_ctx=1024, n_parallel=1, store=store, max_files=SIZE) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        yield client


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return file.getvalue()


def send_form(url: str, filename: bytes, more: str = "", **fields: str) -> httpx.Response:
    """A form with a picture, sent as no client would write it."""
    body = b"".join(
        f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    )
    head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n' % filename
    headers = {"content-type": f"multipart/form-data; boundary=B{more}"}
    content = body + head + png("red") + b"\r\n--B--\r\n"
    return httpx.post(f"{url}/v1/files", content=content, headers=headers, timeout=60)


def files_in(store: Path) -> list[Path]:
    """All that the server keeps of files."""
    return list((store / "files").glob("*"))


def shown(client: OpenAI, *parts: dict[str, Any]) -> openai.types.CompletionUsage:
    """What a question about these parts takes."""
    content: Any = [*parts, {"type": "text", "text": "What happens?"}]
    said: Any = [{"role": "user", "content": content}]
    usage = client.chat.completions.create(model="mini", messages=said, max_tokens=1).usage
    assert usage is not None
    return usage


def decoded(url: str) -> float:
    """How many videos were decoded so far."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    found = [line for line in lines if line.startswith('reellama_videos_total{found="miss"}')]
    return float(found[0].split()[1]) if found else 0.0


def test_a_file_is_kept_listed_read_and_deleted(client: OpenAI, square_video: Path) -> None:
    content = square_video.read_bytes()
    sent = client.files.create(file=("C:\\clips\\square.mp4", content), purpose="user_data")
    assert (sent.filename, sent.bytes, sent.purpose) == ("square.mp4", len(content), "user_data")
    other = client.files.create(
        file=("still.png", png("red")),
        purpose="vision",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert other.expires_at == other.created_at + 3600
    assert {each.id for each in client.files.list()} == {sent.id, other.id}
    assert [each.id for each in client.files.list(purpose="vision")] == [other.id]
    pages = client.files.list(limit=1)
    assert len(pages.data) == 1 and pages.has_more and len(list(pages)) == 2
    assert client.files.retrieve(sent.id) == sent
    assert client.files.content(sent.id).read() == content
    for each in (sent, other):
        assert client.files.delete(each.id).deleted
    for gone in (sent.id, "file-1", "../mini"):
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(gone)


def test_a_question_names_the_file_and_decodes_it_once(
    client: OpenAI, url: str, square_video: Path
) -> None:
    video = square_video.read_bytes() + b"\0" * 16  # other bytes than those of other tests
    sent = client.files.create(file=("square.mp4", video), purpose="user_data")
    before = decoded(url)
    inline = base64.b64encode(video).decode()
    for part in (
        {"type": "input_video", "file_id": sent.id},
        {"type": "file", "file": {"file_id": sent.id}},
        {"type": "input_file", "file_id": sent.id},
        {"type": "input_image", "file_id": sent.id},
        {"type": "input_video", "data": inline},
        {"type": "input_video", "url": f"data:video/mp4;base64,{inline}"},
        {"type": "file", "file": {"file_data": f"data:video/mp4;base64,{inline}"}},
        {"type": "video_url", "video_url": f"data:video/mp4;base64,{inline}"},
    ):
        assert shown(client, part).prompt_tokens > 80
    said = {"role": "user", "content": "What happens?", "videos": [{"file_id": sent.id}]}
    asked = {"model": "mini", "messages": [said], "stream": False, "options": {"num_predict": 1}}
    assert httpx.post(f"{url}/api/chat", json=asked, timeout=300).json()["prompt_eval_count"] > 80
    assert decoded(url) == before + 1
    client.files.delete(sent.id)
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        shown(client, {"type": "input_video", "file_id": sent.id})


def test_each_video_is_watched_as_its_part_says(
    client: OpenAI, url: str, square_video: Path
) -> None:
    """With the words of the command line, beside the part's type."""
    video = {"type": "video_url", "video_url": data_url(square_video)}
    before = decoded(url)
    whole = shown(client, {**video, "name": "a.mp4"}, {**video, "start": "0:01", "frames": 2})
    assert decoded(url) == before + 2
    # A name stands before a video where there are several.
    assert whole.prompt_tokens > shown(client, video, {**video, "start": 1}).prompt_tokens
    for wrong, reason in (
        ({"start": "soon"}, "must be a time"),
        ({"frames": 257}, "at most 256"),
        ({"frames": "many"}, "frames"),
        ({"pooling": "nothing"}, "no pooling named"),
        ({"tokens": 5}, "always makes"),
        ({"times": [0, 1]}, "times are those of images"),
    ):
        with pytest.raises(openai.BadRequestError, match=reason):
            shown(client, {**video, **wrong})


def test_frames_of_ones_own_are_a_video_at_their_times(
    client: OpenAI, url: str, square_video: Path
) -> None:
    pictures = []
    for frame in read_frames(square_video, frames=3).frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "PNG")
        pictures.append(base64.b64encode(file.getvalue()).decode())
    before = decoded(url)
    slow = {"type": "input_video", "images": pictures, "times": [0, 10, 20.5]}
    one = shown(client, slow)
    assert shown(client, {**slow, "times": [100, 101, 102]}).prompt_tokens == one.prompt_tokens
    said = {"role": "user", "content": "?", "images": pictures, "times": [0, 10, 20.5]}
    asked = {"model": "mini", "messages": [said], "stream": False, "options": {"num_predict": 1}}
    assert httpx.post(f"{url}/api/chat", json=asked, timeout=300).status_code == 200
    assert decoded(url) == before + 2  # the last was the first again
    for times, reason in (([0, 1], "one for each"), ([0, 2, 1], "later than"), ([], "times")):
        with pytest.raises(openai.BadRequestError, match=reason):
            shown(client, {**slow, "times": times})
    video = base64.b64encode(square_video.read_bytes()).decode()
    with pytest.raises(openai.BadRequestError, match="must be pictures"):
        shown(client, {"type": "input_video", "images": [video], "times": [0]})


def test_a_file_that_is_no_video_or_too_large_is_not_kept(
    client: OpenAI, store: Path, square_video: Path
) -> None:
    def send(content: bytes, **more: Any) -> Any:
        return client.files.create(file=("a", content), purpose="user_data", **more)

    with pytest.raises(openai.BadRequestError, match="not a picture or video"):
        send(b"some text")
    with pytest.raises(openai.BadRequestError, match="3600 to 2592000"):
        send(png("red"), expires_after={"anchor": "created_at", "seconds": 5})
    with pytest.raises(openai.APIStatusError, match="no room for a file") as caught:
        send(square_video.read_bytes() + bytes(SIZE))
    assert caught.value.status_code == 413
    assert not list((store / "files").glob("*"))


def test_a_body_that_is_no_form_with_a_file_is_refused(url: str) -> None:
    for sent in (
        {"json": {"file": "x"}},
        {"data": {"purpose": "user_data"}},
        {"files": {"file": ("a.mp4", b"")}},
        {"content": b"--x\r\nbroken", "headers": {"content-type": "multipart/form-data"}},
        {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=y"}},
    ):
        reply = httpx.post(f"{url}/v1/files", timeout=60, **sent)
        assert reply.status_code == 400, reply.text
        assert reply.json()["error"]["message"]


def test_a_file_goes_when_its_time_is_over(
    client: OpenAI, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = client.files.create(
        file=("a.png", png("blue")),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    later = time.time() + 3601
    monkeypatch.setattr(
        "reellama.pipeline.server.files.file_store.time", type("T", (), {"time": lambda: later})
    )
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(sent.id)
    assert not list((store / "files").glob("file-*"))


@pytest.mark.parametrize(
    ("charset", "filename"),
    [
        ("utf-7", b"+2AA-.png"),
        ("unicode_escape", b"\\ud800.png"),
        ("undefined", b"a.png"),
        ("utf-16", b"a.png"),
        ("latin-1", b"a.png"),
        ("utf-8; charset=UTF-7", b"+2AA-.png"),
    ],
)
def test_a_form_in_another_charset_is_refused_and_not_kept(
    url: str, store: Path, charset: str, filename: bytes
) -> None:
    reply = send_form(url, filename, f"; charset={charset}", purpose="+2AA-")
    assert reply.status_code == 400, reply.text
    assert "UTF-8" in reply.json()["error"]["message"]
    assert files_in(store) == []
    assert httpx.get(f"{url}/v1/files").status_code == 200


@pytest.mark.parametrize("more", ["", "; charset=utf-8", '; Charset="UTF8"'])
def test_a_form_may_say_that_it_is_utf8(client: OpenAI, url: str, more: str) -> None:
    reply = send_form(url, "Katze 🐈.png".encode(), more)
    assert reply.status_code == 200, reply.text
    assert reply.json()["filename"] == "Katze 🐈.png"
    client.files.delete(reply.json()["id"])


def test_a_name_on_disk_with_half_a_character_is_listed(
    client: OpenAI, url: str, store: Path
) -> None:
    sent = client.files.create(file=("a.png", png("red")), purpose="user_data")
    facts = store / "files" / f"{sent.id}.json"
    said = json.loads(facts.read_text())
    facts.write_text(json.dumps({**said, "filename": "\ud800.png", "purpose": "\udc00"}))
    for headers in ({}, {"anthropic-version": "2023-06-01"}):
        reply = httpx.get(f"{url}/v1/files", headers=headers)
        assert reply.status_code == 200, reply.text
        assert [each["filename"] for each in reply.json()["data"]] == ["?.png"]
    assert httpx.get(f"{url}/v1/files/{sent.id}").json()["purpose"] == "?"
    assert client.files.content(sent.id).read() == png("red")
    facts.write_text(json.dumps({**said, "filename": 1}))
    assert httpx.get(f"{url}/v1/files").json()["data"] == []
    facts.write_text(json.dumps(said))
    client.files.delete(sent.id)


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param("000003600" + "9" * 5000, id="5000 nines"),
        pytest.param("000003600" + "9" * 30, id="30 nines"),
        "3599",
        "2592001",
        "-3600",
        pytest.param("\N{FULLWIDTH DIGIT FIVE}" * 5, id="wide digits"),
        "",
    ],
)
def test_a_lifetime_out_of_bounds_is_refused(url: str, store: Path, seconds: str) -> None:
    reply = send_form(url, b"a.png", **{"expires_after[seconds]": seconds})
    assert reply.status_code == 400, reply.text
    assert "3600 to 2592000" in reply.json()["error"]["message"]
    assert files_in(store) == []


def test_a_file_that_is_deleted_while_it_is_sent_comes_whole(
    client: OpenAI, url: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = png("red") + bytes(range(256)) * 1000
    send = FileResponse.__call__
    for headers, status, expected in (
        ({}, 200, content),
        ({"range": "bytes=100-199"}, 206, content[100:200]),
    ):
        sent = client.files.create(file=("a.png", content), purpose="user_data")

        async def delete_first(*given: Any, id_: str = sent.id) -> None:
            (store / "files" / f"{id_}.json").unlink()
            (store / "files" / f"{id_}.bin").unlink()
            await send(*given)

        monkeypatch.setattr(FileResponse, "__call__", delete_first)
        address = f"{url}/v1/files/{sent.id}/content"
        reply = httpx.get(address, headers=headers)
        assert (reply.status_code, reply.content) == (status, expected)
        monkeypatch.undo()
        assert httpx.get(address).status_code == 404
    wait_until_empty(store)


def test_a_file_that_is_deleted_after_the_question_is_watched(
    client: OpenAI, store: Path, square_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = square_video.read_bytes() + b"\0" * 24  # other bytes than those of other tests
    sent = client.files.create(file=("square.mp4", video), purpose="user_data")

    async def delete_first(*given: Any) -> Any:
        (store / "files" / f"{sent.id}.json").unlink()
        (store / "files" / f"{sent.id}.bin").unlink()
        return await decode(*given)

    monkeypatch.setattr("reellama.pipeline.server.media.media_encoder.decode", delete_first)
    assert shown(client, {"type": "input_video", "file_id": sent.id}).prompt_tokens > 80
    wait_until_empty(store)
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        shown(client, {"type": "input_video", "file_id": sent.id})


def wait_until_empty(store: Path) -> None:
    """Nothing stays of files that were deleted, soon after the last answer."""
    end = time.time() + 10
    while files_in(store) and time.time() < end:
        time.sleep(0.01)
    assert files_in(store) == []
