"""Who may import whom: prompts <- gguf_tools <- models <- pipeline, in no circle, nothing heavy.

The subpackages of `pipeline/` stand in levels. Names, and sizes of folders and modules, are held
as well.

Modules are named by their folders here: `reellama.models.bundle` is `models.bundle`.
"""

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

from reellama.models.train_extra import PACKAGES as PACKAGES_OF_TRAIN

ROOT = Path(__file__).parents[1]
PACKAGES = ("prompts", "gguf_tools", "models", "pipeline")
FORBIDDEN: dict[str, set[str]] = {
    "prompts": {"gguf_tools", "models", "pipeline", "torch", "llama_cpp"},
    "gguf_tools": {"prompts", "models", "pipeline", "torch", "open_clip", "transformers"},
    "models": {"pipeline", "llama_cpp"},
    "pipeline": set(),
}
# Words become token ids by llama.cpp's own tokenizer, and pictures soft tokens by its tower for
# vision GGUFs; models use both. No other way leads there.
GATES = {"models": {"gguf_tools.text.tokenizer", "gguf_tools.mtmd.mtmd_tower"}}
# The subpackages of pipeline/, the lowest level first: each imports from its own and those below.
LEVELS = (
    {"option_fields", "progress_callbacks"},
    {"video", "llm"},
    {"chat", "long_video", "evaluation"},
    {"server", "integrations", "cli"},
)
MAX_MODULES = 15  # of a folder
MAX_LINES = 400  # of a module
# Names of two modules that have a job each; commands, which have the name of their command, aside.
SAME_NAME = {
    "models": {"config"},  # of a training and of a projector
    "pipeline": {"app"},  # the one that serves, and the one with commands
}
VISION = {"torch", "torchvision", "open_clip", "timm", "transformers", "av", "PIL"}
# What the extra `train` brings, and who may import it at the top. All others do in functions, if at
# all, and so are there for whoever answers without it (tests/test_without_torch.py).
TRAIN = {*PACKAGES_OF_TRAIN}
NEEDS_TRAIN = {
    *("models.precision", "models.torch_networks", "models.training"),
    *("models.concepts.concept_head", "models.concepts.concept_tokens"),
    *("models.concepts.footage_classifier", "models.concepts.concept_model"),
    *("models.networks.graph_export", "models.networks.torch_modules"),
    *("models.projector.baselines", "models.projector.pooling", "models.projector.resampler"),
    *("models.projector.renamed_weights", "models.projector.temporal_projector"),
    "models.projector.word_mixture",
    *("models.synthetic.dataset", "models.vision.encoder", "models.vision.torchvision_compat"),
    *("pipeline.cli.commands.train", "pipeline.evaluation.tasks.synthetic_benchmark"),
}


# Module -> the modules that it imports when it runs, at its top or in a function of it.
Graph = Mapping[str, Collection[str]]


