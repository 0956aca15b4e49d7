"""What `reellama gguf inspect` says of an mmproj, the file that an LLM sees through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from reellama.gguf_tools.inspection.mmproj_summary import MmprojSummary
from reellama.pipeline.cli.commands.gguf.inspect_tables import pairs

MAX_LLMS = 8  # names in a line


def mmproj(facts: MmprojSummary, llms: Sequence[str]) -> Table:
    """The tower and its projector in a few lines; `llms` are the names of those that fit."""
    return pairs(list(_lines(facts, llms)))


def _lines(facts: MmprojSummary, llms: Sequence[str]) -> Iterator[tuple[str, str]]:
    for problem in facts.problems:
        yield "problem", problem
    if not facts.has_vision:
        return
    whose = facts.models or "not known here: its frames are taken in full"
    yield "projector", f"{facts.projector_type or 'unnamed'} ({whose})"
    yield "senses", "pictures and sound" if facts.has_audio else "pictures"
    if facts.image_size is not None and facts.patch_size:
        size = f"{facts.image_size} x {facts.image_size} pixels"
        sizes = "any size" if facts.any_size or not facts.image_size else size
        yield "picture", f"{sizes}, in patches of {facts.patch_size} x {facts.patch_size}"
    if tokens := _tokens(facts):
        yield "tokens", tokens
    if facts.tower_layers and facts.tower_width:
        yield "tower", f"{facts.tower_layers:,} layers of width {facts.tower_width:,}"
    if facts.width:
        more = f" and {facts.n_deepstack} more of them" if facts.n_deepstack else ""
        yield "width", f"{facts.width:,} numbers a token{more}"
    if facts.image_mean and facts.image_std:
        mean, std = (", ".join(f"{x:g}" for x in t) for t in (facts.image_mean, facts.image_std))
        yield "colours", f"mean {mean}; standard deviation {std}"
    if ways := _ways(facts):
        yield "in the LLM", ways
    more = f" and {len(llms) - MAX_LLMS} more" if len(llms) > MAX_LLMS else ""
    yield "LLMs here", f"{', '.join(llms[:MAX_LLMS])}{more}" if llms else "none of this width"


def _tokens(facts: MmprojSummary) -> str:
    whole = "a tile" if facts.has_tiles else "a picture"
    if facts.tokens is not None:
        grid = " ({} x {})".format(*facts.grid) if facts.grid else ""
        return f"{facts.tokens:,}{grid} for {whole}"
    if facts.any_size and facts.token_side:
        square = f"one for each {facts.token_side} x {facts.token_side} pixels"
        low, high = facts.token_range or (None, None)
        return f"{square}, {low:,} to {high:,} for {whole}" if low and high else square
    return ""


def _ways(facts: MmprojSummary) -> str:
    """What is special about the tokens in the LLM."""
    ways = ["positions in time, down and to the right (M-RoPE)"] if facts.mrope else []
    if facts.non_causal:
        ways.append("those of a picture see each other")
    if facts.merged_frames and facts.merged_frames > 1:
        ways.append(f"{facts.merged_frames} frames of a video become one picture")
    if facts.is_grid is False:
        ways.append("no grid, so they are not pooled over space")
    return "; ".join(ways)
