"""An open container and its video stream: seeking, packets and decoded frames, in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from reellama.pipeline.video.cut_off import is_cut_off
from reellama.pipeline.video.file_signature import container_kind, other_kind
from reellama.pipeline.video.pictures.geometry import display_size
from reellama.pipeline.video.source import FileFacts, VideoError
from reellama.pipeline.video.time_map import TimeMap, scan_times

# Containers whose header states the duration even of a file that is cut off. For the others FFmpeg
# estimates the duration from the size of the file.
_STATE_DURATION = {"mov", "matroska", "flv"}
# Formats whose timestamps may jump, besides those that FFmpeg flags (MPEG-TS, MPEG, Ogg).
_MAY_JUMP = {"flv"}
# If the index, at the end of the file, is missing, FFmpeg guesses times after a seek.
_INDEX_AT_END = "mxf"
_TS_DISCONT = 0x0200  # libavformat's AVFMT_TS_DISCONT
# FFmpeg's "tty" demuxer renders any .txt file as a video of its letters.
_NOT_VIDEO = {"tty"}
# A playlist must not make FFmpeg fetch anything from the network. The process that reads untrusted
# files narrows this further.
OPEN_OPTIONS = {"protocol_whitelist": "file,crypto,data"}
# Metadata that is no UTF-8 must not make PyAV refuse a video. From version 19 on PyAV replaces
# invalid bytes by default.
METADATA: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
)
# IndexError: a damaged MPEG-TS can add streams while it is read, which PyAV does not expect.
_DAMAGE = (FFmpegError, IndexError)
_INT64_MAX = 2**63 - 1
_MICROSECONDS = 1_000_000


class Container:
    """An open container. Times are seconds from the first frame of its video stream.

    times: the time map of another handle on the same file, to save a scan of the file.

    Raises VideoError if the file has no video that FFmpeg can decode.
    """

    def __init__(self, path: Path, times: TimeMap | None = None):
        self.path = path
        self.damaged = 0  # packets that could not be decoded
        self._open()
        self.times = times or self._map_times()

    def _open(self) -> None:
        try:
            # "file:" keeps FFmpeg from reading "12:30.mp4" as a protocol named "12".
            container = av.open(f"file:{self.path}", options=OPEN_OPTIONS, **METADATA)
        except (FFmpegError, ValueError) as error:
            raise VideoError(_open_error(self.path, error)) from None
        try:
            self._stream = _video_stream(container, self.path)
        except BaseException:
            container.close()
            raise
        self._container: InputContainer = container
        self._stream.codec_context.thread_type = "AUTO"
        self._tick = self._stream.time_base or Fraction(1, _MICROSECONDS)

    def _map_times(self) -> TimeMap:
        """The time map by the first packet, or by all packets if timestamps may jump."""
        start = self._stream.start_time
        packets = self._raw_packets()
        first = next(packets, None)
        if first is None:
            return TimeMap(origin=start or 0)
        stamp = first.dts if first.pts is None else first.pts
        container_format = self._container.format
        may_jump = container_format.flags & _TS_DISCONT or container_format.name in _MAY_JUMP
        if start is not None and stamp is not None and not may_jump:
            # FFmpeg states 0 for a Matroska file whose video begins after its sound.
            times = TimeMap(origin=max(start, stamp))
            if container_format.name == _INDEX_AT_END and self.is_cut_off:
                times.seek_by = "start"
            return times
        frame_ticks = round(self.pace / self._tick)
        times = scan_times(chain([first], packets), float(self._tick), frame_ticks)
        if start is None or stamp is None:
            times.seek_by = "start"
        return times

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    @property
    def pixel_aspect(self) -> float:
        """Width of a stored pixel divided by its height."""
        return float(self._stream.sample_aspect_ratio or 1)

    @property
    def facts(self) -> FileFacts:
        """Facts of the video from the file's header."""
        context = self._stream.codec_context
        width, height = display_size(context.width, context.height, self.pixel_aspect)
        return FileFacts(width, height, 1 / self.pace, bool(self._container.streams.audio))

    @property
    def has_subtitles(self) -> bool:
        """Whether there is a subtitle track, of text or of pictures."""
        return bool(self._container.streams.subtitles)

    @property
    def pace(self) -> float:
        """Seconds from one frame to the next on average; 1/25 if the file does not state a rate."""
        return float(1 / (self._stream.guessed_rate or 25))

    @property
    def states_duration(self) -> bool:
        """Whether the header states the duration; else FFmpeg estimates it from the size."""
        names = set(self._container.format.name.split(","))
        return bool(_STATE_DURATION & names) and len(self.times.sections) == 1

    @cached_property
    def is_cut_off(self) -> bool:
        """Whether the file is shorter than its container states; see `cut_off`."""
        return is_cut_off(self.path)

    def stated_duration(self) -> float | None:
        """Seconds up to the end of the longest stream, by the header; None if unknown."""
        if not self._container.duration:
            return None
        # Matroska counts from time 0, other formats from the stream that begins first.
        matroska = self._container.format.name.startswith("matroska")
        start = 0 if matroska else (self._container.start_time or 0)
        return (self._container.duration + start) / _MICROSECONDS + self.seconds(0)

    def seconds(self, ticks: int) -> float:
        """Convert a continuous timestamp of the video stream into seconds."""
        # A single division is rounded correctly: frame 5 at 10 frames a second is at exactly 0.5 s.
        return (ticks - self.times.origin) * self._tick.numerator / self._tick.denominator

    def _time(self, item: Packet | VideoFrame, previous: float) -> float:
        """When a packet or frame is shown, in seconds; `previous` is the time of the one before."""
        ticks = item.pts if item.pts is not None else item.dts
        # Rounded, as sums of the pace would drift from exact times such as 0.5 s.
        return round(previous + self.pace, 9) if ticks is None else self.seconds(ticks)

    def seek(self, time: float) -> None:
        """Seek to the last indexed position at or before `time`, or to the start if none is."""
        if time <= 0.0 or self.times.seek_by == "start":
            self._rewind()
            return
        ticks = int(min(time / self._tick, float(_INT64_MAX // 2))) + self.times.origin
        try:
            if self.times.seek_by == "position":
                position = self.times.keyframe_position(ticks)
                self._container.seek(position, unsupported_byte_offset=True)
            else:
                self._container.seek(min(ticks, _INT64_MAX), stream=self._stream, backward=True)
        except FFmpegError:  # no index, or no position that early
            self._rewind()

    def _rewind(self) -> None:
        """Open the file again, as seeking to time 0 misses frames in MPEG-TS, or fails."""
        self.close()
        self._open()

    def packets(self) -> Iterator[tuple[float, Packet[VideoStream]]]:
        """Yield seconds and packet of the video stream from the position on, in decoding order.

        Damage ends the iteration. A raw stream (.h264) has no timestamps and cannot be sought: its
        packets are read from the start, and get times at an even pace.
        """
        time = -self.pace
        for packet in self._raw_packets():
            self.times.make_continuous(packet)
            time = self._time(packet, time)
            yield time, packet

    def _raw_packets(self) -> Iterator[Packet[VideoStream]]:
        """The packets of the video stream from the position on, with the file's timestamps."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    yield packet
        except _DAMAGE:
            self.damaged += 1

    def frames(self) -> Iterator[tuple[float, VideoFrame]]:
        """Yield seconds and frame from the position on, in order of presentation.

        Damaged frames are left out.
        """
        time = -self.pace
        packets = (packet for _, packet in self.packets())
        for packet in chain(packets, [None]):  # None flushes the decoder
            try:
                decoded = self._stream.codec_context.decode(packet)
            except FFmpegError:
                self.damaged += 1
                continue
            for frame in decoded:
                time = max(self._time(frame, time), 0.0)
                yield time, frame

    def extent(self) -> tuple[float, float]:
        """Seconds at which the last frame and the last packet of any stream end.

        Packets are read from the position on.
        """
        video_end = end = 0.0
        with suppress(*_DAMAGE):  # the extent ends where damage begins
            for packet in self._container.demux():
                if not packet.size:
                    continue
                if packet.stream.index == self._stream.index:
                    length = float((packet.duration or 0) * self._tick) or self.pace
                    video_end = max(video_end, self._time(packet, video_end - self.pace) + length)
                elif packet.pts is not None and packet.stream.type == "audio":
                    tick = float(packet.stream.time_base or 0)
                    stop = (packet.pts + (packet.duration or 0)) * tick
                    end = max(end, stop + self.seconds(0))
        return video_end, max(video_end, end)


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    name = container.format.name
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if name in _NOT_VIDEO:
        raise VideoError(f"{path}: this is text, not a video; give a video or picture file")
    if not streams and not is_cut_off(path):
        reason = "has sound but no video" if container.streams.audio else "has no video in it"
        raise VideoError(f"{path}: {reason}; give a file with pictures")
    if not streams or (streams[0].codec_context is None and is_cut_off(path)):
        raise VideoError(_cut_off(path))
    best = container.streams.best("video")
    stream = next((s for s in streams if s is best), streams[0])
    if stream.codec_context is None and (what := other_kind(path)):
        raise VideoError(f"{path}: this is {what}")
    if stream.codec_context is None:
        raise VideoError(f"{path}: this FFmpeg cannot decode its video; convert it to H.264 first")
    return stream


def _open_error(path: Path, error: Exception) -> str:
    """The error message for a file that FFmpeg refuses."""
    if container_kind(path) is not None:
        return _cut_off(path)
    if what := other_kind(path):
        return f"{path}: this is {what}"
    reason = getattr(error, "strerror", None) or str(error)
    return f"{path}: not a video or picture that FFmpeg can read ({reason.splitlines()[0].lower()})"


def _cut_off(path: Path) -> str:
    return (
        f"{path}: this {container_kind(path)} file is cut off or damaged; copy or record it again"
    )
