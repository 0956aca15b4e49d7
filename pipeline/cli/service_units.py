"""How service managers start the server: a systemd unit, or a launchd property list."""

from __future__ import annotations

import os
import plistlib
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

LABEL = "io.reellama.serve"
# In the home folder: NAME=VALUE lines, which systemd and a shell read alike. A unit that anybody
# may read is no place for a token.
VARIABLES_FILE = ".config/reellama/serve.env"
# Beginnings of the names of variables that the server or its libraries read.
_VARIABLES = ("REELLAMA_", "HF_", "OLLAMA_", "OMP_NUM_THREADS")
_ASSIGNMENT = re.compile(r"^\s*(\w+)=", re.MULTILINE)
# A shell that takes the variables of the file, where it is there, and becomes the program.
_WITH_VARIABLES = (
    f'file="$HOME/{VARIABLES_FILE}"; set -a; [ ! -r "$file" ] || . "$file"; set +a; exec "$@"'
)


def command(*groups: Any) -> list[str]:
    """The command that serves, by its whole path, with the options that are not the defaults.

    groups: dataclasses of options; a field `some_name` is the option `--some-name`.
    """
    program = shutil.which("reellama") or str(Path(sys.executable).with_name("reellama"))
    words = [program, "serve"]
    for group in groups:
        for field in fields(group):
            value = getattr(group, field.name)
            if value is True:  # a switch
                words.append("--" + field.name.replace("_", "-"))
            elif value != field.default:
                for item in value if isinstance(value, list) else [value]:
                    words += ["--" + field.name.replace("_", "-"), _whole(item)]
    return words


def _whole(value: object) -> str:
    """A value as text; what is in a folder by its whole path, for a service starts elsewhere."""
    text = str(value)
    is_path = isinstance(value, Path) or (isinstance(value, str) and Path(text).exists())
    return str(Path(text).absolute()) if is_path else text


def saved_variables() -> set[str]:
    """Names of the variables that a service gets from the file."""
    try:
        content = (Path.home() / VARIABLES_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return set()
    return set(_ASSIGNMENT.findall(content))


def unsaved_variables() -> list[str]:
    """Names of the variables that are set here, and that a service would not have."""
    set_here = {name for name in os.environ if name.startswith(_VARIABLES)}
    return sorted(set_here - saved_variables())


def systemd(command: Sequence[str]) -> str:
    """A unit for `~/.config/systemd/user/reellama.service`."""
    # A percent sign begins a specifier there, and a dollar a variable.
    quoted = shlex.join(command).replace("%", "%%").replace("$", "$$")
    return f"""\
[Unit]
Description=reellama: chat with videos
After=network.target

[Service]
EnvironmentFile=-%h/{VARIABLES_FILE}
ExecStart={quoted}
Restart=on-failure
NoNewPrivileges=true
PrivateTmp=true
ProtectSystem=full

[Install]
WantedBy=default.target
"""


def launchd(command: Sequence[str]) -> str:
    """A property list for `~/Library/LaunchAgents/io.reellama.serve.plist`."""
    entries = {
        "Label": LABEL,
        "ProgramArguments": ["/bin/sh", "-c", _WITH_VARIABLES, "reellama", *command],
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
    }
    return plistlib.dumps(entries, sort_keys=False).decode()


def unit(kind: str, command: Sequence[str]) -> str:
    """The unit of this kind that runs a command."""
    return {"systemd": systemd, "launchd": launchd}[kind](command)
