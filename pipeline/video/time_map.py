"""Make timestamps continuous that restart or jump, as in joined recordings."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from av.packet import Packet

# A step forward of more seconds is a jump: FFmpeg's own bound (-dts_delta_threshold).
_LEAP = 10.0
# A step back of more seconds is a restart: B-frames are out of order by less.
_BACK = 1.0


class Section(NamedTuple):
    """A section of a file with continuous timestamps."""

    position: int  # offset of the section in the file, bytes
    shift: int  # ticks to add to the section's timestamps


@dataclass
class TimeMap:
    """Maps the timestamps of a video stream to seconds from its start.

    Attributes:
        origin: the timestamp of second 0, in ticks.
        sections: in the order of the file; one section if no timestamp jumps.
        keyframes: ticks and byte offset of each keyframe of a scanned file, else empty.
        end: ticks at which the last frame of a scanned file ends, else 0.
        seek_by: "time"; "position" if timestamps repeat; "start" if there are no timestamps.
    """

    origin: int = 0
    sections: list[Section] = field(default_factory=lambda: [Section(0, 0)])
    keyframes: list[tuple[int, int]] = field(default_factory=list)
    end: int = 0
    seek_by: Literal["time", "position", "start"] = "time"

    def make_continuous(self, packet: Packet) -> None:
        """Shift the timestamps of `packet` by the shift of its section."""
        if len(self.sections) == 1 or packet.pos is None:
            return
        after = bisect_right(self.sections, packet.pos, key=lambda section: section.position)
        shift = self.sections[max(0, after - 1)].shift
        if packet.pts is not None:
            packet.pts += shift
        if packet.dts is not None:
            packet.dts += shift

    def keyframe_position(self, ticks: float) -> int:
        """The byte offset of the last keyframe at or before `ticks`."""
        after = bisect_right(self.keyframes, ticks, key=lambda keyframe: keyframe[0])
        return self.keyframes[max(0, after - 1)][1] if self.keyframes else 0


def scan_times(packets: Iterable[Packet], tick: float, frame_ticks: int) -> TimeMap:
    """Compute the time map of a stream from all of its packets, in decoding order.

    Where timestamps go back by more than _BACK or on by more than _LEAP seconds, the parts are
    joined without a gap. Time begins with the first keyframe, as in a recording that was cut the
    packets before cannot be decoded.

    Args:
        tick: seconds of one tick.
        frame_ticks: ticks from one frame to the next, for packets without timestamps.
    """
    times = TimeMap()
    clock: int | None = None  # decoding time of the packet before, made continuous
    first_packet: int | None = None
    for packet in packets:
        stamp = packet.dts if packet.dts is not None else packet.pts
        if clock is None:
            clock = times.end = stamp or 0
        elif stamp is None:
            clock += frame_ticks
        else:
            shift = times.sections[-1].shift
            shown = stamp if packet.pts is None else packet.pts
            goes_back = (stamp + shift - clock) * tick < -_BACK
            leaps = min(stamp + shift - clock, shown + shift - times.end) * tick > _LEAP
            if goes_back or leaps:
                # A keyframe begins another recording; elsewhere a counter has run over.
                shift = times.end - shown if packet.is_keyframe else clock + frame_ticks - stamp
                times.sections.append(Section(packet.pos or 0, shift))
            clock = stamp + times.sections[-1].shift
        shown = clock if packet.pts is None else packet.pts + times.sections[-1].shift
        if packet.is_keyframe:
            times.keyframes.append((shown, packet.pos or 0))
        first_packet = shown if first_packet is None else first_packet
        times.end = max(times.end, shown + (packet.duration or frame_ticks))
    times.origin = times.keyframes[0][0] if times.keyframes else first_packet or 0
    times.seek_by = "position" if len(times.sections) > 1 else "time"
    return times
