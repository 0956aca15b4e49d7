"""Compare what `reellama gguf convert` writes with what llama.cpp's own converter does.

    python -m benchmarks.converter --source llama.cpp

`--source` is a checkout of llama.cpp, with `convert_hf_to_gguf.py`; the source package of
llama-cpp-python has one in `vendor/llama.cpp`. Small models of random weights are made of each
family, and each is converted by both into F32, F16, BF16 and Q8_0. Tensors are compared by names,
types, shapes and bytes, and metadata by keys and values. The tokenizers are made on the spot, so
llama.cpp's check of their hash is answered for it.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader

from reellama.gguf_tools.conversion.convert import convert
from reellama.gguf_tools.format.reader import read_gguf
from tests.gguf_tools.conversion.test_convert import CONFIGS, make

TYPES = ("f32", "f16", "bf16", "q8_0")
THEIRS = """
import sys
from reellama.models.vision.torchvision_compat import ensure_torchvision
ensure_torchvision()
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
from pathlib import Path
import gguf
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: sys.argv[4]
folder, out = Path(sys.argv[2]), Path(sys.argv[3])
kinds = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
for name in sys.argv[5:]:
    hparams = ModelBase.load_hparams(folder, False)
    hparams.setdefault("n_ctx", hparams.get("n_positions"))  # newer folders leave it out
    kind = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    model = kind(folder, gguf.LlamaFileType[kinds[name]], out / f"theirs-{name}.gguf",
                 hparams=hparams)
    if not (folder / "tokenizer.model").is_file():
        model.set_vocab = model._set_vocab_gpt2
    model.write()
"""
# They are written by one of the two only, and read by nobody or with the same default.
ONE_SIDED = (
    "tokenizer.",
    ".vocab_size",
    ".key_length",
    ".value_length",
    ".head_count_kv",
)


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of each tensor."""
    return {
        tensor.name: (
            tensor.tensor_type.name,
            tuple(int(size) for size in tensor.shape),
            np.asarray(tensor.data).tobytes(),
        )
        for tensor in GGUFReader(path).tensors
    }


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The names that are not the same on both sides."""
    return [
        name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)
    ]


def main() -> None:
    """Make, convert and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--family", action="append", choices=CONFIGS, help="default: all")
    options = parser.parse_args()
    print(f"{'family':40} {'tensors':>8} {'bytes alike':>12}  keys that differ")
    for name in options.family or CONFIGS:
        with tempfile.TemporaryDirectory() as scratch:
            compare(name, Path(scratch), options.source)


def compare(name: str, scratch: Path, source: Path) -> None:
    """Print a line of one family."""
    folder = scratch / "Tiny-Model"
    make(name, folder)
    ours = [convert(folder, kind, scratch / f"ours-{kind}.gguf").path for kind in TYPES]
    pre = read_gguf(ours[0]).metadata["tokenizer.ggml.pre"]
    command = [sys.executable, "-c", THEIRS, str(source), str(folder), str(scratch), pre, *TYPES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name:40} llama.cpp's converter: {done.stderr.strip().splitlines()[-1]}")
        return
    n_alike = n_all = 0
    keys: set[str] = set()
    for kind in TYPES:
        pair = [scratch / f"{side}-{kind}.gguf" for side in ("ours", "theirs")]
        a, b = (tensors(path) for path in pair)
        n_all += len(a.keys() | b.keys())
        n_alike += len(a.keys() | b.keys()) - len(differences(a, b))
        first, second = (read_gguf(path).metadata for path in pair)
        keys |= set(differences(first, second))
    shown = sorted(key for key in keys if not any(part in key for part in ONE_SIDED))
    print(f"{name:40} {n_all:8} {n_alike:12}  {', '.join(shown) or 'none'}")


if __name__ == "__main__":
    main()
