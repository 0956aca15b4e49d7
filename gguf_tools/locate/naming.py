"""Parse the names of files (quantization) and of models on the hub (repository, revision, file)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.split_names import part_names

HUB_PREFIX = "hf:"
OLLAMA_PREFIX = "ollama:"
# A quantization within a file's name. "UD-" marks one publisher's variants with other types for
# some tensors. FP16 means F16.
QUANT_PATTERN = re.compile(
    r"(?<![A-Z0-9])(?:UD-)?"
    r"(?:I?Q\d(?:_(?:[0-9]|K|S|M|L|XS|XXS|XL|XXL|NL))*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|B?F16|F32|FP16|FP32)"
    r"(?![A-Z0-9])",
    re.IGNORECASE,
)
# The default quantization, which is small with little loss, and then those most like it.
DEFAULT_QUANTS = ("Q4_K_M", "UD-Q4_K_XL", "Q4_K_S", "Q4_0", "Q4_1", "IQ4_XS", "Q5_K_M", "Q8_0")
REPOSITORY = re.compile(
    r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w.-]+(?:/[\w.-]+)*))?(?::(.+))?", re.ASCII
)
# The host in an address that was pasted from a browser or from Ollama.
HUB_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/", re.I)
# The path of a page about a revision or a file of a repository.
HUB_PAGE = re.compile(r"([^/]+/[^/]+)/(?:tree|blob|resolve)/([^/]+)(?:/(.+))?")


class HubName(NamedTuple):
    """A model on the hub. wanted: a quantization or file, "" for the default; revision: "" for
    main."""

    repo: str
    wanted: str = ""
    revision: str = ""

    def __str__(self) -> str:
        """The name as one string, for `split_hub_name`."""
        repo = f"{self.repo}@{self.revision}" if self.revision else self.repo
        return f"{repo}:{self.wanted}" if self.wanted else repo


def quant_of(name: str) -> str | None:
    """Return the last quantization in a file's name in upper case, or None.

    >>> quant_of("Llama-3.2-1B-Instruct-Q4_K_M.gguf"), quant_of("qwen2.5-fp16.gguf")
    ('Q4_K_M', 'F16')
    """
    quants = QUANT_PATTERN.findall(name)
    return re.sub(r"^FP(?=16|32)", "F", quants[-1].upper()) if quants else None


def is_mmproj_name(name: str) -> bool:
    """Whether a file is a model's image encoder (mmproj), by its name."""
    return "mmproj" in PurePosixPath(name).name.lower()


def split_hub_name(name: str) -> HubName:
    """Parse "[hf:]owner/repo[@revision][:quantization-or-file]", or the address of such a page.

    >>> split_hub_name("https://hf.co/o/r/blob/main/r-Q8_0.gguf")
    HubName(repo='o/r', wanted='r-Q8_0.gguf', revision='')

    Raises GGUFError for anything else.
    """
    text = name.strip().removeprefix(HUB_PREFIX)
    bare = HUB_ADDRESS.sub("", text, count=1)
    if bare != text:
        page = HUB_PAGE.fullmatch(bare.split("?")[0].split("#")[0].rstrip("/"))
        bare = f"{page[1]}@{page[2]}" + (f":{page[3]}" if page[3] else "") if page else bare
    match = REPOSITORY.fullmatch(bare.rstrip("/"))
    if match is None or "--" in match[1] or ".." in f"{match[1]}{match[2]}":
        raise GGUFError(
            f"{name} is not a name on the hub; write OWNER/REPO, OWNER/REPO:Q4_K_M or "
            "OWNER/REPO:FILE.gguf"
        )
    revision = match[2] or ""
    return HubName(match[1], match[3] or "", "" if revision == "main" else revision)


def choose_file(names: Iterable[str], wanted: str, where: str) -> str:
    """Choose a model's file, or the first file of a split model, in a repository.

    Args:
        names: paths of all files in the repository.
        wanted: a quantization, a file's name, or "" for the best default.
        where: the repository, for messages.

    Raises:
        GGUFError: no file fits, or several do.
    """
    files = sorted({part_names(name)[0] for name in names if name.lower().endswith(".gguf")})
    if not files:
        raise GGUFError(f"{where} has no GGUF file; look for a repository with GGUF in its name")
    models = [name for name in files if not is_mmproj_name(name)] or files
    if wanted:
        fitting = _named(files, wanted) or _quantized(models, wanted)
    else:
        fitting = models if len(models) == 1 else _preferred(models, DEFAULT_QUANTS)
    if len(fitting) == 1:
        return fitting[0]
    missing = f"no {wanted}" if wanted else "no quantization that is the usual choice"
    problem = "several files that fit" if fitting else missing
    choices = fitting or short_names(models).values()
    raise GGUFError(f"{where} has {problem}; choose one of: {', '.join(choices)}")


def short_names(names: Iterable[str]) -> dict[str, str]:
    """The shortest name of each file of a repository: its quantization, or its name if ambiguous.

    >>> short_names(["a-Q4_0.gguf", "b-F16.gguf", "c-F16.gguf"])
    {'a-Q4_0.gguf': 'Q4_0', 'b-F16.gguf': 'b-F16.gguf', 'c-F16.gguf': 'c-F16.gguf'}
    """
    quants = {name: None if is_mmproj_name(name) else quant_of(name) for name in names}
    counts = Counter(quants.values())
    return {name: q if q and counts[q] == 1 else name for name, q in quants.items()}


def _named(files: list[str], wanted: str) -> list[str]:
    """The file with this path, or else those with this name, in whatever folder."""
    name = wanted if wanted.lower().endswith(".gguf") else f"{wanted}.gguf"
    name = part_names(name)[0]
    return [f for f in files if f == name] or [f for f in files if PurePosixPath(f).name == name]


def _quantized(files: list[str], wanted: str) -> list[str]:
    quants = {name: quant_of(name) for name in files}
    exact = quant_of(wanted) or wanted.upper()
    same = [name for name, quant in quants.items() if quant == exact]
    return same or [name for name, quant in quants.items() if quant == f"UD-{exact}"]


def _preferred(files: list[str], order: Iterable[str]) -> list[str]:
    """The files of the first quantization in `order` that any file has."""
    by_quant = ([name for name in files if quant_of(name) == quant] for quant in order)
    return next(filter(None, by_quant), [])