def modules() -> dict[str, Path]:
    """Our modules, by their dotted names."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {dotted(path): path for path in paths}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(
    source: str,
    package: str,
    ours: Collection[str],
    *,
    types: bool = False,
    late: bool = True,
) -> Iterator[str]:
    """The modules that `source`, in a package, imports, or with `types` a type checker does.

    Without `late`: only those that it imports when it is imported itself.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree) if types else running(tree, late):
        if isinstance(node, ast.Import):
            yield from (in_folder(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            parents = parents[: len(parents) + 1 - node.level] if node.level else []
            base = in_folder(".".join([*parents, *([node.module] if node.module else [])]))
            for alias in node.names:
                module = in_folder(f"{base}.{alias.name}")
                yield module if module in ours else base


def in_folder(module: str) -> str:
    """A module of ours by its folder, without the package that it is installed in."""
    return module.removeprefix("reellama.")


def running(node: ast.AST, late: bool = True) -> Iterator[ast.AST]:
    """All nodes that are not under `if TYPE_CHECKING:`, nor, without `late`, in a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from (other, *running(other, late))
        elif late or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from (child, *running(child, late))


@functools.cache
def graph(*, types: bool = False, late: bool = True) -> Graph:
    imported_by = {}
    ours = modules()
    for module, path in ours.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        source = path.read_text(encoding="utf-8")
        imported_by[module] = {*imports(source, package, ours, types=types, late=late)} - {module}
    return imported_by


def cycle(graph: Graph) -> list[str]:
    """Modules that import each other in a circle, the first one again at the end; [] for none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def way(graph: Graph, start: str, packages: set[str], gates: set[str]) -> list[str]:
    """The modules through which `start` reaches a package, not beyond a gate; [] if it does not.

    To import `a.b.c` is to import `a` and `a.b` as well.
    """
    ways, left = {start: [start]}, [start]
    while left:
        module = left.pop(0)
        if module.partition(".")[0] in packages:
            return ways[module]
        parents = [module.rsplit(".", n)[0] for n in range(1, module.count(".") + 1)]
        after = [] if module in gates else [*graph.get(module, ()), *parents]
        for each in sorted(set(after) - ways.keys()):
            ways[each] = [*ways[module], each]
            left.append(each)
    return []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.nn as nn, numpy", {"torch.nn", "numpy"}),
        ("def late():\n    from models.vision.encoder import Tower", {"models.vision.encoder"}),
        (
            "from pipeline import video, VideoChat",
            {"pipeline.video", "pipeline"},
        ),
        ("import reellama.pipeline.cli.main", {"pipeline.cli.main"}),
        ("from reellama.pipeline.cli import main", {"pipeline.cli.main"}),
        ("from reellama import pipeline", {"pipeline"}),
        ("from . import main", {"pipeline.cli.main"}),
        ("from .main import run", {"pipeline.cli.main"}),
        ("from ..video import VideoFile", {"pipeline.video"}),
        ("if TYPE_CHECKING:\n    import torch\nelse:\n    import av", {"av"}),
        ("if typing.TYPE_CHECKING:\n    import torch", set()),
        ("# import torch\n'import av'", set()),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, expected: set[str]) -> None:
    ours = {"pipeline", "pipeline.video", "pipeline.cli.main"}
    assert set(imports(source, "pipeline.cli", ours)) == expected


def test_circles_and_ways_are_found() -> None:
    made = {"a": ["b"], "b": ["c.d", "numpy"], "c": ["torch.nn"], "c.d": []}
    assert cycle(made) == []
    assert set(cycle({**made, "c.d": ["a"]})) == {"a", "b", "c.d"}
    assert way(made, "a", {"torch"}, set()) == ["a", "b", "c.d", "c", "torch.nn"]
    assert way(made, "a", {"torch"}, {"c.d"}) == []
    assert way(made, "a", {"av"}, set()) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert cycle(graph()) == []


def subpackage(module: str) -> str:
    """The folder or module right inside a package, to which a module belongs."""
    return module.split(".")[1] if "." in module else ""


def test_subpackages_of_the_pipeline_import_only_from_their_level_and_below() -> None:
    """Not for their types either."""
    level = {name: i for i, names in enumerate(LEVELS) for name in names}
    assert {subpackage(each) for each in modules() if each.startswith("pipeline.")} == {*level}
    for module, imported in graph(types=True).items():
        for each in imported:
            if module.startswith("pipeline.") and each.startswith("pipeline."):
                lower, upper = level[subpackage(each)], level[subpackage(module)]
                assert lower <= upper, f"{module} imports {each}"


@pytest.mark.parametrize("package", ["gguf_tools", "models", "pipeline"])
def test_no_subpackages_import_each_other_in_a_circle(package: str) -> None:
    subpackages: dict[str, set[str]] = {}
    for module, imported in graph().items():
        if module.startswith(f"{package}."):
            others = {subpackage(each) for each in imported if each.startswith(f"{package}.")}
            subpackages.setdefault(subpackage(module), set()).update(others - {subpackage(module)})
    assert cycle(subpackages) == []


def test_a_folder_is_seen_at_a_glance() -> None:
    folders = Counter(path.parent for path in modules().values() if path.name != "__init__.py")
    assert {folder: n for folder, n in folders.items() if n > MAX_MODULES} == {}


def test_a_module_holds_one_idea() -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in modules().values()
    }
    assert {path for path, n in lines.items() if n > MAX_LINES} == set()


