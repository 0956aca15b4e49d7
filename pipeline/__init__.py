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
    from pipeline.chat.conversation import Chat as Chat
    from pipeline.chat.video_chat import VideoChat as VideoChat
    from pipeline.llm.engine import Engine as Engine
    from pipeline.llm.engine import Text as Text
    from pipeline.llm.generation_options import Sampling as Sampling
    from pipeline.video.clip import read_frames as read_frames

__all__ = ["Chat", "Engine", "Sampling", "Text", "VideoChat", "read_frames"]

_MODULES = {
    "Chat": "pipeline.chat.conversation",
    "Engine": "pipeline.llm.engine",
    "Sampling": "pipeline.llm.generation_options",
    "Text": "pipeline.llm.engine",
    "VideoChat": "pipeline.chat.video_chat",
    "read_frames": "pipeline.video.clip",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
