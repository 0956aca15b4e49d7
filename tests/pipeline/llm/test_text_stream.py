"""Token bytes become text as soon as it is certain: whole characters, and no stop string."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reellama.pipeline.llm.text_stream import TextStream

pytestmark = pytest.mark.numeric

texts = st.text("ab\nñ€🦊", max_size=20)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` in pieces of these sizes, and the rest."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


def stream(pieces: list[bytes], stop: list[str]) -> tuple[list[str], list[int]]:
    """The texts that come out, and which pieces they belong to."""
    out: TextStream[int] = TextStream(stop)
    released: list[tuple[int, str]] = []
    for number, piece in enumerate(pieces):
        released += out.push(number, piece)
        if out.stopped:
            break
    else:
        released += out.flush()
    return [text for _, text in released], [number for number, _ in released]


@given(texts, st.lists(st.integers(0, 4), max_size=30))
@example("🦊", [1, 1, 1])
def test_text_comes_out_whole_however_it_is_cut(text: str, sizes: list[int]) -> None:
    pieces = cut(text.encode(), sizes)
    out, numbers = stream(pieces, [])
    assert "".join(out) == text
    assert numbers == list(range(len(pieces)))


@given(texts, st.lists(st.integers(0, 4), max_size=30), st.lists(texts, min_size=1, max_size=3))
@example("aab", [1, 1, 1], ["ab"])
@example("ababa", [1, 2, 1, 1], ["aba", "b"])
def test_text_ends_before_the_stop_string_seen_first(
    text: str, sizes: list[int], stop: list[str]
) -> None:
    pieces = cut(text.encode(), sizes)
    seen = [i for i in range(len(pieces)) if _has_any(b"".join(pieces[: i + 1]), stop)]
    out, _ = stream(pieces, stop)
    if not seen:
        assert "".join(out) == text
        return
    until = b"".join(pieces[: seen[0] + 1]).decode(errors="ignore")
    first = min(until.index(s) for s in stop if s and s in until)
    assert "".join(out) == text[:first]


def _has_any(data: bytes, stop: list[str]) -> bool:
    return any(s and s.encode() in data for s in stop)


def test_text_that_cannot_begin_a_stop_string_is_not_held_back() -> None:
    out: TextStream[str] = TextStream(["END"])
    assert out.push("1", b"to be") == [("1", "to be")]
    assert out.push("2", b" or E") == []  # may become END
    assert out.push("3", b"at") == [("2", " or E"), ("3", "at")]


def test_a_character_belongs_to_the_token_that_ends_it() -> None:
    fox = "🦊".encode()
    out: TextStream[str] = TextStream()
    assert out.push("1", fox[:2]) == []
    assert out.push("2", fox[2:] + b"!") == [("1", ""), ("2", "🦊!")]


def test_bytes_that_never_become_a_character_are_marked() -> None:
    out: TextStream[str] = TextStream()
    assert out.push("1", b"a\xff") == [("1", "a\ufffd")]
    assert out.push("2", b"\xf0\x9f") == []
    assert out.flush() == [("2", "\ufffd")]
