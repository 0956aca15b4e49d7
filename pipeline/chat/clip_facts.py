"""The facts of a clip that a cache stores beside the features of its frames."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from reellama.pipeline.video.source import FileFacts
from reellama.pipeline.video.subtitles import Subtitle

FACTS = "facts"  # the array beside those of `EncodedFrames`: JSON


@dataclass(frozen=True)
class ClipFacts:
    """The facts of a clip that a cache stores.

    Attributes:
        duration, notes, facts: as in `Clip`.
        footage_caveat: as in `Video`.
        subtitles: those in the file, of the encoded part; None if they must be read again.
    """

    duration: float = 0.0
    notes: tuple[str, ...] = ()
    facts: FileFacts | None = None
    footage_caveat: str = ""
    subtitles: tuple[Subtitle, ...] | None = None

    def to_array(self) -> np.ndarray:
        """These facts as JSON, in an array of bytes."""
        fields = asdict(self)
        fields["remark"] = fields.pop("footage_caveat")  # the key in existing caches
        return np.frombuffer(json.dumps(fields).encode(), np.uint8)

    @classmethod
    def from_array(cls, array: np.ndarray) -> ClipFacts:
        """Parse the array of `to_array`. Raises KeyError, TypeError or ValueError if invalid."""
        fields = json.loads(array.tobytes())
        facts = FileFacts(**fields["facts"]) if fields["facts"] else None
        notes = tuple(map(str, fields["notes"]))
        lines = fields.get("subtitles")
        if lines is not None:
            lines = tuple(
                Subtitle(float(x["start"]), float(x["end"]), str(x["text"])) for x in lines
            )
        return cls(float(fields["duration"]), notes, facts, str(fields["remark"]), lines)
