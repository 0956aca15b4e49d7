"""A bundle's adapter, merged into its LLM: by chat and serve at first, by ask after its answer."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import pytest
from rich.console import Console

from reellama.gguf_tools.quantization import merged_llm
from reellama.gguf_tools.quantization.quantize import quantize
from reellama.gguf_tools.runtime import backend
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.cli import console
from reellama.pipeline.llm.engine import Engine, Text
from tests.conftest import Result
from tests.helpers.live_server import serving

PROMPT = [Text("The sea is")]
WEIGHT = "blk.1.ffn_gate.weight"  # 576 inputs, 1536 outputs


@pytest.fixture(scope="module")
def bundle(small_bundle: Path, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bundle with an adapter that changes one weight of an LLM in Q4_1."""
    folder = tmp_path_factory.mktemp("bundle") / "adapted"
    shutil.copytree(small_bundle, folder)
    llm = folder / "llm.gguf"
    quantize(smollm2, "COPY", llm, prune_layers="1-28", n_threads=1)
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(folder / "adapter.gguf", "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 8.0)
    writer.add_tensor(f"{WEIGHT}.lora_a", rng.normal(0, 0.6, (4, 576)).astype(np.float32))
    writer.add_tensor(f"{WEIGHT}.lora_b", rng.normal(0, 0.6, (1536, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = json.loads((folder / "bundle.json").read_text())
    config |= {"name": "adapted", "llm": str(llm), "lora": [["adapter.gguf", 1.0]]}
    (folder / "bundle.json").write_text(json.dumps(config))
    return folder


def logits(video_chat: VideoChat) -> np.ndarray:
    return video_chat.engine.logits_all(PROMPT)


def test_no_spinner_is_drawn_where_there_is_nothing_to_merge(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    for _ in range(2):
        terminal = Console(force_terminal=True, file=io.StringIO())
        monkeypatch.setattr(console, "err", terminal)
        with VideoChat(
            bundle=bundle, merged=tmp_path, n_ctx=256, n_threads=1, cache=None
        ) as video_chat:
            console.merge_adapter(video_chat)
        assert isinstance(terminal.file, io.StringIO)
        drawn.append(terminal.file.getvalue())
    assert "merging the adapter" in drawn[0] and drawn[1] == ""


@pytest.mark.numeric
def test_a_chat_with_the_merged_llm_says_the_same(bundle: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "cache": None}
    with VideoChat(bundle=bundle, **options) as beside:
        expected, llm = logits(beside), beside.llm
        assert beside.merge_adapter() is False  # nobody said where
    with VideoChat(bundle=bundle, merged=tmp_path, **options) as unmerged:
        np.testing.assert_array_equal(logits(unmerged), expected)
        assert unmerged.has_adapter_beside and unmerged.merge_adapter() is True
    with VideoChat(bundle=bundle, merged=tmp_path, **options) as merged:
        assert merged.engine.path.parent == tmp_path
        assert merged.llm == llm
        assert not merged.has_adapter_beside and merged.merge_adapter() is False
        with Engine(llm, n_ctx=256, n_threads=1) as bare:
            change = np.abs(bare.logits_all(PROMPT) - expected).mean()
        # Without an adapter the changed weight has five bits, with it merged in eight.
        assert np.abs(logits(merged) - expected).mean() < 0.2 * change
    (tmp_path / "file").write_text("")
    with VideoChat(bundle=bundle, merged=tmp_path / "file", merge=True, **options) as unwritten:
        np.testing.assert_array_equal(logits(unwritten), expected)


def test_ask_merges_after_its_first_answer_and_chat_before(
    reellama: Callable[..., Result],
    bundle: Path,
    square_video: Path,
    endless: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merged_llm, "MERGED_LLMS", tmp_path / "ask")
    options = (f"--bundle={bundle}", "--n-ctx=256", "--max-tokens=4", "--threads=1")
    first = reellama("ask", square_video, "What?", *options, f"--grammar={endless}")
    assert (first.status, first.err.count("merged into the LLM")) == (0, 1)
    assert len([*(tmp_path / "ask").glob("*.gguf")]) == 1
    second = reellama("ask", square_video, "What?", *options, f"--grammar={endless}")
    assert (second.status, second.err.count("merged")) == (0, 0)
    monkeypatch.setattr(merged_llm, "MERGED_LLMS", tmp_path / "chat")
    assert reellama("chat", square_video, *options, stdin="/bye\n").status == 0
    assert len([*(tmp_path / "chat").glob("*.gguf")]) == 1


def test_the_server_loads_the_merged_llm(bundle: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"bundle": str(bundle), "n_ctx": 256, "n_threads": 1}
    prompt: dict[str, Any] = {
        "model": "adapted",
        "prompt": "1, 2, 3,",
        "raw": True,
        "stream": False,
    }
    prompt["options"] = {"num_predict": 2}
    with serving(merged=tmp_path / "kept", **settings) as url:
        reply = httpx.post(f"{url}/api/generate", json=prompt, timeout=60)
        assert reply.status_code == 200
    assert len([*(tmp_path / "kept").glob("*.gguf")]) == 1
    (tmp_path / "file").write_text("")
    with serving(merged=tmp_path / "file", **settings) as url:
        assert httpx.post(f"{url}/api/generate", json=prompt, timeout=60).status_code == 200


def test_timelines_and_evaluations_load_the_merged_llm(
    reellama: Callable[..., Result],
    bundle: Path,
    square_video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[Path] = []

    def noted(path: str | Path, **options: Any) -> backend.Model:
        loaded.append(Path(path).parent)
        return load_model(path, **options)

    load_model = backend.load_model
    monkeypatch.setattr(backend, "load_model", noted)
    monkeypatch.setattr(merged_llm, "MERGED_LLMS", tmp_path / "kept")
    timeline = reellama("timeline", square_video, f"--bundle={bundle}", "--threads=1")
    assert timeline.status == 0, timeline.err
    data = tmp_path / "data.jsonl"
    asked = {"video": str(square_video), "question": "What?", "answer": "a square"}
    data.write_text(json.dumps(asked) + "\n")
    found = reellama("eval", bundle, "--data", data, "--no-controls", "--threads=1", "--json=-")
    assert found.status == 0, found.err
    assert set(loaded) == {tmp_path / "kept"}
    assert str(tmp_path / "kept") not in found.out, "reports name the LLM, not the merged copy"
