"""A bundle that was trained again in its place is another one, for all that keeps what it saw."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reellama.models.bundle import Bundle
from reellama.models.bundle_config import BundleConfig, version_of
from reellama.models.projector.temporal_projector import Projector
from reellama.models.save_bundle import save_bundle
from reellama.pipeline.evaluation.report import record_scores
from reellama.pipeline.llm.prompt import Text
from reellama.pipeline.long_video.video_index import index_video
from reellama.pipeline.server.media.decode_process import MediaLimits
from reellama.pipeline.server.media.media_encoder import MediaEncoder
from reellama.pipeline.server.media.media_items import MediaError, MediaItem
from reellama.pipeline.server.media.soft_token_cache import SoftTokenCache
from reellama.pipeline.server.model_pool import ModelPool
from reellama.pipeline.server.model_registry.model_lookup import look_up_model
from reellama.pipeline.server.model_registry.model_store import ModelStore
from reellama.pipeline.server.model_registry.registered_model import RegisteredModel
from reellama.pipeline.server.settings import Settings
from tests.helpers.lora_adapters import write_adapter


@pytest.fixture
def folder(small_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


def train_projector(folder: Path, seed: int = 1) -> None:
    """Write other weights of the same shapes, in place."""
    bundle = Bundle.load(folder)
    torch.manual_seed(seed)
    projector = Projector(bundle.config.projector)
    projector.word_mixture.embeddings.data = bundle.projector.word_mixture.embeddings.data
    save_bundle(folder, bundle.config, projector)


def train_tower(folder: Path) -> None:
    path = folder / "tower" / "open_clip_model.safetensors"
    rng = torch.Generator().manual_seed(2)
    weights = load_file(path)
    save_file({k: v + 0.1 * torch.randn(v.shape, generator=rng) for k, v in weights.items()}, path)


def train_adapter(folder: Path, seed: int = 3) -> None:
    a, b = np.random.default_rng(seed).normal(0, 0.5, (2, 4, 576)).astype(np.float32)
    write_adapter(folder / "adapter.gguf", {"blk.1.attn_q.weight": (a, b.T.copy())})


def change_prompt(folder: Path) -> None:
    path = folder / "bundle.json"
    path.write_text(path.read_text().replace("You watch", "You look at"))


CHANGES = [train_projector, train_tower, train_adapter, change_prompt]


@pytest.mark.parametrize("change", CHANGES)
def test_a_version_is_that_of_all_files(folder: Path, change: Callable[[Path], None]) -> None:
    bundle = Bundle.load(folder)
    bundle.encode([np.zeros((8, 8, 3), np.uint8)], np.zeros(1))
    assert Bundle.load(folder).version == bundle.version == version_of(folder)
    assert not bundle.changed
    before = bundle.version
    change(folder)
    assert bundle.version == before  # what it has read is of then
    assert bundle.changed
    assert Bundle.load(folder).version != before


def test_a_copy_with_its_dates_is_the_same_bundle(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert version_of(copy) == version_of(folder)
    (copy / "projector.safetensors").touch()
    assert version_of(copy) != version_of(folder)


def test_a_bundle_that_is_evaluated_stays_the_same(folder: Path) -> None:
    bundle = Bundle.load(folder)
    record_scores(bundle, "first", {"right": 1})
    assert bundle.scores and not bundle.changed


def test_a_video_is_looked_through_anew_with_another_tower(
    folder: Path, square_video: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    first = index_video(square_video, Bundle.load(folder), cache=kept)
    train_tower(folder)
    again = index_video(square_video, Bundle.load(folder), cache=kept)
    anew = index_video(square_video, Bundle.load(folder), cache=None)
    np.testing.assert_array_equal(again.embeddings, anew.embeddings)
    assert np.abs(again.embeddings - first.embeddings).max() > 0.01


def test_nothing_is_kept_of_a_bundle_that_changed_meanwhile(
    folder: Path, square_video: Path, tmp_path: Path
) -> None:
    bundle = Bundle.load(folder)
    train_tower(folder)  # and nothing of it was read yet
    index_video(square_video, bundle, cache=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


class Server:
    """What of a server looks at videos: its registry, and its soft tokens on disk."""

    def __init__(self, bundle: Path, kept: Path) -> None:
        self.settings = Settings(bundle=str(bundle), cache=kept, n_parallel=1, n_ctx=256)
        self.store = ModelStore(kept / "store")
        self.cache = SoftTokenCache(kept)
        self.name = Bundle.load(bundle).config.name

    def known(self) -> RegisteredModel:
        return look_up_model(self.name, self.settings, self.store)

    def see(self, video: Path, known: RegisteredModel | None = None) -> np.ndarray:
        bundle = (known or self.known()).bundle
        assert bundle is not None
        encoder = MediaEncoder(MediaLimits(), self.cache)
        (soft,) = asyncio.run(encoder.encode([MediaItem((video.read_bytes(),))], bundle)).parts
        assert isinstance(soft, np.ndarray)
        return soft


@pytest.mark.parametrize("change", [train_projector, train_tower])
def test_the_server_sees_with_the_bundle_that_is_there_now(
    folder: Path, square_video: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    server = Server(folder, tmp_path / "kept")
    old = server.known()
    first = server.see(square_video)
    np.testing.assert_array_equal(server.see(square_video), first)
    assert server.known().bundle is old.bundle  # loaded once
    change(folder)
    # A request that began before is answered from what was kept; it spoils nothing for the next.
    np.testing.assert_array_equal(server.see(square_video, old), first)
    again = server.see(square_video)
    np.testing.assert_array_equal(again, Server(folder, tmp_path / "fresh").see(square_video))
    assert np.abs(again - first).max() > 1e-3
    assert server.known().digest != old.digest


def test_the_server_keeps_nothing_of_a_bundle_that_changes_while_it_looks(
    folder: Path, square_video: Path, tmp_path: Path
) -> None:
    server = Server(folder, tmp_path / "kept")
    known = server.known()
    train_projector(folder)  # before anything of it was read: the rest would be of another bundle
    with pytest.raises(MediaError, match="was just changed: send the request again") as caught:
        server.see(square_video, known)
    assert caught.value.status == 503
    assert not list((tmp_path / "kept").glob("*.npz"))
    server.see(square_video)
    assert len(list((tmp_path / "kept").glob("*.npz"))) == 1


def test_an_llm_is_loaded_anew_when_the_bundles_adapter_changes(
    folder: Path, tmp_path: Path
) -> None:
    train_adapter(folder)
    config = Bundle.load(folder).config
    described = BundleConfig(**{**vars(config), "lora": (("adapter.gguf", 1.0),)})
    (folder / "bundle.json").write_text(described.to_json())
    server = Server(folder, tmp_path / "kept")

    async def take_twice() -> None:
        models = ModelPool(server.settings)
        loaded, _ = await models.acquire(server.known(), -1)
        await models.release(loaded)
        same, took = await models.acquire(server.known(), -1)
        assert same is loaded and took == 0
        train_projector(folder)  # nothing of which the LLM has read
        also, _ = await models.acquire(server.known(), -1)
        assert also is loaded
        await models.release(also)
        train_adapter(folder, seed=4)
        other, took = await models.acquire(server.known(), -1)
        assert other is not loaded and took > 0
        assert loaded in models.loaded()  # somebody is still using it
        await models.release(same)
        assert models.loaded() == [other]  # although it was to be kept for ever
        assert other.batcher.tokenize_prompt([Text("Hello")])
        await models.release(other)
        await models.close()

    asyncio.run(take_twice())
