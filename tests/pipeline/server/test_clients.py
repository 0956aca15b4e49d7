"""Clients that people have hold a conversation about a video with the server."""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest
from click.testing import CliRunner
from langchain_core.messages import AIMessage, HumanMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings
from llm.cli import cli
from PIL import Image

from reellama.pipeline.video.clip import read_frames
from tests.helpers.live_server import data_url, serving

FIRST, SECOND = "What happens in the video?", "Which way does it move?"

NODE = """
import { Ollama } from "ollama";
import { readFileSync } from "node:fs";
const [host, video] = process.argv.slice(2);
const client = new Ollama({ host });
const messages = [{ role: "user", content: "What happens in the video?",
                    images: [readFileSync(video).toString("base64")] }];
const first = await client.chat({ model: "mini", messages });
messages.push(first.message, { role: "user", content: "Which way does it move?" });
let second = "";
for await (const part of await client.chat({ model: "mini", messages, stream: true }))
  second += part.message.content;
const models = (await client.list()).models.map((model) => model.name);
console.log(JSON.stringify([first.message.content, second, models]));
"""

NODE_OPENAI = """
import OpenAI, { toFile } from "openai";
import { readFileSync } from "node:fs";
const [host, video] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${host}/v1`, apiKey: "none" });
const clip = await toFile(readFileSync(video), "demo.mp4");
const file = await client.files.create({ file: clip, purpose: "user_data" });
const content = [{ type: "input_file", file_id: file.id },
                 { type: "input_text", text: "What happens in the video?" }];
const first = await client.responses.create({ model: "mini", input: [{ role: "user", content }] });
let second = "";
for await (const event of await client.responses.create({
  model: "mini", previous_response_id: first.id, input: "Which way does it move?", stream: true }))
  if (event.type === "response.output_text.delta") second += event.delta;
console.log(JSON.stringify([first.output_text, second]));
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(n_ctx=1024, store=tmp_path_factory.mktemp("store")) as url:
        yield url


def is_about_the_video(first: str, second: str) -> None:
    """The demo's red star moves right; what is said of it must be said of something that moves."""
    assert "star" in first.lower() and "right" in first.lower()
    assert "right" in second.lower()


def test_ollamas_python_client(url: str, demo_video: Path) -> None:
    client = ollama.Client(url)
    talk = [{"role": "user", "content": FIRST, "images": [demo_video.read_bytes()]}]
    first = client.chat("mini", talk).message.content or ""
    talk += [{"role": "assistant", "content": first}, {"role": "user", "content": SECOND}]
    parts = client.chat("mini", talk, stream=True)
    is_about_the_video(first, "".join(part.message.content or "" for part in parts))


def talk_in_node(package: str, program: str, folder: Path, *arguments: str) -> list[Any]:
    """What a program prints, as JSON, that uses a package of npm."""
    (folder / "talk.mjs").write_text(program)
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", package]
    subprocess.run(install, cwd=folder, check=True, timeout=120)
    command = ["node", "talk.mjs", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, timeout=240, capture_output=True)
    found: list[Any] = json.loads(done.stdout)
    return found


needs_node = pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js is not installed")


@needs_node
def test_openais_javascript_client(url: str, demo_video: Path, tmp_path: Path) -> None:
    """Its responses, which go on from each other, about a file that is sent once."""
    is_about_the_video(*talk_in_node("openai@7", NODE_OPENAI, tmp_path, url, str(demo_video)))


def test_openais_responses(url: str, demo_video: Path) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    shown = {"type": "input_image", "image_url": data_url(demo_video)}
    content = [shown, {"type": "input_text", "text": FIRST}]
    said: Any = [{"role": "user", "content": content}]
    first = client.responses.create(model="mini", input=said)
    second = client.responses.create(model="mini", input=SECOND, previous_response_id=first.id)
    is_about_the_video(first.output_text, second.output_text)


def test_anthropics_client(url: str, demo_video: Path) -> None:
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    data = base64.b64encode(demo_video.read_bytes()).decode()
    source = {"type": "base64", "media_type": "video/mp4", "data": data}
    content = [{"type": "image", "source": source}, {"type": "text", "text": FIRST}]
    talk: Any = [{"role": "user", "content": content}]
    asked: dict[str, Any] = {"model": "mini", "max_tokens": 100}
    first = client.messages.create(messages=talk, **asked).content[0]
    assert first.type == "text"
    talk += [{"role": "assistant", "content": first.text}, {"role": "user", "content": SECOND}]
    with client.messages.stream(messages=talk, **asked) as stream:
        is_about_the_video(first.text, "".join(stream.text_stream))


@needs_node
def test_ollamas_javascript_client(url: str, demo_video: Path, tmp_path: Path) -> None:
    first, second, models = talk_in_node("ollama@0.6", NODE, tmp_path, url, str(demo_video))
    is_about_the_video(first, second)
    assert "mini:latest" in models


def test_openais_client(url: str, demo_video: Path) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    video = {"type": "video_url", "video_url": {"url": data_url(demo_video)}}
    talk: list = [{"role": "user", "content": [video, {"type": "text", "text": FIRST}]}]
    first = client.chat.completions.create(model="mini", messages=talk).choices[0].message.content
    talk += [{"role": "assistant", "content": first}, {"role": "user", "content": SECOND}]
    parts = client.chat.completions.create(model="mini", messages=talk, stream=True)
    second = "".join(part.choices[0].delta.content or "" for part in parts)
    is_about_the_video(first or "", second)


def test_langchain(url: str, demo_video: Path) -> None:
    model = ChatOllama(model="mini", base_url=url)
    packed = base64.b64encode(demo_video.read_bytes()).decode()
    shown = {"type": "image_url", "image_url": f"data:video/mp4;base64,{packed}"}
    talk: list = [HumanMessage([{"type": "text", "text": FIRST}, shown])]
    first = str(model.invoke(talk).content)
    talk += [AIMessage(first), HumanMessage(SECOND)]
    is_about_the_video(first, "".join(str(part.content) for part in model.stream(talk)))
    vectors = OllamaEmbeddings(model="mini", base_url=url).embed_documents(["a cat", "a dog"])
    assert [len(vector) for vector in vectors] == [576, 576]


def test_llm(url: str, demo_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command `llm`, with the server as one of its OpenAI models; it sends moving GIFs."""
    frames = [Image.fromarray(f) for f in read_frames(demo_video, frames=12, max_side=320).frames]
    gif = tmp_path / "demo.gif"
    frames[0].save(gif, save_all=True, append_images=frames[1:], duration=250)
    model = {"model_id": "served", "model_name": "mini", "api_base": f"{url}/v1", "vision": True}
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([model]))
    ask = CliRunner().invoke
    first = ask(cli, ["-m", "served", FIRST, "-a", str(gif)], input="")
    second = ask(cli, ["-c", SECOND], input="")
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    is_about_the_video(first.output, second.output)
