"""A copy of SmolLM2 whose logits are off by as much as they are on another processor.

python -m tests.helpers.perturbed_llm SEED FOLDER

With FOLDER in PYTHONPATH the tests meet that copy instead, at the speed of this processor's
kernels: what rests on the likelier of two close tokens, or on what a seed happens to draw, fails
with one seed or another. All else is as it was: what is compared reads the same file.
"""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.locate.find import SMOLLM2_PACKAGE

# Of each weight of the norms, as a standard deviation. Logits then differ by 0.27 (root mean
# square), as they do between llama.cpp's kernels for AVX512, AVX2 and plain x86-64.
NOISE = 0.01


def write(seed: int, folder: Path) -> Path:
    """Copy the package of SmolLM2 into `folder`, perturbed; returns the path of the GGUF file."""
    package = find_spec(SMOLLM2_PACKAGE)
    assert package is not None and package.submodule_search_locations
    copy = folder / SMOLLM2_PACKAGE
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(package.submodule_search_locations[0], copy)
    (path,) = copy.glob("*.gguf")
    rng = np.random.default_rng(seed)
    for tensor in read_gguf(path).tensors.values():
        if tensor.name.endswith("norm.weight"):
            weights = np.memmap(path, np.float32, "r+", tensor.offset, tensor.shape)
            weights *= (1 + NOISE * rng.standard_normal(tensor.shape)).astype(np.float32)
    return path


if __name__ == "__main__":
    print(write(int(sys.argv[1]), Path(sys.argv[2])))  # noqa: T201