def test_no_two_public_classes_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for module, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_modules_of_a_package_have_one_name(package: str) -> None:
    """But for commands of the command line, which are called as what they do is called."""
    names = Counter(
        path.stem
        for module, path in modules().items()
        if module.startswith(f"{package}.")
        and path.name != "__init__.py"
        and "commands" not in path.parts
    )
    assert {name for name, n in names.items() if n > 1} == SAME_NAME.get(package, set())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_module_imports_only_what_its_folder_may(package: str) -> None:
    """Not for its types either."""
    for module, imported in graph(types=True).items():
        if module.partition(".")[0] == package:
            found = {each.partition(".")[0] for each in imported}
            assert not found & FORBIDDEN[package], module


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_reaches_only_what_it_may(package: str) -> None:
    """Neither by itself nor through anything of ours that it imports."""
    everything = graph()
    gates = GATES.get(package, set())
    for module in everything:
        if module.partition(".")[0] == package:
            assert way(everything, module, FORBIDDEN[package], gates) == []


def test_what_needs_the_extra_to_train_is_known() -> None:
    at_import = graph(late=False)
    reaching = {module for module in at_import if way(at_import, module, TRAIN, set())}
    listed = {name for name in modules() if any(lies_in(name, each) for each in NEEDS_TRAIN)}
    assert reaching - listed == set()
    assert {each for each in NEEDS_TRAIN if not any(lies_in(n, each) for n in reaching)} == set()


@functools.cache
def subpackages() -> dict[str, set[str]]:
    """Each subpackage of docs/design.md and what it may import, as dotted names."""
    design = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    table: dict[str, set[str]] = {}
    for name, imported in re.findall(r"^\| `([\w/]+)` \|[^|\n]*\|([^|\n]*)\|$", design, re.M):
        listed = {each.replace("/", ".") for each in re.findall(r"`([\w/]+)`", imported)}
        table[name.replace("/", ".")] = {*table} if "all of the above" in imported else listed
    return table


def lies_in(module: str, subpackage: str) -> bool:
    return f"{module}.".startswith(f"{subpackage}.")


def test_every_module_of_a_folder_stands_in_a_subpackage_of_the_design() -> None:
    loose = [name for name in modules() if not any(lies_in(name, each) for each in subpackages())]
    assert {name for name in loose if name.count(".") > 1} == set()


@pytest.mark.parametrize("subpackage", subpackages())
def test_a_subpackage_imports_only_what_the_design_says(subpackage: str) -> None:
    """Modules outside of subpackages may be imported wherever their folder may."""
    table = subpackages()
    allowed = {subpackage, *table[subpackage]}
    folders = {name.partition(".")[0] for name in allowed}
    for module, imported in graph().items():
        for name in imported if lies_in(module, subpackage) else ():
            in_subpackage = any(lies_in(name, each) for each in table)
            ours = name.partition(".")[0] in PACKAGES
            fits = any(lies_in(name, each) for each in allowed)
            assert not ours or fits or (not in_subpackage and name.partition(".")[0] in folders), (
                f"{module} imports {name}"
            )


def loaded_by(module: str) -> set[str]:
    """The modules that a fresh interpreter has loaded once it has imported `module`."""
    code = f"import sys, reellama.{module}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {in_folder(each) for each in loaded}


def test_the_engine_knows_nothing_of_video_or_torch() -> None:
    assert not loaded_by("pipeline.llm.engine") & {*VISION, "models", "prompts"}


@pytest.mark.parametrize("module", ["pipeline", "pipeline.cli.main"])
def test_starting_imports_nothing_heavy(module: str) -> None:
    assert not loaded_by(module) & {*VISION, "llama_cpp", "gguf", "numpy"}


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "benchmarks", "docs"])
def test_modules_are_imported_by_the_name_that_they_are_installed_under(folder: str) -> None:
    """By its folder's name, a module would be a second one, and its classes others."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            assert not {name.partition(".")[0] for name in names} & set(PACKAGES), path
