"""Make torchvision importable beside a torch build that it was not compiled for.

open_clip, timm and transformers import torchvision for its image transforms, which are pure Python.
A CUDA build of torchvision cannot register its compiled operators with a CPU build of torch, and
the import fails with `torchvision::nms does not exist`. This combination is common, because pip's
default index has only CUDA builds of torchvision for Linux. The pure-Python part works once the two
schemas that torchvision looks up are declared.
"""

from __future__ import annotations

import functools
import importlib
import sys

import torch

# Schemas as torchvision's own C++ sources declare them (ops/nms.cpp, ops/quantized).
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@functools.cache
def ensure_torchvision() -> bool:
    """Import torchvision; returns True if the missing operator schemas had to be declared for it.

    Call it before every import of open_clip, timm or transformers.
    """
    try:
        importlib.import_module("torchvision")
        return False
    except (RuntimeError, OSError) as error:
        if "torchvision" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # else a half-imported module is imported again
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS.values():
        library.define(schema)
    _keep_alive.append(library)  # the schemas vanish with the object
    importlib.import_module("torchvision")
    return True


_keep_alive: list[torch.library.Library] = []
