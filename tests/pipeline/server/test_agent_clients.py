"""Libraries that agents are built with talk about a video and call a tool.

They ask for other releases of what the server's own tests need, so they get an environment of their
own, which takes a minute to install.
"""

import json
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.live_server import data_url, serving

pytestmark = pytest.mark.slow

PACKAGES = ("litellm>=1.80", "instructor>=1.12", "pydantic-ai-slim[openai]>=1.20")

# Each is told the server's address and the name of a file with the video as a data URL, and prints
# what was said of the video and the arguments of a call.
LITELLM = """
import json, os, sys
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network for prices
import litellm
host, video = sys.argv[1], open(sys.argv[2]).read()
def ask(messages, **more):
    return litellm.completion("openai/mini", messages, api_base=f"{host}/v1", api_key="none",
                              max_tokens=60, **more)
shown = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": video}},
                                     {"type": "text", "text": "What happens in the video?"}]}
schema = {"type": "object", "required": ["colour"],
          "properties": {"colour": {"enum": ["red", "blue"]}}}
tools = [{"type": "function", "function": {"name": "paint", "parameters": schema}}]
called = ask([shown], tools=tools, tool_choice="required", parallel_tool_calls=False)
message = called.choices[0].message
assert called.choices[0].finish_reason == "tool_calls"
call = message.tool_calls[0]
streamed = ask([shown], tools=tools, tool_choice="required", parallel_tool_calls=False, stream=True)
again = litellm.stream_chunk_builder(list(streamed)).choices[0].message.tool_calls[0]
assert json.loads(again.function.arguments).keys() == {"colour"}
result = {"role": "tool", "tool_call_id": call.id, "content": "Done."}
talk = [shown, message.model_dump(exclude_none=True), result, shown]
said = "".join(part.choices[0].delta.content or "" for part in ask(talk, stream=True))
print(json.dumps([said, json.loads(call.function.arguments)]))
"""

INSTRUCTOR = """
import json, sys
from typing import Literal
import instructor, openai
from pydantic import BaseModel
class Paint(BaseModel):
    colour: Literal["red", "blue"]
host, video = sys.argv[1], open(sys.argv[2]).read()
plain = openai.OpenAI(base_url=f"{host}/v1", api_key="none", max_retries=0)
shown = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": video}},
                                     {"type": "text", "text": "What happens in the video?"}]}
said = plain.chat.completions.create(model="mini", messages=[shown]).choices[0].message.content
talk = [shown, {"role": "assistant", "content": said},
        {"role": "user", "content": "Which colour has it?"}]
for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
    filled = instructor.from_openai(plain, mode=mode).chat.completions.create(
        model="mini", messages=talk, response_model=Paint, max_retries=0, max_tokens=60)
    assert isinstance(filled, Paint)
print(json.dumps([said, filled.model_dump()]))
"""

PYDANTIC_AI = """
import json, sys
from typing import Literal
from pydantic import BaseModel
from pydantic_ai import Agent, ImageUrl, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
class Paint(BaseModel):
    colour: Literal["red", "blue"]
host, video = sys.argv[1], open(sys.argv[2]).read()
model = OpenAIChatModel("mini", provider=OpenAIProvider(f"{host}/v1", api_key="none"))
settings = {"max_tokens": 60, "parallel_tool_calls": False}
shown = ["What happens in the video?", ImageUrl(video)]
first = Agent(model, model_settings=settings).run_sync(shown)
form = Agent(model, output_type=ToolOutput(Paint, name="paint"), model_settings=settings)
second = form.run_sync("Which colour has it?", message_history=first.all_messages())
print(json.dumps([first.output, second.output.model_dump()]))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment that has these libraries."""
    folder = tmp_path_factory.mktemp("clients")
    venv.create(folder, with_pip=True)
    found = str(folder / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    install = [found, "-m", "pip", "install", "--quiet", *PACKAGES]
    subprocess.run(install, check=True, timeout=500)
    return found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(n_ctx=2048, store=tmp_path_factory.mktemp("store")) as url:
        yield url


@pytest.mark.parametrize(
    "program", [LITELLM, INSTRUCTOR, PYDANTIC_AI], ids=["litellm", "instructor", "pydantic-ai"]
)
def test_an_agents_library_talks_about_a_video_and_calls_a_tool(
    url: str, python: str, program: str, demo_video: Path, tmp_path: Path
) -> None:
    (tmp_path / "talk.py").write_text(program)
    (tmp_path / "video").write_text(data_url(demo_video))
    command = [python, "talk.py", url, "video"]
    done = subprocess.run(command, cwd=tmp_path, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said, arguments = json.loads(done.stdout.splitlines()[-1])
    assert "star" in said.lower() and arguments["colour"] in ("red", "blue")
