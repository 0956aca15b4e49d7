"""Files of subtitles beside a video, by their names. It loads nothing, PyAV least of all."""

from __future__ import annotations

from pathlib import Path

SIDECARS = (".srt", ".vtt", ".ass", ".ssa")


def sidecars(path: Path) -> list[Path]:
    """Files of subtitles beside a video: of its very name, then with more in their name."""
    try:
        names = sorted(each.name for each in path.parent.iterdir() if each.suffix in SIDECARS)
    except OSError:
        return []
    own = [name for name in names if Path(name).stem == path.stem or name[:-4] == path.name]
    more = [name for name in names if name.startswith(f"{path.stem}.") and name not in own]
    return [path.with_name(name) for name in [*own, *more]]
