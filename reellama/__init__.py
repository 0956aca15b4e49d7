"""Chat with a video on your own machine, through one small GGUF model.

    from reellama import VideoChat

    chat = VideoChat("holiday.mp4")
    print(chat.ask("What happens?"))

The repository's folders are subpackages, through the links beside this file: `pipeline/` is
`reellama.pipeline`. Names are imported when they are first used, so that `import reellama` costs
nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reellama.pipeline import Chat as Chat
    from reellama.pipeline import Engine as Engine
    from reellama.pipeline import Sampling as Sampling
    from reellama.pipeline import Text as Text
    from reellama.pipeline import VideoChat as VideoChat
    from reellama.pipeline import read_frames as read_frames

__all__ = ["Chat", "Engine", "Sampling", "Text", "VideoChat", "read_frames"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("reellama.pipeline"), name)
