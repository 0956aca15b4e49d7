"""Import modules of a package without running the package's `__init__.py`.

`import llama_cpp.llama_cpp` would run `llama_cpp/__init__.py`, which imports chat formats, jinja2
and a disk cache; `import gguf.constants` would import YAML and file writers. Short commands need
none of these.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterable
from types import ModuleType
from typing import Any

PUBLIC = ("__all__", "__version__")

_running = threading.RLock()


class _LazyPackage(ModuleType):
    """A package whose `__init__.py` runs at the first access to an attribute that is not one of its
    modules."""

    _loader: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in PUBLIC:  # looked up by Python's import system
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name)
        inside = f"{self.__name__}.{name}"
        with _running:
            if "_loader" in vars(self) and importlib.util.find_spec(inside) is not None:
                return importlib.import_module(inside)
            loader = vars(self).pop("_loader", None)  # None if `__init__.py` runs or has run
            if loader is not None:
                loader.exec_module(self)
        if name not in vars(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name)
        return vars(self)[name]


def import_lazily(packages: Iterable[str]) -> None:
    """Make packages lazy, except those that are imported already."""
    for name in packages:
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            package = _LazyPackage(name)
            package.__path__ = list(spec.submodule_search_locations or ())
            package.__file__, package.__spec__ = spec.origin, spec
            package.__package__ = name
            package._loader = spec.loader
            sys.modules[name] = package
