"""Packages that are imported lazily are the same packages to whoever asks more of them."""

import subprocess
import sys
import textwrap

from tests.helpers.terminal import ROOT

LAZY = """
from reellama.gguf_tools.lazy_packages import import_lazily
import_lazily(["gguf", "llama_cpp"])
"""


def said(code: str) -> list[str]:
    """What a process of its own prints."""
    command = [sys.executable, "-c", LAZY + textwrap.dedent(code)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()


def test_a_module_comes_without_the_rest() -> None:
    code = """
        import sys
        import llama_cpp.llama_cpp as one
        from llama_cpp import llama_cpp as other
        from gguf.constants import GGMLQuantizationType
        print(one is other, GGMLQuantizationType(8).name)
        print(sorted({"jinja2", "yaml", "llama_cpp.llama", "gguf.gguf_writer"} & set(sys.modules)))
    """
    assert said(code) == ["True", "Q8_0", "[]"]


def test_whoever_asks_for_more_gets_it() -> None:
    code = """
        from gguf.constants import GGMLQuantizationType as here
        from gguf import GGMLQuantizationType, GGUFWriter
        from llama_cpp import Llama
        import llama_cpp
        print(here is GGMLQuantizationType, GGUFWriter.__name__, Llama.__name__)
        print(llama_cpp.__version__ != "", hasattr(llama_cpp, "no_such_thing"))
    """
    assert said(code) == ["True", "GGUFWriter", "Llama", "True", "False"]


def test_a_version_is_told_before_anything_else_is_asked() -> None:
    assert said("import llama_cpp; print(llama_cpp.__version__.count('.'))") == ["2"]


def test_a_package_that_was_imported_stays_as_it_is() -> None:
    code = """
        import json
        import_lazily(["json", "no_such_package"])
        print(json.dumps([1]))
    """
    assert said(code) == ["[1]"]
