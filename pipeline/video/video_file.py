"""Read a video file with PyAV: the times of its frames, and the frames at given times.

Two handles are open on the file. One decodes; the other only reads packets, to find the keyframe
before a time without disturbing the decoder. By that keyframe it is decided whether to seek or to
decode on, so that an hour of video takes little longer than a minute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple

from reellama.pipeline.video.container import Container
from reellama.pipeline.video.cut_off import film_follows
from reellama.pipeline.video.pictures.frame_conversion import FrameConverter
from reellama.pipeline.video.source import FileFacts, Frame, FrameSource, VideoError
from reellama.pipeline.video.subtitles import Subtitle, read_subtitles

__all__ = ["VideoError", "VideoFile"]

_FOLLOWS = "another film follows in this file and is not read: join films with ffmpeg's concat"
# Seconds to seek back, one after the other, until a keyframe is found at or before a time.
_SEEK_BACK = (0.0, 1.0, 5.0, 30.0, 300.0)


class _Keyframe(NamedTuple):
    """A keyframe, in seconds."""

    time: float  # at which it appears
    seek: float  # to which to seek in order to decode it


class VideoFile(FrameSource):
    """A video file as a `FrameSource`. Close it, or use it in a `with` block.

    Raises VideoError if the file has no video that FFmpeg can decode.
    """

    def __init__(self, path: Path):
        self.path = path
        self.notes: list[str] = []
        self._converter = FrameConverter()
        self._index = Container(path)
        try:
            self._decoder = Container(path, self._index.times)
        except BaseException:
            self._index.close()
            raise
        try:
            self.duration = self._measure()
            if film_follows(path):
                self.notes.append(_FOLLOWS)
            self.facts: FileFacts | None = self._index.facts
        except BaseException:
            self.close()
            raise

    def subtitles(self) -> tuple[Subtitle, ...]:
        """The subtitles in the file or beside it; see `read_subtitles`."""
        inside = self._index.has_subtitles
        return read_subtitles(self.path, self._index.seconds(0), inside=inside)

    def close(self) -> None:
        """Close the file."""
        self._decoder.close()
        self._index.close()

    def frames_at(self, times: Sequence[float], *, coarse: bool = False) -> Iterator[Frame]:
        """The frames on screen at `times` (seconds, ascending), without repetitions.

        coarse: yield the last keyframe between the previous time and the time, if there is one,
        instead of decoding from there up to the time.
        """
        frames: Iterator[Frame] = iter(())
        shown: Frame | None = None  # on screen until `upcoming` appears
        upcoming: Frame | None = None
        last_yielded: Frame | None = None
        previous = math.inf  # so the first frame is never coarse: it could be before all times
        for time in times:
            if upcoming is None or upcoming.time <= time:
                keyframe = self._keyframe_before(time)
                if shown is None or keyframe.time > (upcoming or shown).time:
                    frames, shown = self._decode(keyframe), None
                    upcoming = next(frames, None)
                    if coarse and upcoming is not None and keyframe.time > previous:
                        time = upcoming.time
            while upcoming is not None and upcoming.time <= time:
                shown, upcoming = upcoming, next(frames, None)
            previous = time
            frame = shown or upcoming
            if frame is not None and frame is not last_yielded:
                last_yielded = frame
                yield frame
        self._note_damage()

    def frames_between(self, start: float, end: float) -> Iterator[Frame]:
        """All frames on screen in [start, end), including one that appeared before `start`."""
        shown: Frame | None = None
        for frame in self._decode(self._keyframe_before(start)):
            if frame.time >= end:
                break
            if frame.time > start:
                if shown is not None:
                    yield shown
                shown = None
                yield frame
            else:
                shown = frame
        if shown is not None:
            yield shown
        self._note_damage()

    def frame_times(self, start: float, end: float) -> Iterator[float]:
        """The times of the frames of `frames_between`, ascending, without decoding."""
        shown = -math.inf  # the last frame that appeared by `start`
        for time in self._presentation_times(self._keyframe_before(start)):
            if time >= end:
                break
            if time > start:
                if shown > -math.inf:
                    yield shown
                    shown = -math.inf
                yield time
            else:
                shown = max(shown, time)
        if shown > -math.inf:
            yield shown

    def _presentation_times(self, keyframe: _Keyframe) -> Iterator[float]:
        """The times of all packets from `keyframe` on, in order of presentation."""
        waiting: list[float] = []
        self._index.seek(keyframe.seek)
        for time, packet in self._index.packets():
            heappush(waiting, time)
            # All later packets are shown after this packet is decoded.
            settled = -math.inf if packet.dts is None else self._index.seconds(packet.dts)
            while waiting and waiting[0] < settled:
                yield heappop(waiting)
        yield from sorted(waiting)

    def keyframe_times(self, start: float, end: float) -> Iterator[float]:
        """The times of the keyframes in [start, end), without decoding."""
        self._index.seek(self._keyframe_before(start).seek)
        for time, packet in self._index.packets():
            if packet.is_keyframe and time >= end:
                break
            if packet.is_keyframe and time >= start:
                yield time

    def _decode(self, keyframe: _Keyframe) -> Iterator[Frame]:
        """Frames in order of presentation, from `keyframe` on."""
        self._decoder.seek(keyframe.seek)
        for time, frame in self._decoder.frames():
            yield Frame(time, partial(self._converter.rgb, frame, self._decoder.pixel_aspect))

    def _keyframe_before(self, time: float) -> _Keyframe:
        """The last keyframe at or before `time`, or the start of the file if none is found.

        A seek may land too late (MP4 indexes decoding times, which run ahead of presentation) or
        between keyframes (MPEG-TS), hence the steps back.
        """
        for back in _SEEK_BACK:
            if time - back <= 0.0:
                break
            self._index.seek(time - back)
            for packet_time, packet in self._index.packets():
                if packet_time > time:
                    break
                if packet.is_keyframe:
                    return _Keyframe(packet_time, time - back)
        return _Keyframe(0.0, 0.0)

    def _measure(self) -> float:
        """Seconds up to the end of the last readable frame; adds a note if the file is cut off.

        Headers state the intended duration. The last packets show what is there.
        """
        if self._index.times.end and not self._index.states_duration:
            end = self._index.seconds(self._index.times.end)
            self._note_cut(end, None)
            return end
        stated = self._index.stated_duration()
        video_end, end = 0.0, 0.0
        if stated is not None:
            self._index.seek(self._keyframe_before(stated).seek)
            video_end, end = self._index.extent()
        if video_end <= 0.0:
            self._index.seek(0.0)
            video_end, end = self._index.extent()
        if video_end <= 0.0:
            raise VideoError(f"{self.path}: no frame can be read; the file is cut off or damaged")
        self._note_cut(end, stated if self._index.states_duration else None)
        return video_end

    def _note_cut(self, end: float, stated: float | None) -> None:
        """Add a note if the file is cut off at `end` seconds, before its `stated` duration."""
        if stated is not None and end < 0.999 * stated - 0.25:
            self.notes.append(f"the file breaks off after {end:.1f} s of {stated:.1f} s")
        elif self._index.is_cut_off:
            self.notes.append(f"the file breaks off after {end:.1f} s")

    def _note_damage(self) -> None:
        note = "parts of the file are damaged and were left out"
        if self._decoder.damaged and note not in self.notes:
            self.notes.append(note)
