"""The visual tower: an open_clip model as grid features, and as a space of pictures and text."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from reellama.models.bundle_config import BUNDLES
from reellama.models.synthetic.assets.pictures import load_pictures
from reellama.models.vision.encoder import Tower, fold_batch_norms
from reellama.models.vision.frame_pixels import TowerError
from reellama.models.vision.torchvision_compat import ensure_torchvision
from tests.helpers.small_tower import write_small_tower

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tower:
    return Tower.load(write_small_tower(tmp_path_factory.mktemp("tower") / "small"))


@pytest.fixture(scope="module")
def mini() -> Tower:
    return Tower.load(BUNDLES / "mini" / "tower")


def noise(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in sizes]


def test_a_folder_is_loaded_as_open_clip_would(small: Tower) -> None:
    assert small.grid(noise((32, 32), (48, 64))).shape == (2, 4, 32)


def test_loading_leaves_the_logging_of_the_process_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, levels = logging.getLogger(), []

    def meanwhile(record: logging.LogRecord) -> bool:
        """Called for what open_clip says, and so while it loads."""
        levels.append(root.level)
        logging.getLogger("another").info("during")
        return True

    root.addFilter(meanwhile)
    try:
        with caplog.at_level(logging.INFO):
            Tower.load(write_small_tower(tmp_path / "small"))
            logging.getLogger("another").info("after")
            assert root.level == logging.INFO
    finally:
        root.removeFilter(meanwhile)
    assert set(levels) == {logging.INFO}
    others = [record.message for record in caplog.records if record.name == "another"]
    assert others == ["during"] * len(levels) + ["after"]
    assert len(caplog.records) == len(others), "what open_clip and timm say is kept from the log"


def test_loading_gives_the_process_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    Tower.load(write_small_tower(tmp_path / "small"))
    assert logging.getLogger().handlers == []
    assert logging.getLogger("timm").level == logging.NOTSET


def test_frames_of_any_size_and_number_are_taken(mini: Tower) -> None:
    grid = mini.grid(noise((1, 1), (720, 1280), (1920, 1080), *[(64, 64)] * 8))
    assert grid.shape == (11, 36, 320)
    assert grid.dtype == np.float32 and np.isfinite(grid).all()


def test_batches_change_nothing(mini: Tower) -> None:
    frames = noise(*[(96, 96)] * 10)
    together, alone = mini.grid(frames), np.concatenate([mini.grid([f]) for f in frames])
    np.testing.assert_allclose(together, alone, atol=0.02 * np.abs(alone).max())


def test_cells_stand_row_by_row(mini: Tower) -> None:
    frame = np.zeros((192, 192, 3), np.uint8)
    changed = frame.copy()
    changed[160:, :32] = 255  # the lower left corner
    change = np.abs(mini.grid([changed]) - mini.grid([frame])).sum(-1)[0].reshape(6, 6)
    row, column = np.unravel_index(change.argmax(), (6, 6))
    assert row >= 4 and column <= 1


def test_text_finds_its_picture(mini: Tower) -> None:
    kinds = ["dog", "rocket", "red apple", "bicycle", "sunflower", "guitar"]
    pictures = load_pictures(("openmoji",), kinds=kinds)
    frames = [compose(picture.rgba) for picture in pictures]
    texts = [f"a picture of a {picture.kind}" for picture in pictures]
    similar = mini.embed_images(frames) @ mini.embed_texts(texts).T
    assert (similar.argmax(1) == np.arange(len(kinds))).mean() >= 0.8


def compose(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:] / 255
    return (rgba[..., :3] * alpha + 200 * (1 - alpha)).astype(np.uint8)


def test_embeddings_are_unit_rows(mini: Tower) -> None:
    for rows in (mini.embed_images(noise((50, 60))), mini.embed_texts(["a dog", "a cat"])):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=0.01)


def test_folded_batch_norms_give_the_same_features() -> None:
    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    trunk = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = trunk.forward_features(pixels)
        fold_batch_norms(trunk)
        after = trunk.forward_features(pixels)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-3)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in trunk.modules())


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4), np.uint8), "height, width, 3"),
    ],
)
def test_what_is_not_a_frame_is_refused(small: Tower, frame: np.ndarray, complaint: str) -> None:
    with pytest.raises(TowerError, match=complaint):
        small.grid([frame])


def test_no_frames_are_refused(small: Tower) -> None:
    with pytest.raises(TowerError, match="no frames"):
        small.grid([])


def test_an_unknown_name_is_one_clear_line() -> None:
    with pytest.raises(TowerError, match="ViT-Z-99") as caught:
        Tower.load("ViT-Z-99")
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tower_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(TowerError, match="does not load") as caught:
        Tower.load(tmp_path)
    assert "\n" not in str(caught.value)
