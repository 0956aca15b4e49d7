"""`llm -m reellama "What happens?" -a clip.mp4`: reellama as a model of the command `llm`."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import llm
import pytest
from click.testing import CliRunner, Result
from llm.cli import cli
from llm.plugins import load_plugins, pm

from reellama.gguf_tools.locate.vision_models import VisionModel
from reellama.pipeline.integrations import llm_plugin

pytestmark = pytest.mark.numeric

Ask = Callable[..., Result]


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    """The plugin is there, whether or not the package was installed with its entry point."""
    load_plugins()
    if pm.is_registered(llm_plugin):
        yield
        return
    pm.register(llm_plugin)
    yield
    pm.unregister(llm_plugin)


@pytest.fixture
def model() -> llm.Model:
    return llm.get_model("reellama")


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """The command `llm`, with a home of its own."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], input="")

    return run


@pytest.fixture
def prompts_of(model: llm.Model, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gathers the prompts that reach the LLM, with <video> where soft tokens are."""
    from reellama.pipeline.llm.engine import Engine, Text

    prompts: list[str] = []
    generate = Engine.generate

    def recorded(self: Engine, prompt: list, *rest: object, **options: object) -> object:
        prompts.append("".join(p.text if isinstance(p, Text) else "<video>" for p in prompt))
        return generate(self, prompt, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "generate", recorded)
    return prompts


def test_llm_knows_a_model_that_takes_videos_and_pictures(ask: Ask) -> None:
    assert "reellama" in ask("models").output
    model = llm.get_model("reellama")
    assert {"video/mp4", "video/webm", "image/png", "image/jpeg"} <= model.attachment_types
    assert llm.get_model("reellama") is model  # what is loaded is loaded once


def test_a_question_about_a_video_is_answered(ask: Ask, square_video: Path) -> None:
    result = ask("-m", "reellama", "What happens?", "-a", square_video)
    assert result.exit_code == 0, result.output
    assert "right" in result.output  # the way the square moves


def test_a_conversation_goes_on_with_its_turns_and_its_video(
    ask: Ask, square_video: Path, prompts_of: list[str]
) -> None:
    first = ask("-m", "reellama", "What happens?", "-a", square_video).output.strip()
    assert ask("-c", "And then?").exit_code == 0
    (_, prompt) = prompts_of
    assert prompt.count("<video>") == 1
    assert prompt.index("<video>") < prompt.index("What happens?") < prompt.index(first)
    assert prompt.index(first) < prompt.index("And then?")


def test_a_video_that_was_seen_is_not_read_again(
    ask: Ask, square_video: Path, model: llm.Model, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(square_video.read_bytes())
    ask("-m", "reellama", "What happens?", "-a", square_video)
    assert isinstance(model, llm_plugin.Reellama)
    video_chat = model._video_chat
    assert video_chat is not None
    frames = video_chat.timings.n_frames
    ask("-m", "reellama", "What happens?", "-a", copy)
    assert model._video_chat is video_chat
    assert video_chat.timings.n_frames == frames
    ask("-m", "reellama", "What happens?", "-a", copy, "-o", "frames", "4")
    assert video_chat.timings.n_frames == frames + 4


def test_options_and_a_system_prompt_are_honoured(
    ask: Ask, square_video: Path, prompts_of: list[str]
) -> None:
    long = ask("-m", "reellama", "What happens?", "-a", square_video).output
    options = ("-o", "max_tokens", "2", "-s", "Be brief.")
    short = ask("-m", "reellama", "What happens?", "-a", square_video, *options).output
    assert 0 < len(short) < len(long)
    assert "Be brief." in prompts_of[1]


def test_without_words_the_video_is_described(
    model: llm.Model, square_video: Path, prompts_of: list[str]
) -> None:
    response = model.prompt(attachments=[llm.Attachment(content=square_video.read_bytes())])
    assert response.text()
    assert "Describe the video." in prompts_of[0]
    assert response.usage().output


def test_an_answer_is_streamed(model: llm.Model, square_video: Path) -> None:
    response = model.prompt("What happens?", attachments=[llm.Attachment(path=str(square_video))])
    assert len(list(response)) > 2


def test_a_broken_video_is_one_line(ask: Ask, square_video: Path, tmp_path: Path) -> None:
    broken = tmp_path / "half.mp4"
    broken.write_bytes(square_video.read_bytes()[:1500])
    result = ask("-m", "reellama", "What?", "-a", broken)
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("Error: ")
    assert "half.mp4" in line


def test_loading_the_plugin_loads_nothing_heavy() -> None:
    code = (
        "import sys, reellama.pipeline.integrations.llm_plugin\n"
        "print({'torch', 'av', 'llama_cpp'} & {*sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "set()"


def test_a_vision_gguf_answers_when_it_is_named(
    ask: Ask, vision_model: Callable[[str], VisionModel], square_video: Path
) -> None:
    seen = vision_model("gemma3")
    asked = ("-m", "reellama", "What happens?", "-a", square_video, "-o", "max_tokens", "3")
    named = ("-o", "bundle", seen.llm, "-o", "tokens", "64", "-o", "frames", "4")
    found = ask("prompt", *asked, *named)
    assert found.exit_code == 0, found.output
    again = ask("prompt", *asked, *named, "-o", "mmproj", seen.mmproj)
    assert again.output == found.output
    wrong = ask("prompt", *asked, "-o", "bundle", seen.mmproj)
    assert wrong.exit_code == 1 and "give its LLM" in wrong.output
