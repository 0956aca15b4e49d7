"""A vision model's mmproj comes along with its LLM, of the type that is wanted."""

from collections.abc import Callable

import pytest

from reellama.gguf_tools.download.pull import pull
from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.locate import stores
from tests.conftest import Result
from tests.gguf_tools.download.conftest import Q4
from tests.helpers.hub_server import Hub

Run = Callable[..., Result]


def cached() -> list[str]:
    """The names that can be found in the cache."""
    return sorted(path.name for path in stores.hub_cache().rglob("snapshots/*/**/*.gguf"))


def test_an_mmproj_file_comes_with_its_model(server: Hub, content: bytes) -> None:
    extra = {"mmproj-Tiny-F16.gguf": content, "mmproj-Tiny-F32.gguf": content}
    server.repos["owner/Tiny-GGUF"] |= extra
    messages: list[str] = []
    assert pull("owner/Tiny-GGUF", report=messages.append).name == Q4
    assert cached() == [Q4, "mmproj-Tiny-F16.gguf"]
    assert messages == ["mmproj-Tiny-F16.gguf, its encoder of pictures, comes with it"]
    pull("owner/Tiny-GGUF:mmproj-Tiny-F32.gguf")
    assert len(cached()) == 3


@pytest.mark.parametrize(
    ("wanted", "come"),
    [
        ("", ["mmproj-Tiny-F16.gguf"]),
        ("q8_0", ["mmproj-Tiny-Q8_0.gguf"]),
        ("F32", ["mmproj-Tiny-F32.gguf"]),
        ("none", []),
    ],
)
def test_the_type_of_the_mmproj_can_be_chosen(
    server: Hub, content: bytes, reellama: Run, wanted: str, come: list[str]
) -> None:
    types = ("F32", "Q8_0", "F16")
    server.repos["owner/Tiny-GGUF"] |= {f"mmproj-Tiny-{type_}.gguf": content for type_ in types}
    option = ["--mmproj", wanted] if wanted else []
    assert reellama("gguf", "pull", "owner/Tiny-GGUF", *option).status == 0
    assert cached() == [Q4, *come]


def test_of_an_mmproj_too_large_for_memory_a_smaller_type_comes(
    server: Hub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"mmproj-F16.gguf": content + bytes(1000), "mmproj-Q8_0.gguf": content}
    server.repos["owner/Tiny-GGUF"] |= extra
    monkeypatch.setattr("reellama.gguf_tools.download.pull.memory_size", lambda: 2 * len(content))
    pull("owner/Tiny-GGUF")
    assert cached() == [Q4, "mmproj-Q8_0.gguf"]


def test_a_repository_of_several_models_has_an_mmproj_for_each(server: Hub, content: bytes) -> None:
    names = ("T-1B-Q4_K_M.gguf", "T-4B-Q8_0.gguf", "mmproj-T-1B-F16.gguf", "mmproj-T-4B-F16.gguf")
    server.repos["owner/Two"] = dict.fromkeys(names, content)
    pull("owner/Two:T-4B-Q8_0.gguf")
    assert cached() == [names[1], names[3]]


def test_an_mmproj_that_is_not_there_is_told(server: Hub, content: bytes, reellama: Run) -> None:
    with pytest.raises(
        GGUFError, match="owner/Tiny-GGUF has no mmproj of type f16; it has no mmproj at all"
    ):
        pull("owner/Tiny-GGUF", mmproj="f16")
    server.repos["owner/Tiny-GGUF"]["mmproj-F32.gguf"] = content
    with pytest.raises(GGUFError, match="no mmproj of type f16; choose one of: mmproj-F32.gguf"):
        pull("owner/Tiny-GGUF", mmproj="f16")
    assert cached() == []
    result = reellama("gguf", "pull", "owner/Tiny-GGUF", "--mmproj", "q9")
    assert result.status == 2 and "is not one of auto, f16, bf16" in result.err.replace("\n", " ")
