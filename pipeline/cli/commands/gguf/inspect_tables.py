"""What `reellama gguf inspect` shows, as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from reellama.gguf_tools.format.reader import GGUFFile, Tensor
from reellama.gguf_tools.inspection.diff import Diff, first_difference
from reellama.gguf_tools.inspection.file_summary import FileSummary, KVCacheCost, TokenizerSummary
from reellama.gguf_tools.sizes import show_size
from reellama.pipeline.cli.console import out, strip_control

LENGTH = 60  # characters of a value in a terminal
KIND_LENGTH = 400
FIRST = 4  # elements of a list in a table


def show(*parts: RenderableType) -> None:
    """Print tables and lines with an empty line between."""
    for i, part in enumerate(parts):
        if i:
            out.print()
        out.print(Text(strip_control(part)) if isinstance(part, str) else part)


def aligned(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """A table whose columns but the first are numbers."""
    table = _table(*names)
    for row in rows:
        table.add_row(*row)
    return _right(table, *range(1, len(names)))


def summary(facts: FileSummary) -> Table:
    """The file in a few lines."""
    return pairs(_lines(facts))


def files(one: GGUFFile, other: GGUFFile) -> Table:
    """Which two files are compared."""
    return pairs([("one", str(one.path)), ("other", str(other.path))])


def types(facts: FileSummary) -> Table:
    """Tensors by type."""
    rows = [
        (
            count.type,
            f"{count.n_tensors:,}",
            f"{count.n_elements:,}",
            show_size(count.n_bytes),
            f"{8 * count.n_bytes / count.n_elements:.2f}",
        )
        for count in facts.types
    ]
    return aligned(("type", "tensors", "elements", "size", "bits per weight"), rows)


def metadata(file: GGUFFile) -> Table:
    """Every key; of a list the first elements, and in a terminal long values are cut."""
    table = _table("key", "value")
    for key, value in file.metadata.items():
        table.add_row(Text(_cut(key)), Text(_value(value)))
    return table


def tensors(file: GGUFFile) -> Table:
    """Every tensor."""
    table = _table("tensor", "shape", "type", "size")
    for tensor in file.tensors.values():
        row = _shape(tensor), tensor.type.name, show_size(tensor.n_bytes)
        table.add_row(Text(_cut(tensor.name)), *row)
    return _right(table, 3)


def changed_metadata(diff: Diff) -> Table:
    """Keys whose values differ."""
    table = _table("key", "one", "other")
    for change in diff.metadata:
        one, other = _value(change.one), _value(change.other)
        if isinstance(change.one, list) and isinstance(change.other, list):
            one, other = _at_difference(change.one, change.other)
        table.add_row(Text(_cut(change.name)), Text(one), Text(other))
    return table


def changed_tensors(diff: Diff, *, each: bool) -> Table:
    """Tensors whose type or shape differs: each, or how many changed in the same way."""
    if each:
        table = _table("tensor", "one", "other")
        for change in diff.tensors:
            one, other = _entry(change.one), _entry(change.other)
            table.add_row(Text(_cut(change.name)), one, other)
        return table
    table = _table("tensors", "one", "other")
    pairs = [(change.one, change.other) for change in diff.tensors]
    ways = Counter(
        (_entry(one), _entry(other))
        if one and other and one.shape != other.shape
        else (_kind(one), _kind(other))
        for one, other in pairs
    )
    for (one, other), n in ways.most_common():
        table.add_row(f"{n:,}", one, other)
    return _right(table, 0)


def _lines(facts: FileSummary) -> list[tuple[str, str]]:
    lines = [("file", f"{facts.path}, {show_size(facts.size)}, GGUF version {facts.version}")]
    name = [_cut(facts.name)] if facts.name else []
    if facts.architecture:
        lines.append(("model", ", ".join([*name, f"architecture {facts.architecture}"])))
    if facts.kind:
        lines.append(("kind", _cut(facts.kind, KIND_LENGTH)))
    counts = f"{facts.n_parameters:,} in {facts.n_tensors:,} tensors"
    if facts.n_active_parameters:
        counts += f" ({facts.n_active_parameters:,} of them for a token)"
    bits = f"{facts.bits_per_weight:.2f} bits per weight"
    lines.append(("weights", f"{counts}, {facts.quantization}, {bits}"))
    if facts.n_layer and facts.n_embd:
        lines.append(("shape", f"{facts.n_layer:,} layers of width {facts.n_embd:,}"))
    if facts.n_ctx_train:
        lines.append(("context", f"{facts.n_ctx_train:,} tokens"))
    if facts.kv_per_1000_tokens:
        lines.append(("KV cache", _kv(facts.kv_per_1000_tokens)))
    if facts.tokenizer:
        lines += _tokenizer(facts.tokenizer)
        lines.append(("chat template", "yes" if facts.has_chat_template else "none"))
    return lines


def _kv(cost: KVCacheCost) -> str:
    text = f"{_sizes(cost.full)} for 1,000 tokens"
    if cost.n_sliding:
        text += (
            f"\n{cost.n_sliding} of {cost.n_layer} layers have a window of {cost.window:,} tokens: "
            f"beyond it {_sizes(cost.beyond_window)} where the cache keeps no more than the window"
        )
    return text


def _sizes(bytes_by_type: dict[str, int]) -> str:
    return ", ".join(f"{show_size(n)} ({type_})" for type_, n in bytes_by_type.items())


def _tokenizer(tokenizer: TokenizerSummary) -> list[tuple[str, str]]:
    pre = f" ({_cut(tokenizer.pre)})" if tokenizer.pre else ""
    lines = [("tokenizer", f"{_cut(tokenizer.model)}{pre}, {tokenizer.n_vocab:,} tokens")]
    special = [f"{k} {_quoted(text)} ({id_})" for k, (id_, text) in tokenizer.special.items()]
    return [*lines, ("special tokens", _cut(", ".join(special), 3 * LENGTH))] if special else lines


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list):
        more = ", ..." if len(value) > FIRST else ""
        elements = ", ".join(_value(element) for element in value[:FIRST])
        return _cut(f"{len(value):,}: {elements}{more}")
    if isinstance(value, float):
        return f"{value:.7g}"  # what a float32 can tell
    return str(value).lower() if isinstance(value, bool) else str(value)


def _at_difference(one: list[Any], other: list[Any]) -> tuple[str, str]:
    at = first_difference(one, other)
    here = (_value(side[at]) if at < len(side) else "nothing" for side in (one, other))
    one_text, other_text = (
        f"{len(side):,}: at {at:,} {text}" for side, text in zip((one, other), here, strict=True)
    )
    return one_text, other_text


def _entry(tensor: Tensor | None) -> str:
    return f"{tensor.type.name} [{_shape(tensor)}]" if tensor else "-"


def _kind(tensor: Tensor | None) -> str:
    return tensor.type.name if tensor else "-"


def _shape(tensor: Tensor) -> str:
    return " x ".join(str(n) for n in tensor.shape) or "1"


def _quoted(text: str) -> str:
    """One line of a text, in quotes; how long it was where it is cut."""
    line = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    if len(line) <= LENGTH or not out.is_terminal:
        return f'"{strip_control(line)}"'
    return f'"{strip_control(line[:LENGTH])}..." ({len(text):,} characters)'


def _cut(text: str, length: int = LENGTH) -> str:
    text = strip_control(text.replace("\n", " "))
    is_whole = len(text) <= length or not out.is_terminal
    return text if is_whole else f"{text[:length]}..."


def pairs(lines: list[tuple[str, str]]) -> Table:
    """Names and values, without a head."""
    table = _table("", "")
    table.show_header = False
    for name, value in lines:
        table.add_row(Text(name, "dim"), Text(strip_control(value)))
    return table


def _table(*names: str) -> Table:
    table = Table(*names, box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    return table


def _right(table: Table, *columns: int) -> Table:
    for column in columns:
        table.columns[column].justify = "right"
    return table
