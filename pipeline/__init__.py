"""Video in, words out.

    from reellama import VideoChat

    chat = VideoChat("holiday.mp4")
    print(chat.ask("What happens?"))

Names are imported when they are first used, so that `import reellama.pipeline` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reellama.pipeline.chat.conversation import Chat as Chat
    from reellama.pipeline.chat.video_chat import VideoChat as VideoChat
    from reellama.pipeline.llm.engine import Engine as Engine
    from reellama.pipeline.llm.engine import Text as Text
    from reellama.pipeline.llm.generation_options import Sampling as Sampling
    from reellama.pipeline.video.clip import read_frames as read_frames

__all__ = ["Chat", "Engine", "Sampling", "Text", "VideoChat", "read_frames"]

_MODULES = {
    "Chat": "reellama.pipeline.chat.conversation",
    "Engine": "reellama.pipeline.llm.engine",
    "Sampling": "reellama.pipeline.llm.generation_options",
    "Text": "reellama.pipeline.llm.engine",
    "VideoChat": "reellama.pipeline.chat.video_chat",
    "read_frames": "reellama.pipeline.video.clip",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
