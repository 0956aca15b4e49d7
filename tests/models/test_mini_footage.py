"""`mini` sees photographs of the real world: stills that come with scikit-image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage

from reellama.models.bundle import Bundle
from reellama.models.concepts.concept_readings import CONCEPT
from reellama.pipeline.video.clip import read_frames

pytestmark = pytest.mark.numeric

PICTURES = Path(skimage.__file__).parent / "data"
# What a caption of each would say, one word of which must be among the three likeliest concepts.
SHOWN = {
    "astronaut.png": {"man", "woman", "person"},
    "chelsea.png": {"cat"},
    "coffee.png": {"bowl", "plate", "food", "table", "cup"},
}


@pytest.fixture(scope="module")
def mini() -> Bundle:
    return Bundle.load("mini")


@pytest.mark.parametrize("name", SHOWN)
def test_what_a_photograph_shows_is_among_its_likeliest_concepts(mini: Bundle, name: str) -> None:
    clip = read_frames(PICTURES / name, frames=1)
    features = mini.features(clip.frames)
    assert mini.is_footage(features)
    fields = mini.interpret(features, clip.times)
    assert {field.text for field in fields[:3] if field.label == CONCEPT} & SHOWN[name]


def test_a_photograph_is_found_by_a_sentence(mini: Bundle) -> None:
    frames = [read_frames(PICTURES / name, frames=1).frames[0] for name in SHOWN]
    wanted = mini.embed_texts(["a man or a woman", "a cat", "food on a plate"])
    assert (mini.embed_images(frames) @ wanted.T).argmax(0).tolist() == [0, 1, 2]
    assert np.isfinite(wanted).all()
