"""`reellama export-graphs`: what a bundle's networks compute, as ONNX beside their weights."""

from __future__ import annotations

from pathlib import Path

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.bundle import LABELS, Bundle
from reellama.models.networks.open_network import can_export, write_graphs
from reellama.models.train_extra import INSTALL
from reellama.pipeline.cli.console import note


def run(bundle: str) -> None:
    """Write the graphs of a bundle, each checked against torch."""
    if not can_export():
        raise ReellamaError(f"graphs are written by torch, onnx and onnxscript: {INSTALL}")
    opened = Bundle.load(bundle)
    for path in write_graphs(opened.network_sources().values()):
        note(f"{path}: {path.stat().st_size / 1000:.1f} kB")
    if opened.labels is not None:
        opened.labels.save(opened.folder / LABELS)  # an older file has no names of the classes


def export_trained(folder: Path) -> None:
    """Write the graphs of a bundle that was trained just now; it is as good without them."""
    if not can_export():
        return note("no graphs for a quick start: onnx and onnxscript are missing")
    try:
        run(str(folder))
    except ReellamaError as error:
        note(f"no graphs for a quick start: {error}")
