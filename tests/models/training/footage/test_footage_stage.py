"""A stage on real footage: a small set of the test's own goes through all phases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.bundle import Bundle
from reellama.models.synthetic.assets.downloads import ASSETS
from reellama.models.synthetic.dataset import SyntheticClips, SyntheticConfig
from reellama.models.training.config import MultiStageConfig, read_config
from reellama.models.training.train_stages import train_stages
from reellama.pipeline.cli.commands.train import read_video
from tests.helpers.small_tower import write_small_tower

pytestmark = pytest.mark.numeric

STAGES = """
name = "small"
llm = "{llm}"

[synthetic]
styles = ["shapes"]
style_weights = [1.0]
frames = 3
fewest_frames = 2

[lora]
rank = 2
kl_texts = 2
kl_tokens = 64
kl_batch = 1
validation_clips = 4
separate_turns = true

[[stages]]
name = "drawn"

[stages.vision_tower]
name = "{tower}"

[stages.projector]
tokens = 60
words = 64
width = 16
layers = 1
heads = 2

[stages.align]
steps = 1
batch = 2

[[stages]]
name = "footage"
init_from = "drawn"

[stages.footage]
folder = "{folder}"
train = ["stills.jsonl", "clips.jsonl"]
weights = [2.0, 1.0]
validation = ["stills.jsonl"]
frames = 4

[stages.concepts]
steps = 120
batch = 12
learning_rate = 3e-3
vocabulary = 12
named = 3
free = 2
width = 32
dropout = 0.0
drawn_clips = 8

