"""`/set`: the settings of a chat by name, the same ones as the options of the command line."""

from __future__ import annotations

import difflib
import types
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from rich.table import Table
from rich.text import Text

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.user_paths import expand_user
from reellama.pipeline.cli.console import strip_control
from reellama.pipeline.cli.options import AnswerOptions, FrameOptions, ModelOptions
from reellama.pipeline.cli.session import Session

SWITCH = {"on": True, "off": False}


def current(session: Session) -> dict[str, Any]:
    """All settings by name."""
    return {
        **{f.name: getattr(session.options, f.name) for f in fields(session.options)},
        "probs": session.probs,
        "frames": session.video_chat.read_options.frames,
        "tokens": session.video_chat.pooling.tokens,
        "pooling": session.video_chat.pooling.method,
        "system": session.video_chat.conversation.system,
    }


def change(session: Session, name: str, value: str) -> None:
    """Set `name` to what `value` says; `none` takes an optional setting away.

    Raises ReellamaError, and changes nothing, for an unknown name or a value that does not fit.
    """
    name = name.replace("-", "_")
    if name == "probs":
        if value not in SWITCH:
            raise ReellamaError("probs is on or off")
        session.probs = SWITCH[value]
    elif name == "system":
        session.video_chat.conversation.system = None if value == "none" else value
    elif name == "frames":
        frames = _parse(FrameOptions, name, value)
        session.reread(replace(session.video_chat.read_options, frames=frames))
    elif name == "tokens":
        tokens = _parse(ModelOptions, name, value)
        session.reread(pooling=replace(session.video_chat.pooling, tokens=tokens))
    elif name == "pooling":
        session.reread(pooling=replace(session.video_chat.pooling, method=value))
    else:
        check_name(session, name)
        options = replace(session.options, **{name: _parse(AnswerOptions, name, value)})
        options.generation()  # a value out of range or a missing file is told now
        session.options = options


def check_name(session: Session, name: str) -> None:
    """Raises ReellamaError, with the nearest name, when there is no such setting."""
    names = current(session)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise ReellamaError(f"there is no setting {strip_control(name)}: {hint}")


def table(session: Session, name: str = "") -> Table:
    """One setting, or all."""
    name = name.replace("-", "_")
    if name:
        check_name(session, name)
    rows = Table(box=None, show_header=False, pad_edge=False)
    for key, value in current(session).items():
        if name in ("", key):
            rows.add_row(key, Text(_written(value), "dim"))
    return rows


def _written(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return " ".join(map(repr, value))
    return strip_control(str(value))


def _parse(options: type, name: str, text: str) -> Any:
    """`text` as the type of the option `name` of a group of options."""
    hint = get_type_hints(options)[name]
    choices = get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)
    if text == "none" and type(None) in choices:
        return None
    kind = next(choice for choice in choices if choice is not type(None))
    if get_origin(kind) is list:
        return [text]
    if kind is Path:
        return expand_user(text)
    try:
        return kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise ReellamaError(f"{name} takes {what}, not {strip_control(text)}") from error
