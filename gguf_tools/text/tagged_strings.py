"""Strings that a chat template can process and that are found again in its output."""

import json
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, NamedTuple

# Private-use planes of Unicode: code points that mean nothing, and that `upper`, `trim`, `replace`
# and the like leave as they are.
FIRST_MARK, LAST_MARK = 0xF0000, 0x10FFFD
# Methods of str that a template may call on a content. `format` would read braces that a person
# typed as fields; `encode` would give bytes, which no template needs.
STRING_METHODS = frozenset(name for name in dir(str) if not name.startswith("_"))
STRING_METHODS -= {"format", "format_map", "encode", "maketrans"}


class TextPiece(NamedTuple):
    """A part of a rendered text: the template's own, or text from the content `origin`."""

    text: str
    origin: int | None


class TaggedStrings:
    """Makes tagged contents for one rendering, and finds them in its output.

    `others` are all other strings of the rendering; their characters cannot be marks.
    """

    def __init__(self, others: Iterable[str]) -> None:
        taken = set().union(*others)
        self._free = (mark for mark in map(chr, count(FIRST_MARK)) if mark not in taken)
        self._known: dict[str, TaggedString] = {}

    def tag(self, text: str, origin: int) -> "TaggedString":
        """Return a string that acts as `text` in a template and prints as one private character.

        Raises ValueError when there are no characters left, after some 130,000 of them.
        """
        mark = next(self._free)
        if ord(mark) > LAST_MARK:
            raise ValueError("the template takes the contents apart into too many pieces")
        self._known[mark] = content = TaggedString(mark)
        content._text, content._origin, content._contents = text, origin, self
        return content

    def tag_all(self, value: Any, origin: int) -> Any:
        """Return `value` with every string in it tagged, the keys of objects too."""
        if isinstance(value, str):
            return self.tag(value, origin)
        if isinstance(value, dict):
            return {self.tag_all(k, origin): self.tag_all(v, origin) for k, v in value.items()}
        return [self.tag_all(each, origin) for each in value] if isinstance(value, list) else value

    def split(self, rendered: str) -> Iterator[TextPiece]:
        """Split a rendered text into pieces, those of the template's own text not empty."""
        start = 0
        for end, character in enumerate(rendered):
            if (content := self._known.get(character)) is not None:
                if start < end:
                    yield TextPiece(rendered[start:end], None)
                yield TextPiece(content._text, content._origin)
                start = end + 1
        if start < len(rendered):
            yield TextPiece(rendered[start:], None)

    def forget(self) -> None:
        """Let go of the strings, which know this object: else only garbage collection would."""
        self._known.clear()

    def untag(self, value: Any) -> Any:
        """Return `value` with every tagged string in it replaced by its text."""
        if isinstance(value, TaggedString):
            return value._text
        if isinstance(value, str):
            return "".join(piece.text for piece in self.split(value))
        return type(value)(map(self.untag, value)) if isinstance(value, (list, tuple)) else value


class TaggedString(str):
    """A message's content in a template: its value is its mark, its methods work on its text.

    Results of its methods are tagged with the same origin: trimmed, split or in upper case, it is
    still typed text. Joined to other strings it becomes its mark, which is found in the output.
    A template cannot reach the text itself: the sandbox forbids names that begin with an
    underscore.
    """

    __slots__ = ("_contents", "_origin", "_text")

    _text: str
    _origin: int
    _contents: TaggedStrings

    def _retag(self, value: Any) -> Any:
        """Return `value` with every string in it tagged with the same origin."""
        if isinstance(value, str):
            return self._contents.tag(value, self._origin)
        return type(value)(map(self._retag, value)) if isinstance(value, (list, tuple)) else value

    def __getattribute__(self, name: str) -> Any:
        if name not in STRING_METHODS:
            return super().__getattribute__(name)

        def method(*arguments: Any) -> Any:
            revealed = self._contents.untag(arguments)
            return self._retag(getattr(self._text, name)(*revealed))

        return method

    def __str__(self) -> str:
        return self  # str(content) is what Jinja's filters start with, and must not lose it

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
    """Return `value` as JSON, in which tagged strings, escaped for JSON, are still found.

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
