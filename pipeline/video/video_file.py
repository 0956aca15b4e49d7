"""One video file, read through PyAV: where its frames are, and the frames at given times.

Two handles are open on the file. One decodes; the other only looks at packets, so it can ask "which
keyframe comes before this moment?" without disturbing the decoder. That answer decides between
seeking and decoding on, and it is why an hour of video costs little more than a minute of it.
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
# How far back to seek, in seconds, until a keyframe turns up at or before the wanted time.
_SEEK_BACK = (0.0, 1.0, 5.0, 30.0, 300.0)


class _Keyframe(NamedTuple):
    """When a keyframe appears, and where to seek so that decoding meets it, both in seconds."""

    time: float
    seek: float


class VideoFile(FrameSource):
    """A video file as a `FrameSource`. Close it, or use it in a `with` block.

    Raises VideoError where the file has no video that FFmpeg can decode.
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
        """The frames on screen at `times` (seconds, ascending); a frame never comes twice.

        coarse: take the last keyframe between the time before and the wanted one, where there is
        one, instead of decoding from there up to the wanted time.
        """
        frames: Iterator[Frame] = iter(())
        shown: Frame | None = None  # on screen until `upcoming` appears
        upcoming: Frame | None = None
        taken: Frame | None = None
        previous = math.inf  # the first frame is never a coarse one: it could lie before all times
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
            if frame is not None and frame is not taken:
                taken = frame
                yield frame
        self._note_damage()

    def frames_between(self, start: float, end: float) -> Iterator[Frame]:
        """Every frame on screen in [start, end): also the one that appeared before `start`."""
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
        """When the frames of `frames_between` appear, ascending, without decoding anything."""
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
        """Times of all packets from `keyframe` on, in order of presentation."""
        waiting: list[float] = []
        self._index.seek(keyframe.seek)
        for time, packet in self._index.packets():
            heappush(waiting, time)
            # Whatever follows is shown after this packet is decoded.
            settled = -math.inf if packet.dts is None else self._index.seconds(packet.dts)
            while waiting and waiting[0] < settled:
                yield heappop(waiting)
        yield from sorted(waiting)

    def keyframe_times(self, start: float, end: float) -> Iterator[float]:
        """Times in seconds of the keyframes in [start, end), without decoding anything."""
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
        """The last keyframe at or before `time`; the start of the file where it does not tell.

        A seek may land too late (MP4 indexes decoding times, which run ahead of presentation) or
        between keyframes (MPEG-TS), hence the steps back.
        """
        for back in _SEEK_BACK:
            if time - back <= 0.0:
                break
            self._index.seek(time - back)
            for at, packet in self._index.packets():
                if at > time:
                    break
                if packet.is_keyframe:
                    return _Keyframe(at, time - back)
        return _Keyframe(0.0, 0.0)

    def _measure(self) -> float:
        """Seconds up to the end of the last frame that can be read; notes a file that is cut off.

        Headers state what was meant to be written. The packets at the end say what is there.
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
        """Tell that the file ends after `end` seconds and before its end, where that shows."""
        if stated is not None and end < 0.999 * stated - 0.25:
            self.notes.append(f"the file breaks off after {end:.1f} s of {stated:.1f} s")
        elif self._index.is_cut_off:
            self.notes.append(f"the file breaks off after {end:.1f} s")

    def _note_damage(self) -> None:
        note = "parts of the file are damaged and were left out"
        if self._decoder.damaged and note not in self.notes:
            self.notes.append(note)
