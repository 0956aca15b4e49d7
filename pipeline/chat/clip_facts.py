"""What is known of a clip beside its frames, and how a cache keeps it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from reellama.pipeline.video.source import FileFacts
from reellama.pipeline.video.subtitles import Subtitle

FACTS = "facts"  # the array beside those of `EncodedFrames`: JSON


@dataclass(frozen=True)
class ClipFacts:
    """What a cache keeps of a clip beside its frames' features.

    duration, notes, facts: as `Clip` has them. footage_caveat: as `Video` has it.
    subtitles: those in the file, in the part that was encoded; None where they must be read again.
    """

    duration: float = 0.0
    notes: tuple[str, ...] = ()
    facts: FileFacts | None = None
    footage_caveat: str = ""
    subtitles: tuple[Subtitle, ...] | None = None

    def to_array(self) -> np.ndarray:
        """These facts as JSON, in an array of bytes."""
        fields = asdict(self)
        fields["remark"] = fields.pop("footage_caveat")  # the key that caches have
        return np.frombuffer(json.dumps(fields).encode(), np.uint8)

    @classmethod
    def from_array(cls, array: np.ndarray) -> ClipFacts:
        """What `to_array` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        fields = json.loads(array.tobytes())
        facts = FileFacts(**fields["facts"]) if fields["facts"] else None
        notes = tuple(map(str, fields["notes"]))
        lines = fields.get("subtitles")
        if lines is not None:
            lines = tuple(
                Subtitle(float(x["start"]), float(x["end"]), str(x["text"])) for x in lines
            )
        return cls(float(fields["duration"]), notes, facts, str(fields["remark"]), lines)
