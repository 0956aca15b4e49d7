"""A bundle's networks run in onnxruntime, by graphs that fit them; else torch runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.bundle import Bundle
from reellama.models.bundle_config import BundleError
from reellama.models.networks import network_sources, open_network
from reellama.models.networks.graph_file import GraphError, read_graph
from reellama.models.networks.open_network import write_graphs
from reellama.models.torch_networks import soft_tokens
from reellama.models.vision.encoder import Tower
from reellama.models.vision.frame_pixels import square_pixels

RNG = np.random.default_rng(0)
FRAMES = [RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(3)]
TIMES = np.array([0.0, 0.5, 2.0])
ANSWERING = ("tower", "projector")  # what a bundle without concepts answers by


@pytest.fixture(autouse=True)
def kept_graphs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where graphs are kept that are exported; none are there yet."""
    monkeypatch.setattr(open_network, "EXPORTED_GRAPHS", tmp_path / "kept")
    return tmp_path / "kept"


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed to export is here."""
    monkeypatch.setattr(open_network, "EXPORT_PACKAGES", ("onnx", "onnxscript"))


@pytest.fixture(scope="module")
def with_graphs(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bundle, with its graphs."""
    folder = tmp_path_factory.mktemp("graphs") / "small"
    shutil.copytree(small_bundle, folder)
    sources = Bundle.load(folder).network_sources()
    write_graphs([sources[name] for name in ANSWERING])
    return folder


@pytest.fixture
def bundle_folder(with_graphs: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(with_graphs, tmp_path / "small"))


def runs_in_onnx(bundle: Bundle) -> set[str]:
    """The names of the networks that are not run by torch."""
    return {name for name in ANSWERING if bundle.networks.session(name)}


def encoded(folder: Path) -> np.ndarray:
    return Bundle.load(folder).encode(FRAMES, TIMES).array


def in_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    with monkeypatch.context() as patched:
        patched.setenv(open_network.RUNTIME, "torch")
        return encoded(folder)


