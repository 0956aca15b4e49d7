"""`reellama search`: the moments of videos that fit some words."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from typer import BadParameter

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.cli.commands.long_video.long_video_options import LongVideoOptions

if TYPE_CHECKING:
    from reellama.pipeline.long_video.video_index import SearchMatch


def run(
    videos: Sequence[Path], words: str, n: int, thumbnails: Path | None, as_json: bool,
    everything: bool, models: LongVideoOptions,
) -> None:  # fmt: skip
    """Print the moments that fit some words, best first; `everything`: also those that do not."""
    from reellama.models.array_cache import ArrayCache
    from reellama.models.open_bundle import open_bundle, search_bundle
    from reellama.pipeline.cli.console import note, note_footage_caveat, out, strip_control
    from reellama.pipeline.cli.progress import step_bar
    from reellama.pipeline.long_video import video_index
    from reellama.pipeline.video.timestamps import format_time

    if not words.strip():
        raise BadParameter("search for what? give a few words")
    bundle = search_bundle(open_bundle(models.bundle, models.mmproj))
    # All indexes are read in the same order by each search.
    cache = None if models.no_cache else ArrayCache(video_index.CACHE_FOLDER, for_scans=True)
    indexes, failed = [], 0
    for video in videos:
        with step_bar(video) as report:
            try:
                indexes.append(
                    video_index.index_video(
                        video,
                        bundle,
                        cache=cache,
                        progress=lambda done, total: report("looking", done, total),
                    )
                )
            except ReellamaError as error:  # the others are searched all the same
                failed += 1
                if len(videos) == failed:
                    raise
                note(str(error))
    matches = video_index.search(
        indexes, words, bundle, n, 0.0 if everything else video_index.MIN_FIT_SHARE
    )
    if not matches:
        note(f'nothing fits "{words}"; --all shows what comes nearest')
    footage = next((index.path for index in indexes if index.is_footage), None)
    if footage is not None:  # a vision model would search with the same tower
        note_footage_caveat(footage, bundle.config.footage_limits)
    pictures = [] if thumbnails is None else _thumbnails(matches, thumbnails)
    if as_json:
        rows: list[dict[str, object]] = [{**asdict(m), "path": str(m.path)} for m in matches]
        for row, picture in zip(rows, pictures, strict=False):
            row["thumbnail"] = str(picture)
        sys.stdout.write(json.dumps(rows, ensure_ascii=False) + "\n")
        return
    for i, match in enumerate(matches):
        shown = f"  {pictures[i]}" if pictures else ""
        line = f"{match.score:5.2f}  {format_time(match.time):>9}  {match.path}{shown}"
        out.print(strip_control(line), markup=False, soft_wrap=True)


def _thumbnails(matches: Sequence[SearchMatch], folder: Path) -> list[Path]:
    """A JPEG of each match, numbered by its rank; each video is opened once for all of its own."""
    from PIL import Image

    from reellama.pipeline.video.clip import open_video, read_frames

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:02}-{match.path.stem}.jpg" for i, match in enumerate(matches, 1)]
    for video in dict.fromkeys(match.path for match in matches):
        with open_video(video) as source:
            for match, path in zip(matches, paths, strict=True):
                if match.path == video:
                    end = match.time + 0.1
                    clip = read_frames(source, frames=1, start=match.time, end=end, max_side=320)
                    Image.fromarray(clip.frames[0]).save(path, quality=85)
    return paths