[stages.captions]
steps = 2
batch = 3
captions = 2
questions = 1
checkpoint_every = 1
samples = 2
sampled_batch = 3
"""
COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220), "green": (20, 200, 20)}


def picture(colour: str, rng: np.random.Generator) -> np.ndarray:
    """A wall of a colour, uint8 [40, 40, 3], with noise."""
    noise = rng.integers(-15, 16, (40, 40, 3))
    return np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Stills with several captions, and clips (animated WebP) with one and a question."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    stills, clips = [], []
    for number in range(12):
        colour = list(COLOURS)[number % 3]
        Image.fromarray(picture(colour, rng)).save(folder / f"still{number}.png")
        captions = [f"A {colour} wall stands here.", f"This is a {colour} wall"] * 2
        stills.append({"video": f"still{number}.png", "captions": captions})
    for number in range(3):
        colour = list(COLOURS)[number]
        frames = [Image.fromarray(picture(colour, rng)) for _ in range(5)]
        name = f"clip{number}.gif"
        frames[0].save(folder / name, save_all=True, append_images=frames[1:], duration=200)
        clips.append({"video": name, "caption": f"Someone films a {colour} wall."})
        clips.append({"video": name, "question": "What is filmed?", "answer": "A wall."})
    # A video with a question only says nothing of concepts.
    clips.append({"video": "still0.png", "question": "What is it?", "answer": "A wall."})
    for name, rows in (("stills", stills), ("clips", clips)):
        lines = "\n".join(json.dumps(row) for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    return folder


@pytest.fixture
def path(tiny_llama: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("reellama.models.training.distributed.workers", lambda: 0)
    tower = write_small_tower(tmp_path / "tower")
    path = tmp_path / "small.toml"
    path.write_text(STAGES.format(llm=tiny_llama, tower=tower, folder=data))
    return path


def train(path: Path, lines: list[str]) -> Bundle:
    config = read_config(path)
    assert isinstance(config, MultiStageConfig)
    return train_stages(
        config, path.parent / "out", work=path.parent / "work", assets=ASSETS,
        report=lines.append, read_video=read_video,
    )  # fmt: skip


def test_a_bundle_learns_the_words_of_its_captions(path: Path, data: Path) -> None:
    lines: list[str] = []
    bundle = train(path, lines)
    assert f"{data / 'stills.jsonl'}: 12 videos, 48 captions, 0 questions" in lines
    assert f"{data / 'clips.jsonl'}: 4 videos, 3 captions, 4 questions" in lines
    assert set(bundle.config.stages[-1]["seconds"]) >= {"concepts", "captions"}
    concepts = bundle.concepts
    assert concepts is not None and "wall" in concepts.vocabulary.words
    rng = np.random.default_rng(1)
    for colour in COLOURS:
        features = bundle.features([picture(colour, rng)])
        grid, _, mask = bundle.batch(features, np.zeros(1))
        likely = concepts.tokens.head.probabilities(grid, mask)[0]
        said = {c: likely[concepts.vocabulary.number(c)] for c in COLOURS}
        assert max(said, key=lambda c: said[c]) == colour
    # The concept model makes the tokens of a real still: three named, two free, no slots.
    assert bundle.is_footage(features)
    assert bundle.project(features, np.zeros(1)).shape == (5, bundle.n_embd)
    assert_drawn_clips_fill_slots(bundle)
    assert_colours_are_found(bundle, rng)
    labels = [reading.label for reading in bundle.interpret(features, np.zeros(1))]
    assert labels == ["concept"] * 3 + ["free"] * 2


def assert_drawn_clips_fill_slots(bundle: Bundle) -> None:
    config = SyntheticConfig(styles=("shapes",), style_weights=(1.0,), frames=3, fewest_frames=2)
    sample = SyntheticClips(config, bundle.tower.size, ASSETS, split="validation")[0]
    features = bundle.features([*sample["frames"].permute(0, 2, 3, 1).numpy()])
    assert bundle.project(features, sample["times"].numpy()).shape == (60, bundle.n_embd)


def assert_colours_are_found(bundle: Bundle, rng: np.random.Generator) -> None:
    frames = bundle.embed_images([picture(colour, rng) for colour in COLOURS])
    texts = bundle.embed_texts([f"something {colour}" for colour in COLOURS])
    np.testing.assert_allclose(np.linalg.norm(frames, axis=1), 1, rtol=1e-5)
    # Of footage the concepts decide: the tower's own part of the row is zero.
    assert (frames @ texts.T).argmax(0).tolist() == [0, 1, 2]


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_ends_alike(path: Path, tmp_path: Path) -> None:
    whole = train(path, [])
    weights = whole.concepts.tokens.state_dict() if whole.concepts else {}

    def stop(line: str) -> None:
        if line.startswith("captions: step 1/2"):
            raise KeyboardInterrupt

    for folder in ("out", "work"):
        (tmp_path / folder).rename(tmp_path / f"whole-{folder}")
    config = read_config(path)
    assert isinstance(config, MultiStageConfig)
    with pytest.raises(KeyboardInterrupt):
        train_stages(
            config, tmp_path / "out", work=tmp_path / "work", assets=ASSETS, report=stop,
            read_video=read_video,
        )  # fmt: skip
    lines: list[str] = []
    again = train(path, lines)
    assert "captions: going on at step 1" in lines
    assert again.concepts is not None
    for name, weight in again.concepts.tokens.state_dict().items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-2, atol=1e-3)


def test_footage_without_captions_is_refused(path: Path, data: Path) -> None:
    row = {"video": "still0.png", "question": "What?", "answer": "A wall."}
    (data / "clips.jsonl").write_text(json.dumps(row))
    with pytest.raises(ReellamaError, match="no captions; concepts are learned from captions"):
        train(path, [])


def test_sampled_captions_need_others_to_be_compared_with(path: Path, data: Path) -> None:
    rows = [json.loads(line) for line in (data / "stills.jsonl").read_text().splitlines()]
    few = [json.dumps({**row, "captions": row["captions"][:2]}) for row in rows]
    (data / "stills.jsonl").write_text("\n".join(few))
    path.write_text(path.read_text().replace("steps = 120", "steps = 1"))
    with pytest.raises(ReellamaError, match="compares with 4 captions of a video or more"):
        train(path, [])


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("weights = [2.0]", "footage.weights: 1 for 2 files of footage.train"),
        ("weights = [2.0, 0.0]", "footage.weights must be over 0; leave a file out instead"),
    ],
)
def test_weights_that_do_not_fit_the_files_are_refused(path: Path, wrong: str, why: str) -> None:
    path.write_text(path.read_text().replace("weights = [2.0, 1.0]", wrong))
    with pytest.raises(ReellamaError, match=why.replace(".", r"\.")):
        read_config(path)


def test_phases_on_footage_need_footage(path: Path) -> None:
    text = path.read_text().replace('train = ["stills.jsonl", "clips.jsonl"]', "train = []")
    path.write_text(text.replace("weights = [2.0, 1.0]", ""))
    with pytest.raises(ReellamaError, match=r"concepts does nothing without footage\.train"):
        read_config(path)
