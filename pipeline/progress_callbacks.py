"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

# done, total: of frames, or of seconds
Progress = Callable[[float, float], None]
# what is being done, done, total
StepProgress = Callable[[str, float, float], None]
