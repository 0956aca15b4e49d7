"""Groups of options: dataclasses whose fields are options of the commands that take them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_type_hints

from reellama.pipeline.cli.arguments.grouped_command import FIRST
from reellama.pipeline.cli.arguments.verbosity import Verbosity, set_verbosity


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take dataclasses of options: each field becomes an option of its own.

    In help they stand together under the first sentence of the dataclass. Every such command takes
    --quiet and --verbose as well.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}

    @functools.wraps(command)
    def wrapper(**arguments: Any) -> None:
        def take(group: type) -> Any:
            return group(**{f.name: arguments.pop(f.name) for f in fields(group)})

        set_verbosity(take(Verbosity))
        for name, group in groups.items():
            arguments[name] = take(group)
        command(**arguments)

    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _parameters(groups[parameter.name])
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
    parameters += _parameters(Verbosity)
    # typer reads a command's signature to learn its options.
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def _parameters(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    title = (group.__doc__ or "").split(".")[0]
    parameters = []
    for f in fields(group):
        hint = hints[f.name]
        option = copy(hint.__metadata__[0])
        option.rich_help_panel = None if f.name in FIRST else title
        hint = Annotated[hint.__origin__, option]
        parameters.append(inspect.Parameter(f.name, kind, default=f.default, annotation=hint))
    return parameters
