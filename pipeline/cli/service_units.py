"""How service managers start the server: a systemd unit, or a launchd property list."""

from __future__ import annotations

import plistlib
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

LABEL = "io.reellama.serve"


def command(*groups: Any) -> list[str]:
    """The command that serves, by its whole path, with the options that are not the defaults.

    groups: dataclasses of options; a field `some_name` is the option `--some-name`.
    """
    program = shutil.which("reellama") or str(Path(sys.executable).with_name("reellama"))
    words = [program, "serve"]
    for group in groups:
        for field in fields(group):
            value = getattr(group, field.name)
            if value != field.default:
                for item in value if isinstance(value, list) else [value]:
                    words += ["--" + field.name.replace("_", "-"), _whole(item)]
    return words


def _whole(value: object) -> str:
    """A value as text; what is in a folder by its whole path, for a service starts elsewhere."""
    text = str(value)
    is_path = isinstance(value, Path) or (isinstance(value, str) and Path(text).exists())
    return str(Path(text).absolute()) if is_path else text


def systemd(command: Sequence[str]) -> str:
    """A unit for `~/.config/systemd/user/reellama.service`."""
    # A percent sign begins a specifier there, and a dollar a variable.
    quoted = shlex.join(command).replace("%", "%%").replace("$", "$$")
    return f"""\
[Unit]
Description=reellama: chat with videos
After=network.target

[Service]
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
        "ProgramArguments": list(command),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
    }
    return plistlib.dumps(entries, sort_keys=False).decode()


def unit(kind: str, command: Sequence[str]) -> str:
    """The unit of this kind that runs a command."""
    return {"systemd": systemd, "launchd": launchd}[kind](command)
