"""Say which kernels llama.cpp and torch use; fail unless they are those asked for.

python tests/helpers/kernels.py avx2
"""

import sys

import llama_cpp
import torch

from reellama.gguf_tools.runtime import backend

# What llama.cpp must not report, and what torch must say that it uses.
NEWER = {"avx2": ("AVX512", "AMX"), "x86-64": ("SSE3", "AVX", "FMA", "F16C", "AMX")}
CAPABILITY = {"avx2": "AVX2", "x86-64": "DEFAULT"}


def main(asked: str) -> None:
    info, capability = backend.system_info(), torch.backends.cpu.get_cpu_capability()
    sys.stdout.write(f"{llama_cpp.__file__}\n{info}\ntorch: {capability}\n")
    newer = [name for name in NEWER[asked] if f"{name} = 1" in info]
    if newer or capability != CAPABILITY[asked]:
        sys.exit(f"these are not the kernels of {asked}")


if __name__ == "__main__":
    main(*sys.argv[1:])
