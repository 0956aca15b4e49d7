"""Packages whose own code runs late: importing one of their modules does not run all the rest.

`import llama_cpp.llama_cpp` first runs `llama_cpp/__init__.py`, with its chat formats, jinja2 and
a disk cache; `gguf.constants` comes with YAML and what writes files. A short command needs neither.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any

PUBLIC = ("__all__", "__version__")

_running = threading.RLock()


class _LatePackage(ModuleType):
    """A package that runs its own code when something is asked of it that is no module of it."""

    _loader: Any
    _whole = False

    def __getattr__(self, name: str) -> Any:
        if name == "__path__" and self._whole:  # one of its modules is about to be imported
            self._run()
        elif name.startswith("__") and name not in PUBLIC:  # what Python's own machinery looks for
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name)
        else:
            with _running:
                inside = f"{self.__name__}.{name}"
                if not self._whole and "_loader" in vars(self) and find_spec(inside) is not None:
                    return importlib.import_module(inside)
                self._run()
        if name not in vars(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name)
        return vars(self)[name]

    def _run(self) -> None:
        """Run the package's own code, unless it runs or has run."""
        with _running:
            loader = vars(self).pop("_loader", None)
            if loader is not None:
                assert self.__spec__ is not None
                self.__path__ = list(self.__spec__.submodule_search_locations or ())
                loader.exec_module(self)


def run_late(packages: Sequence[str], *, whole: Sequence[str] = ()) -> None:
    """Let these packages run their own code late, those that were not imported yet.

    whole: packages whose modules need that code, so that it runs before any of them. Where several
    threads import, one that imports such a module first waits for another that runs the package,
    which may want that module: `run_now` before.
    """
    for name in (*packages, *whole):
        spec = None if name in sys.modules else find_spec(name)
        if spec is not None and spec.loader is not None:
            package = _LatePackage(name)
            package._whole = name in whole
            if not package._whole:
                package.__path__ = list(spec.submodule_search_locations or ())
            package.__file__, package.__spec__ = spec.origin, spec
            package.__package__ = name
            package._loader = spec.loader
            sys.modules[name] = package


def run_now(*packages: str) -> None:
    """Run the code of those of these packages that would run late."""
    for name in packages:
        if isinstance(package := sys.modules.get(name), _LatePackage):
            package._run()
