"""How service managers start the server: a systemd unit, or a launchd property list."""

from __future__ import annotations

import plistlib
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

LABEL = "io.reellama.serve"


def command(arguments: Sequence[str]) -> list[str]:
    """The command that serves, by its whole path, with the options of this call but `--unit`."""
    program = shutil.which(sys.argv[0]) or shutil.which("reellama") or sys.argv[0]
    left = list(arguments)
    for i, argument in enumerate(left):
        if argument == "--unit":
            del left[i : i + 2]
            break
        if argument.startswith("--unit="):
            del left[i]
            break
    return [str(Path(program).absolute()), *left]


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


def unit(kind: str, arguments: Sequence[str]) -> str:
    """The unit of this kind that starts `reellama` with these arguments."""
    return {"systemd": systemd, "launchd": launchd}[kind](command(arguments))
