"""A vision GGUF on the command line does what mini does, and a bad pair gets one clear line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.locate.vision_models import VisionModel
from reellama.gguf_tools.text.prompt_parts import count_soft_tokens
from reellama.models.open_bundle import open_bundle
from reellama.models.token_pooling.options import PoolingOptions
from reellama.pipeline.long_video.timeline import LongVideo
from reellama.pipeline.video.clip import open_video
from reellama.pipeline.video.read_options import VideoReadOptions
from tests.conftest import Result
from tests.helpers import small_mmproj, tiny_model
from tests.helpers.ollama_server import serve

Run = Callable[..., Result]
SMALL = ("--threads=1", "--n-ctx=512", "--max-tokens=2", "--frames=4")


@pytest.fixture(scope="module")
def model(vision_model: Callable[[str], VisionModel]) -> VisionModel:
    return vision_model("gemma3")


@pytest.fixture
def complaint(reellama: Run, square_video: Path) -> Callable[..., str]:
    """Ask about a video in vain; returns the one line."""

    def ask(*options: str | Path) -> str:
        result = reellama("ask", square_video, "What happens?", *SMALL, *options)
        assert result.status == 1
        assert result.out == ""
        (line,) = result.err.splitlines()
        assert line.startswith("reellama: ")
        return line

    return ask


def another_width(path: Path, good: Path) -> str:
    small_mmproj.write(path, "gemma3", n_embd=32)
    return "cannot see through"


def audio_only(path: Path, good: Path) -> str:
    small_mmproj.write(path, keys={"clip.has_vision_encoder": None, "clip.has_audio_encoder": True})
    return "for sound only"


def cut_off(path: Path, good: Path) -> str:
    path.write_bytes(good.read_bytes()[:-1000])
    return "bad.gguf"


def with_nan(path: Path, good: Path) -> str:
    tensor = next(iter(read_gguf(good).tensors.values()))
    content = bytearray(good.read_bytes())
    content[tensor.offset : tensor.offset + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    return f"{tensor.name!r} holds NaN"


def unknown_family(path: Path, good: Path) -> str:
    small_mmproj.write(path, "telescope")
    return "the family telescope"


def with_float64(path: Path, good: Path) -> str:
    small_mmproj.write(path, tensors={"mm.0.bias": np.zeros(64)})
    return "F64"


def shapes_that_do_not_fit(path: Path, good: Path) -> str:
    """llama.cpp notices when it computes, and ends the process."""
    small_mmproj.write(path, "idefics3")
    return "makes llama.cpp crash"


BAD = (
    another_width,
    audio_only,
    cut_off,
    with_nan,
    unknown_family,
    with_float64,
    shapes_that_do_not_fit,
)


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_a_bad_projector_is_refused(
    complaint: Callable[..., str], model: VisionModel, tmp_path: Path, spoil: Callable
) -> None:
    bad = tmp_path / "bad.gguf"
    reason = spoil(bad, model.mmproj)
    line = complaint("--bundle", model.llm, "--mmproj", bad)
    assert reason in line and "bad.gguf" in line
    assert [path.name for path in tmp_path.glob("*")] == ["bad.gguf"]


def test_an_llm_without_a_projector_sees_no_video(
    complaint: Callable[..., str], model: VisionModel, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.gguf"
    alone.symlink_to(model.llm)
    assert "--mmproj" in complaint("--bundle", alone)


def test_a_projector_is_no_llm(complaint: Callable[..., str], model: VisionModel) -> None:
    assert "is an mmproj; give its LLM" in complaint("--bundle", model.mmproj)


def test_a_family_that_is_not_known_to_pool_shows_frames_in_full_and_says_so_once(
    reellama: Run, model: VisionModel, square_video: Path, tmp_path: Path
) -> None:
    other = small_mmproj.write_lightonocr(tmp_path / "other.gguf")
    result = reellama(
        "ask", square_video, square_video, "?", "--bundle", model.llm, "--mmproj", other, *SMALL
    )
    assert result.status == 0
    assert result.err.count("not known to pool well") == 1


def test_a_clip_tower_that_llama_cpp_reads_wrongly_is_pointed_out(tmp_path: Path) -> None:
    llm = tiny_model.write(tmp_path / "llm.gguf")
    token = {"v.class_embd": np.zeros(small_mmproj.N_TOWER, np.float32)}
    clip = small_mmproj.write(tmp_path / "mmproj-clip.gguf", tensors=token)
    siglip = small_mmproj.write(tmp_path / "mmproj-siglip.gguf")
    assert "mmproj-clip.gguf: this version" in open_bundle(llm, clip).warning
    assert not open_bundle(llm, siglip).warning


def test_a_chat_goes_on_where_it_was_saved(
    reellama: Run, model: VisionModel, square_video: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    lines = [
        f"/add {square_video}", "What is it?", "/set temperature 0.5", f"/save {kept}", "/clear",
        f"/load {kept}", "And then?", "/show turns",
    ]  # fmt: skip
    result = reellama("chat", "--bundle", model.llm, *SMALL, stdin="\n".join(lines))
    assert result.status == 0
    assert ">>> What is it?" in result.err and ">>> And then?" in result.err
    assert len(json.loads(kept.read_text())["turns"]) == 1


ONLY_TRAINED = {
    "inspect": (["inspect", "VIDEO", "--bundle", "LLM"], "soft tokens are no words"),
    "push": (["ollama", "push", "LLM"], "ollama create"),
    "describing drawn clips": (["eval", "LLM", "--clips", "1"], "not trained on drawn clips"),
    "recording scores": (["eval", "LLM", "--benchmark", "--record", "x"], "--json FILE"),
}


@pytest.mark.parametrize(("words", "reason"), ONLY_TRAINED.values(), ids=ONLY_TRAINED)
def test_what_needs_a_trained_bundle_says_so(
    reellama: Run, model: VisionModel, square_video: Path, words: list[str], reason: str
) -> None:
    named = {"VIDEO": square_video, "LLM": model.llm}
    result = reellama(*(named.get(word, word) for word in words))
    assert result.status == 1 and result.out == ""
    (line,) = result.err.splitlines()
    assert str(model.llm) in line and reason in line


def test_timeline_and_search_take_a_vision_gguf(
    reellama: Run, model: VisionModel, square_video: Path
) -> None:
    watching = ("--bundle", model.llm, "--no-cache", "--threads=1")
    made = reellama("timeline", square_video, "--format", "json", *watching)
    assert made.status == 0 and json.loads(made.out)["scenes"]
    found = reellama("search", square_video, "a square", "--json", "-n", "1", *watching)
    assert found.status == 0 and len(json.loads(found.out)) == 1


def test_questions_of_a_file_are_asked_with_every_quantization(
    reellama: Run, model: VisionModel, square_video: Path, tmp_path: Path
) -> None:
    question = {
        "video": str(square_video), "question": "What moves?", "choices": ["a square", "a dog"],
        "answer": "a square",
    }  # fmt: skip
    data, folder = tmp_path / "questions.jsonl", tmp_path / "quantizations"
    data.write_text(json.dumps(question) + "\n")
    folder.mkdir()
    (folder / "same.gguf").symlink_to(model.llm)
    asked = (
        "eval",
        model.llm,
        "--data",
        data,
        "--threads=1",
        "--frames=4",
        "--json",
        "-",
        "--n-ctx=1024",
        "--gpu-layers=0",
    )
    one = reellama(*asked, "--tokens=64", "--mmproj", model.mmproj)
    assert one.status == 0 and "--tokens 64" in json.loads(one.out)["command"]
    all_of_them = reellama(*asked, "--quantizations", folder)
    assert all_of_them.status == 0
    assert json.loads(all_of_them.out)["rows"][0]["accuracy"]["of"] == 1


def test_a_chat_changes_frames_tokens_and_pooling(
    reellama: Run, model: VisionModel, square_video: Path
) -> None:
    lines = [
        "/set tokens 40",
        "/set pooling subsample",
        "/set pooling best",
        "/set frames 2",
        "/set",
    ]
    result = reellama("chat", square_video, "--bundle", model.llm, *SMALL, stdin="\n".join(lines))
    assert result.err.count("square.mp4: 0:02.0, 4 frames") == 2
    assert result.err.count("square.mp4: 0:02.0, 2 frames") == 2  # `subsample` shows no more
    tokens = [int(n) for n in re.findall(r"(\d+) soft tokens", result.err)]
    assert tokens[0] > 40 >= max(tokens[1:])
    assert "no pooling named 'best'" in result.err
    assert re.search(r"frames +2 *\ntokens +40 *\npooling +subsample *\n", result.err)


def test_a_context_that_is_too_small_for_the_tokens_holds_fewer_and_says_so(
    reellama: Run, model: VisionModel, square_video: Path
) -> None:
    small = ("--threads=1", "--n-ctx=256", "--max-tokens=2", "--frames=16")
    result = reellama("ask", square_video, "?", "--bundle", model.llm, *small)
    assert result.status == 0
    assert "the context has room for 192 of 256 tokens" in result.err


def test_scenes_get_the_tokens_that_are_asked_for(
    reellama: Run, vision_model: Callable[[str], VisionModel], square_video: Path
) -> None:
    model = vision_model("llava")  # 64 tokens a frame
    with (
        LongVideo(
            model.llm,
            read_options=VideoReadOptions(12),
            pooling=PoolingOptions(900, "full"),
            max_tokens=9,
            n_threads=1,
            cache=None,
        ) as long_video,
        open_video(square_video) as source,
    ):
        scene = long_video._encode_scene(source, 0.0, 2.0)
        assert len(scene.clip.times) == 12
        assert 512 < count_soft_tokens(scene.parts) <= 900
        (text,) = [scene.text for scene in long_video.timeline(source).scenes]
        assert text.endswith((".", "!", "?"))  # a text that is cut off ends so, or with "..."
    few = ("--tokens=48", "--pooling=subsample", "--frames=2", "--max-tokens=3", "--no-cache")
    run_on = ("--n-ctx=300", "--gpu-layers=0", "--threads=1")
    made = reellama("timeline", square_video, "--bundle", model.llm, *few, *run_on)
    assert made.status == 0, made.err
    refused = reellama("timeline", square_video, *few)
    assert refused.status == 1 and "leave out the number of tokens" in refused.err


def test_a_model_of_ollamas_talks_about_what_one_saw(
    reellama: Run, model: VisionModel, square_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve({"talker": ["completion"]}) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        watched = ("--bundle", model.llm, "--tokens=64", *SMALL)
        result = reellama("ask", square_video, "What is it?", "--llm=ollama:talker", *watched)
    assert (result.status, result.out) == (0, "A red square.\n")
    (chat,) = server.chats
    assert "- 0:00.0 to 0:02.0: " in chat["messages"][0]["content"]


def test_captioned_clips_are_described_and_asked_about(
    reellama: Run, model: VisionModel, square_video: Path, tmp_path: Path
) -> None:
    other = shutil.copy(square_video, tmp_path / "other.mp4")
    words = {"dog": ("runs", "is running"), "cat": ("sleeps", "is asleep")}
    clips = [
        {
            "video": str(video),
            "captions": [f"{a} {name} {does}." for a in ("A", "The") for does in did],
        }
        for video, (name, did) in zip((square_video, other), words.items(), strict=True)
    ]
    data = tmp_path / "clips.jsonl"
    data.write_text("".join(json.dumps(clip) + "\n" for clip in clips))
    benches = ("--bench=captions", "--bench=yes-no", "--clips=2", "--no-controls", "--json", "-")
    asked = ("eval", model.llm, "--data", data, "--tokens=64", "--frames=4", "--threads=1")
    result = reellama(*asked, *benches)
    assert result.status == 0
    made = json.loads(result.out)
    assert "--tokens 64" in made["command"]