@pytest.mark.parametrize("count", [1, 3, 16])
@pytest.mark.numeric
def test_mini_makes_of_any_number_of_frames_what_torch_makes(count: int) -> None:
    bundle = Bundle.load()
    assert all(bundle.networks.session(name) for name in bundle.network_sources())
    frames = [RNG.integers(0, 256, (90, 160, 3), dtype=np.uint8) for _ in range(count)]
    features = bundle.features(frames)
    tower = Tower.load(bundle.folder / "tower", layer=-1, fine_layers=1, dtype=torch.float32)
    wanted = tower.grid(frames)
    assert features.shape == wanted.shape
    assert np.abs(features - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert bundle.concepts is not None
    times = np.arange(count, dtype=np.float32)
    for name, module in (("projector", bundle.projector), ("concepts", bundle.concepts.tokens)):
        soft, (found,) = (
            soft_tokens(module, features, times),
            bundle.networks.run(name, features, times),
        )
        assert np.abs(found - soft).max() < 1e-4 * np.abs(soft).max()


@pytest.mark.numeric
def test_mini_is_read_and_searched_without_torch_as_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle, torch_alone = Bundle.load(), Bundle.load()
    frames = [RNG.integers(0, 256, (90, 160, 3), dtype=np.uint8) for _ in range(3)]
    features, texts = (
        bundle.features(frames),
        ["", "A  dog's 2 bells &amp; a caf\u00e9!", "so " * 99],
    )
    names = ("projector_reading", "concept_reading", "frame_concepts")
    arrays = {name: (features, TIMES)[: 1 if name == "frame_concepts" else 2] for name in names}
    found = {name: bundle.networks.run(name, *arrays[name]) for name in names}
    rows = bundle.embed_texts(texts), bundle.embed_images(frames)
    monkeypatch.setenv(open_network.RUNTIME, "torch")
    for name in names:
        for one, other in zip(
            found[name], torch_alone.networks.run(name, *arrays[name]), strict=True
        ):
            assert (
                one.shape == other.shape and np.abs(one - other).max() < 1e-4 * np.abs(other).max()
            )
    monkeypatch.setattr("reellama.models.vision.encoder.compute_dtype", lambda *_: torch.float32)
    wanted = torch_alone.embed_texts(texts), torch_alone.embed_images(frames)
    assert max(np.abs(one - other).max() for one, other in zip(rows, wanted, strict=True)) < 1e-4


def test_the_files_of_minis_graphs_hold_no_weights() -> None:
    files = sorted((Bundle.load().folder / "graphs").iterdir())
    assert {file.stem for file in files} == set(Bundle.load().network_sources())
    sizes = {file.stem: file.stat().st_size for file in files}
    assert sizes.pop("texts") < 250_000, "it has the merges of the tokenizer"
    assert sum(sizes.values()) < 60_000


def test_frames_are_resized_as_torch_does_within_one_step_of_255() -> None:
    for height, width in ((432, 768), (37, 500), (600, 20), (192, 192)):
        frame = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
        wanted = F.interpolate(pixels, (192, 192), mode="bilinear", antialias=True)
        found = torch.from_numpy(square_pixels([frame], 192)).permute(0, 3, 1, 2)
        assert (found.int() - wanted.int()).abs().max() <= 1


def test_a_bundle_with_graphs_makes_what_torch_makes(
    with_graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs_in_onnx(Bundle.load(with_graphs)) == {"tower", "projector"}
    assert np.abs(encoded(with_graphs) - in_torch(with_graphs, monkeypatch)).max() < 1e-3


def test_new_weights_of_the_same_shapes_need_no_new_graph(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = encoded(bundle_folder)
    path = bundle_folder / "projector.safetensors"
    weights = load_file(path)
    weights["word_mixture.correction.bias"] += 1
    save_file(weights, path)
    bundle = Bundle.load(bundle_folder)
    after = bundle.encode(FRAMES, TIMES).array
    assert runs_in_onnx(bundle) == {"tower", "projector"} and not bundle.warning
    assert np.abs(after - before).max() > 1e-2
    assert np.abs(after - in_torch(bundle_folder, monkeypatch)).max() < 1e-3


@pytest.mark.parametrize("damage", ["cut off", "another byte", "empty", "another file"])
def test_a_damaged_graph_is_noticed_and_torch_answers(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    path = bundle_folder / "graphs" / "projector.zip"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    whole = path.read_bytes()
    contents = {"cut off": whole[:-700], "another byte": bytes(data), "empty": b""}
    path.write_bytes(contents.get(damage, b"GIF89a" + whole[:40]))
    bundle = Bundle.load(bundle_folder)
    found = bundle.encode(FRAMES, TIMES).array
    assert runs_in_onnx(bundle) == {"tower"}
    assert bundle.warning == f"{path} is not used: it is damaged"
    assert np.abs(found - in_torch(bundle_folder, monkeypatch)).max() < 1e-3


def test_a_graph_of_another_network_is_noticed(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = bundle_folder / "bundle.json"  # the weights of 2 and of 4 heads have the same shapes
    config.write_text(config.read_text().replace('"heads": 2', '"heads": 4'))
    bundle = Bundle.load(bundle_folder)
    found = bundle.encode(FRAMES, TIMES).array
    assert runs_in_onnx(bundle) == {"tower"}
    assert "made for other weights, or by another version" in bundle.warning
    assert np.abs(found - in_torch(bundle_folder, monkeypatch)).max() < 1e-3


def test_a_graph_of_an_older_version_is_noticed(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reellama.models.networks.graph_file.VERSION", 2)
    assert not runs_in_onnx(Bundle.load(bundle_folder))


@pytest.mark.usefixtures("exporting")
def test_a_damaged_graph_is_made_anew_and_kept(bundle_folder: Path, kept_graphs: Path) -> None:
    wanted = encoded(bundle_folder)
    (bundle_folder / "graphs" / "projector.zip").write_bytes(b"")
    first = Bundle.load(bundle_folder)
    assert np.array_equal(first.encode(FRAMES, TIMES).array, wanted)
    assert runs_in_onnx(first) == {"tower", "projector"} and first.warning
    kept = list(kept_graphs.iterdir())
    assert len(kept) == 1
    stamp = kept[0].stat().st_mtime_ns
    again = Bundle.load(bundle_folder)
    assert np.array_equal(again.encode(FRAMES, TIMES).array, wanted)
    assert kept[0].stat().st_mtime_ns == stamp


@pytest.mark.usefixtures("exporting")
def test_what_torch_cannot_export_is_tried_once(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch, kept_graphs: Path
) -> None:
    tried: list[object] = []

    def broken(module: torch.nn.Module, *_: object) -> None:
        tried.append(module)
        raise GraphError("torch cannot export it: a kernel of its own")

    monkeypatch.setattr("reellama.models.networks.graph_export.export_graph", broken)
    first, second = Bundle.load(small_bundle), Bundle.load(small_bundle)
    a, b = first.encode(FRAMES, TIMES).array, second.encode(FRAMES, TIMES).array
    assert np.array_equal(a, b) and len(tried) == 2, "the tower and the projector, once each"
    assert "torch runs the tower: torch cannot export it: a kernel of its own" in first.warning
    assert not second.warning
    assert len(list(kept_graphs.iterdir())) == 2


@pytest.mark.usefixtures("exporting")
def test_a_tower_that_is_not_in_the_bundle_as_safetensors_is_exported_once(
    with_graphs: Path, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(network_sources, "EXPORTED_GRAPHS", tmp_path / "kept")
    path = bundle_folder / "tower" / "open_clip_model.safetensors"
    torch.save(load_file(path), path.with_name("open_clip_pytorch_model.bin"))
    path.unlink()
    (bundle_folder / "graphs" / "tower.zip").unlink()
    first = Bundle.load(bundle_folder)
    found = first.features(FRAMES)
    assert np.array_equal(found, Bundle.load(with_graphs).features(FRAMES)) and not first.warning
    monkeypatch.setattr(open_network, "EXPORT_PACKAGES", ("no such package",))
    again = Bundle.load(bundle_folder)
    assert again.networks.session("tower") and np.array_equal(again.features(FRAMES), found)


def test_a_folder_that_cannot_be_written_keeps_nothing_and_answers(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exporting: None
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setattr(open_network, "EXPORTED_GRAPHS", tmp_path / "a file" / "graphs")
    bundle = Bundle.load(small_bundle)
    bundle.project(np.zeros((1, 4, 32), np.float32), np.zeros(1))
    assert bundle.networks.session("projector") and not bundle.warning


def test_weights_that_are_not_numbers_are_named(bundle_folder: Path) -> None:
    path = bundle_folder / "projector.safetensors"
    weights = load_file(path)
    weights["pooler.queries"][0, 0] = torch.nan
    save_file(weights, path)
    with pytest.raises(BundleError, match="pooler.queries holds NaN"):
        encoded(bundle_folder)
    path.unlink()
    with pytest.raises(BundleError, match="missing; copy the whole bundle"):
        encoded(bundle_folder)


def test_a_graph_that_computes_something_else_is_not_written(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reellama.models.networks.graph_export.TOLERANCE", 0.0)
    before = {path: path.read_bytes() for path in (bundle_folder / "graphs").iterdir()}
    with pytest.raises(ReellamaError, match="away from torch"):
        write_graphs([Bundle.load(bundle_folder).network_sources()["projector"]])
    assert {path: path.read_bytes() for path in (bundle_folder / "graphs").iterdir()} == before


def test_the_same_network_has_the_same_graph_file(with_graphs: Path, bundle_folder: Path) -> None:
    source = Bundle.load(bundle_folder).network_sources()["projector"]
    (path,) = write_graphs([source])
    assert path.read_bytes() == (with_graphs / "graphs" / "projector.zip").read_bytes()
    assert read_graph(path.with_name("none.zip"), "") is None
    assert not [name for name in os.listdir(path.parent) if name.startswith(".")]


def test_onnxruntime_reports_to_nobody(tmp_path: Path) -> None:
    """Its own binaries do, by default, unless they run in CI; they keep a session's number."""
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    kept = {name: value for name, value in kept.items() if "CI" not in name}
    load = [sys.executable, "-c", "import reellama.models.networks.graph_session"]
    subprocess.run(load, env={**kept, "TMPDIR": str(tmp_path)}, check=True)
    assert not list(tmp_path.iterdir())
