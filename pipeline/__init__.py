"""Video in, words out.

    from pipeline import VideoChat

    chat = VideoChat("holiday.mp4")
    print(chat.ask("What happens?"))

Names are imported when they are first used, so that `import pipeline` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.chat import Chat as Chat
    from pipeline.engine import Engine as Engine
    from pipeline.engine import Text as Text
    from pipeline.frames import read_frames as read_frames
    from pipeline.sampling import Sampling as Sampling
    from pipeline.video_chat import VideoChat as VideoChat

__all__ = ["Chat", "Engine", "Sampling", "Text", "VideoChat", "read_frames"]

_MODULES = {
    "Chat": "pipeline.chat",
    "Engine": "pipeline.engine",
    "Sampling": "pipeline.sampling",
    "Text": "pipeline.engine",
    "VideoChat": "pipeline.video_chat",
    "read_frames": "pipeline.frames",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
