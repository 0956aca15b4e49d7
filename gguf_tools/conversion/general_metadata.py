"""The `general.*` keys of a GGUF, from a model's card and config files.

The keys, and guesses from a model's name, come from the `gguf` package, as in llama.cpp's own
converter. The card is the YAML at the top of README.md,
https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from gguf import GGUFWriter, Metadata, size_label

from reellama.gguf_tools.conversion.hf_folder import model_name, read_json_if_there

CARD = "README.md"
# Settings of generation_config.json that llama.cpp reads from a GGUF, and their fields.
SAMPLING: dict[str, tuple[str, type]] = {
    "top_k": ("sampling_top_k", int),
    "top_p": ("sampling_top_p", float),
    "min_p": ("sampling_min_p", float),
    "temperature": ("sampling_temp", float),
    "repetition_penalty": ("sampling_penalty_repeat", float),
}
LISTS = ("tags", "languages", "license")
OF_MODELS = ("base_models", "datasets")


def add_general_metadata(writer: GGUFWriter, folder: Path) -> list[str]:
    """Add the general metadata of a folder's model to a writer that has the tensors' names already.

    Returns notes for users, about a card that cannot be read.
    """
    total, shared, expert, n_experts = writer.get_total_parameter_count()
    notes = []
    try:
        card = Metadata.load_model_card(folder)
    except (yaml.YAMLError, OSError, ValueError, RecursionError):
        card, notes = {}, [f"{folder / CARD} starts with no YAML that can be read: left out"]
    config = read_json_if_there(folder / "config.json")
    metadata = Metadata.apply_metadata_heuristic(
        Metadata(), _plain(card), _plain(config), Path(model_name(folder)), total
    )
    generation = read_json_if_there(folder / "generation_config.json")
    for key, (field, kind) in SAMPLING.items():
        if type(value := generation.get(key)) in (int, float):
            setattr(metadata, field, kind(value))
    metadata.name = metadata.name or model_name(folder)
    if metadata.size_label is None and total:
        metadata.size_label = size_label(total, shared, expert, n_experts)
    _checked(metadata).set_gguf_meta_model(writer)
    return notes


def _plain(section: dict[str, Any]) -> dict[str, Any]:
    """A section reduced to texts, lists of texts and lists of objects of texts.

    YAML may read a text, such as a version, as a number or a date; these become texts again.
    """
    plain: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, list):
            entries = [_entry(entry) for entry in value]
            plain[str(key)] = [entry for entry in entries if entry not in (None, {})]
        elif (text := _text(value)) is not None:
            plain[str(key)] = text
    return plain


def _entry(value: object) -> object:
    if isinstance(value, dict):
        texts = {str(key): _text(entry) for key, entry in value.items()}
        return {key: text for key, text in texts.items() if text is not None}
    return _text(value)


def _text(value: object) -> str | None:
    if isinstance(value, (bool, dict, list)) or value is None:
        return None
    # YAML reads a JSON escape of two surrogates as two characters; join them.
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _checked(metadata: Metadata) -> Metadata:
    """Remove the values whose types the writer does not accept."""
    for field in dataclasses.fields(metadata):
        value = getattr(metadata, field.name)
        if field.name in OF_MODELS:
            entries = [entry for entry in value or () if isinstance(entry, dict)]
            setattr(metadata, field.name, entries or None)
        elif isinstance(value, list):
            texts = [entry for entry in value if isinstance(entry, str)]
            setattr(metadata, field.name, texts if texts and field.name in LISTS else None)
    return metadata
