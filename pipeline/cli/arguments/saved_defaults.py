"""Defaults of options, saved in a file: `~/.config/reellama/config.toml` on Linux.

    bundle = "~/models/Qwen2.5-VL-7B-Q4_K_M.gguf"   # for every command that has --bundle
    threads = 4

    [ask]                                           # for one command
    max-tokens = 100

Names are those of the options, without dashes before them. What is typed wins.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.user_paths import expand_user
from reellama.pipeline.cli.arguments.grouped_command import HELP_OPTIONS

VARIABLE = "REELLAMA_CONFIG"  # names another file


def config_path() -> Path:
    """Where the file is, or would be."""
    named = os.environ.get(VARIABLE)
    return expand_user(Path(named or Path(platformdirs.user_config_dir("reellama"), "config.toml")))


def saved_defaults(program: Any) -> dict[str, Any]:
    """The file's defaults as click's `default_map` of `program`, a group of commands.

    Raises ReellamaError, with one line, for a file that cannot be read, or is named and not there,
    a name that is no option, and a value that the option does not take.
    """
    path = config_path()
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        if os.environ.get(VARIABLE):
            raise ReellamaError(f"{path}: there is no such file, which {VARIABLE} names") from None
        return {}
    except OSError as error:
        raise ReellamaError(f"{path}: {error.strerror}") from None
    # Imported only now: few people have such a file.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        table = tomllib.loads(content.decode("utf-8"))
    except ValueError as error:  # of TOML or of UTF-8
        raise ReellamaError(f"{path}: not TOML ({error})") from None
    unused = {name for name, value in table.items() if not isinstance(value, Mapping)}
    defaults = _defaults_of(program, table, {}, unused, path)
    if unused:
        raise ReellamaError(f"{path}: {_unknown(min(unused), _all_names(program))}")
    return defaults


def _defaults_of(
    command: Any, table: Mapping[str, Any], shared: Mapping[str, Any], unused: set[str], path: Path
) -> dict[str, Any]:
    """The defaults of a command, or of a group and all in it; what is used leaves `unused`."""
    shared = {**shared, **{n: v for n, v in table.items() if not isinstance(v, Mapping)}}
    commands = getattr(command, "commands", None)
    if commands is not None:
        for name, value in table.items():
            if isinstance(value, Mapping) and name not in commands:
                raise ReellamaError(f"{path}: {_unknown(name, commands, 'command')}")
        return {
            name: _defaults_of(inner, table.get(name, {}), shared, unused, path)
            for name, inner in commands.items()
        }
    options = _options(command)
    for name in table:
        if name.replace("_", "-") not in options:
            raise ReellamaError(f"{path}: [{command.name}]: {_unknown(name, options)}")
    defaults = {}
    for name, value in shared.items():
        option = options.get(name.replace("_", "-"))
        if option is not None:
            unused.discard(name)
            defaults[option.name] = _checked(option, command, name, value, path)
    return defaults


def _checked(option: Any, command: Any, name: str, value: Any, path: Path) -> Any:
    """The value, if the option takes it."""
    if isinstance(value, str) and value.startswith("~"):
        value = str(expand_user(value))
    if isinstance(value, bool) != bool(getattr(option, "is_flag", False)):
        kind = "true or false" if not isinstance(value, bool) else "a value, not true or false"
        raise ReellamaError(f"{path}: {name} wants {kind}")
    try:
        # A command remembers which options ask for its help from the first context that it is in.
        context = command.make_context(
            "reellama", [], resilient_parsing=True, help_option_names=HELP_OPTIONS
        )
        option.process_value(context, value)
    except Exception as error:
        reason = getattr(error, "message", None)  # of click's BadParameter
        if reason is None:
            raise
        raise ReellamaError(f"{path}: {name}: {reason}") from None
    return value


def _options(command: Any) -> dict[str, Any]:
    """The options of a command by their main names, without dashes.

    Other names are for typing: a saved `n-ctx` is the context of an answer, and not what
    `gguf perplexity` calls `--ctx`.
    """
    names = {
        param: next((name for name in param.opts if name.startswith("--")), "")
        for param in command.params
        if param.param_type_name == "option"
    }
    return {name.lstrip("-"): param for param, name in names.items() if name}


def _all_names(command: Any) -> Iterator[str]:
    for inner in getattr(command, "commands", {}).values():
        yield from _options(inner)
        yield from _all_names(inner)


def _unknown(name: str, names: Any, what: str = "option") -> str:
    near = difflib.get_close_matches(name.replace("_", "-"), list(names), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"no {what} is called {name!r}{hint}"
