"""Write a timeline as text, JSON, subtitles (SRT, WebVTT), or Markdown with thumbnails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from reellama.pipeline.long_video.timeline import Timeline
from reellama.pipeline.video.subtitles import WRITTEN_BY_US
from reellama.pipeline.video.timestamps import format_time

if TYPE_CHECKING:
    from reellama.pipeline.video.clip import VideoInput


def to_text(timeline: Timeline) -> str:
    """The summary, then one line for each scene."""
    lines = [timeline.summary, ""]
    for scene in timeline.scenes:
        said = f' "{scene.said}"' if scene.said else ""
        lines.append(f"{format_time(scene.start)} - {format_time(scene.end)}  {scene.text}{said}")
    return "\n".join([*lines, *(f"not read: {part}" for part in timeline.skipped)]) + "\n"


def to_json(timeline: Timeline) -> str:
    """A JSON object of path, duration, summary, scenes and skipped."""
    return json.dumps(timeline.to_json(), indent=2, ensure_ascii=False) + "\n"


def to_srt(timeline: Timeline) -> str:
    """SubRip subtitles, one for each scene."""
    blocks = [
        f"{i}\n{_stamp(s.start, ',')} --> {_stamp(s.end, ',')}\n{_cue(s.text)}\n"
        for i, s in enumerate(timeline.scenes, 1)
    ]
    return "\n".join(blocks)


def to_vtt(timeline: Timeline) -> str:
    """WebVTT subtitles, one for each scene."""
    blocks = [
        f"{_stamp(s.start, '.')} --> {_stamp(s.end, '.')}\n{_escaped(_cue(s.text))}\n"
        for s in timeline.scenes
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def to_markdown(timeline: Timeline, pictures: list[str] | None = None) -> str:
    """A table of the scenes; `pictures` are the URLs of a thumbnail for each."""
    title = _plain(timeline.path.name)
    rows = [f"# {title}", "", _plain(timeline.summary), ""]
    rows += ["| time | picture | what is seen |", "| --- | --- | --- |"]
    for i, scene in enumerate(timeline.scenes):
        shown = f"![{format_time(scene.time)}]({pictures[i]})" if pictures else ""
        times = f"{format_time(scene.start)} - {format_time(scene.end)}"
        said = f'"{scene.said}"' if scene.said else ""
        rows.append(f"| {times} | {shown} | {_plain(f'{scene.text} {said}')} |")
    return "\n".join(rows) + "\n"


def write_thumbnails(
    timeline: Timeline, video: VideoInput, folder: Path, side: int = 160
) -> list[Path]:
    """Write a JPEG for each scene into `folder`, which is made; returns their paths.

    side: pixels on the longest side.
    """
    from PIL import Image

    from reellama.pipeline.video.clip import opened, read_frames

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with opened(video) as source:
        for i, scene in enumerate(timeline.scenes, 1):
            end = max(scene.end, scene.time + 0.1)
            clip = read_frames(source, frames=1, start=scene.time, end=end, max_side=side)
            paths.append(folder / f"{i:04}.jpg")
            Image.fromarray(clip.frames[0]).save(paths[-1], quality=80)
    return paths


WRITERS: dict[str, Callable[[Timeline], str]] = {
    "text": to_text,
    "json": to_json,
    "srt": to_srt,
    "vtt": to_vtt,
    "md": to_markdown,
}


def _stamp(seconds: float, point: str) -> str:
    """Hours, minutes, seconds and milliseconds.

    >>> _stamp(3723.5, ",")
    '01:02:03,500'
    """
    ms = round(seconds * 1000)
    hours, minutes = ms // 3_600_000, ms // 60_000 % 60
    return f"{hours:02}:{minutes:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def _cue(text: str) -> str:
    """The text of a subtitle, without empty lines, which end a cue, and without "-->" of its times.

    An invisible mark at its end states that the text is no speech.
    """
    return (" ".join(text.split()).replace("-->", "->") or "...") + WRITTEN_BY_US


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _plain(text: str) -> str:
    """Escape a text for Markdown."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#!" else c for c in " ".join(text.split()))
