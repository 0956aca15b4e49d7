"""Strings that a chat template can process, and that can be located in its output."""

import json
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, NamedTuple

# Private-use planes of Unicode: code points without meaning, which string methods such as `upper`
# and `strip` leave unchanged.
FIRST_MARK, LAST_MARK = 0xF0000, 0x10FFFD
# Methods of str that a template may call on a content. `format` would interpret braces that a
# person typed, and `encode` returns bytes, which no template needs.
STRING_METHODS = frozenset(name for name in dir(str) if not name.startswith("_"))
STRING_METHODS -= {"format", "format_map", "encode", "maketrans"}


class TextPiece(NamedTuple):
    """A piece of a rendered text, from the content of index `origin`, or from the template."""

    text: str
    origin: int | None


class TaggedStrings:
    """Makes the tagged strings of one rendering, and locates them in its output.

    untagged: all other strings of the rendering, whose characters cannot serve as marks.
    """

    def __init__(self, untagged: Iterable[str]) -> None:
        used = set().union(*untagged)
        self._free_marks = (mark for mark in map(chr, count(FIRST_MARK)) if mark not in used)
        self._by_mark: dict[str, TaggedString] = {}

    def tag(self, text: str, origin: int) -> "TaggedString":
        """A string that acts as `text` in a template, and is written as one private-use character.

        Raises ValueError after some 130,000 strings, when all characters are used.
        """
        mark = next(self._free_marks)
        if ord(mark) > LAST_MARK:
            raise ValueError("the template takes the contents apart into too many pieces")
        self._by_mark[mark] = tagged = TaggedString(mark)
        tagged._text, tagged._origin, tagged._contents = text, origin, self
        return tagged

    def tag_all(self, value: Any, origin: int) -> Any:
        """`value` with all strings in it tagged, including keys of dictionaries."""
        if isinstance(value, str):
            return self.tag(value, origin)
        if isinstance(value, dict):
            return {self.tag_all(k, origin): self.tag_all(v, origin) for k, v in value.items()}
        return [self.tag_all(item, origin) for item in value] if isinstance(value, list) else value

    def split(self, rendered: str) -> Iterator[TextPiece]:
        """Split a rendered text into pieces. Pieces of the template's own text are not empty."""
        start = 0
        for end, character in enumerate(rendered):
            if (tagged := self._by_mark.get(character)) is not None:
                if start < end:
                    yield TextPiece(rendered[start:end], None)
                yield TextPiece(tagged._text, tagged._origin)
                start = end + 1
        if start < len(rendered):
            yield TextPiece(rendered[start:], None)

    def forget(self) -> None:
        """Break the reference cycles between this object and its strings, to free both at once."""
        self._by_mark.clear()

    def untag(self, value: Any) -> Any:
        """`value` with all tagged strings in it replaced by their texts."""
        if isinstance(value, TaggedString):
            return value._text
        if isinstance(value, str):
            return "".join(piece.text for piece in self.split(value))
        return type(value)(map(self.untag, value)) if isinstance(value, (list, tuple)) else value


class TaggedString(str):
    """A str whose value is a mark, and whose methods work on the text behind the mark.

    Results of the methods are tagged with the same origin, as trimmed or split text is still typed
    text. Joined to other strings, a tagged string becomes its mark, which `split` locates in the
    output. A template cannot reach the text itself, as Jinja's sandbox forbids names that begin
    with an underscore.
    """

    __slots__ = ("_contents", "_origin", "_text")

    _text: str
    _origin: int
    _contents: TaggedStrings

    def _retag(self, value: Any) -> Any:
        """`value` with all strings in it tagged with the origin of this string."""
        if isinstance(value, str):
            return self._contents.tag(value, self._origin)
        return type(value)(map(self._retag, value)) if isinstance(value, (list, tuple)) else value

    def __getattribute__(self, name: str) -> Any:
        if name not in STRING_METHODS:
            return super().__getattribute__(name)

        def method(*arguments: Any) -> Any:
            return self._retag(getattr(self._text, name)(*self._contents.untag(arguments)))

        return method

    def __str__(self) -> str:
        return self  # Jinja's filters begin with str(content), which must stay tagged

    def __repr__(self) -> str:
        return "'" + self._retag(repr(self._text)[1:-1]) + "'"

    def __len__(self) -> int:
        return len(self._text)

    def __contains__(self, part: object) -> bool:
        return self._contents.untag(part) in self._text

    def __getitem__(self, index: Any) -> Any:
        return self._retag(self._text[index])

    def __iter__(self) -> Iterator[Any]:
        return map(self._retag, self._text)

    def __eq__(self, other: object) -> bool:
        return self._text == self._contents.untag(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: str) -> bool:
        return self._text < self._contents.untag(other)

    def __hash__(self) -> int:
        return hash(self._text)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """`value` as JSON, in which tagged strings are escaped for JSON and stay tagged.

    The parameters are those of the filter `tojson` in Hugging Face's templates.
    """

    def escape(item: Any) -> Any:
        if isinstance(item, TaggedString):
            return item._retag(json.dumps(item._text, ensure_ascii=ensure_ascii)[1:-1])
        if isinstance(item, dict):
            pairs = sorted(item.items()) if sort_keys else item.items()
            return {escape(key): escape(inner) for key, inner in pairs}
        return [escape(inner) for inner in item] if isinstance(item, (list, tuple)) else item

    # Marks are above ASCII, and must stay.
    return json.dumps(escape(value), ensure_ascii=False, indent=indent, separators=separators)
