"""Validates GBNF grammars before llama.cpp parses them.

llama.cpp's parser prints its errors to the stderr of the process, not to its log. So invalid
grammars are refused here, and some that the parser accepts: repetitions that take all memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

# Whether a token reference of a grammar, `<...>`, is one token of the vocabulary.
IsToken = Callable[[str], bool]

MAX_REPEATED = 2000  # MAX_REPETITION_THRESHOLD of llama.cpp
# Parentheses: llama.cpp's parser recurses for each. A schema's maxLength of 900 becomes 900.
MAX_NESTED = 1000
MAX_DIGITS = 19  # of a 64-bit number

_SPACE = re.compile(r"(?:[ \t]+|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]+|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_DIGITS = re.compile(r"[0-9]+")
_ESCAPE = r'\\(?:[trn\\"\[\]-]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})'
_TEXT = re.compile(rf'(?:{_ESCAPE}|[^"\\]+)*')
_RANGE = re.compile(rf"(?:(?:{_ESCAPE}|[^\]\\])(?:-(?:{_ESCAPE}|[^\]\\]))?)*")
_TOKEN = re.compile(r"<(?:\[([0-9]+)\]|(?!\[)[^>]*)>")


def grammar_error(text: str, is_token: IsToken) -> str | None:
    """The first error of a grammar, in one line; None if it is valid and has a rule `root`.

    Left recursion is not checked, since llama.cpp reports it without printing.
    """
    if not text.strip() or "\0" in text:
        return "it is empty or holds a NUL character"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "it holds half a character (a lone surrogate)"
    try:
        _GrammarChecker(text, is_token).check()
    except _GrammarError as error:
        return str(error)
    return None


class _GrammarError(Exception):
    """An error in a grammar; the message names the line."""


class _GrammarChecker:
    """Parses a grammar like llama.cpp, and counts what llama.cpp limits."""

    def __init__(self, text: str, is_token: IsToken) -> None:
        self.text, self.position, self.is_token = text, 0, is_token
        self.defined: set[str] = set()
        self.referenced: dict[str, int] = {}  # rules by name, and where each is used first
        self.n_generated = 0  # rules that llama.cpp adds for groups and repetitions
        self.groups: list[int] = []  # for each open group, the number of rules before it
        # Whether there is an item that may be repeated, and how many rules the item takes.
        self.has_item, self.n_item = False, 1

    def check(self) -> None:
        """Read all rules. Raises _GrammarError."""
        self.skip(lines=True)
        while self.position < len(self.text):
            self.rule()
        for name, position in self.referenced.items():
            if name not in self.defined:
                self.fail(f"there is no rule named {name}", position)
        if "root" not in self.defined:
            self.fail("there must be a rule named root", 0)

    def rule(self) -> None:
        name = self.match(_NAME)
        if not name:
            self.fail_expected("the name of a rule")
        self.referenced.setdefault(name, self.position - len(name))
        self.defined.add(name)
        self.skip(lines=False)
        if not self.accept("::="):
            self.fail_expected("::= after the name of a rule")
        self.skip(lines=True)
        self.begin_alternative()
        while self.element():
            pass
        if self.groups:
            self.fail_expected("a closing )")
        if self.position < len(self.text) and not (self.accept("\r\n") or self.accept("\r", "\n")):
            self.fail_expected("the end of the line")
        self.skip(lines=True)

    def element(self) -> bool:
        """Read one element of a right-hand side; returns False if there is none."""
        if self.accept('"'):
            self.quoted(_TEXT, '"')
        elif self.accept("["):
            self.accept("^")
            self.quoted(_RANGE, "]")
        elif self.text.startswith(("<", "!"), self.position):
            self.token()
        elif name := self.match(_NAME):
            self.referenced.setdefault(name, self.position - len(name))
            self.note_item()
        elif self.accept("."):
            self.note_item()
        elif self.accept("("):
            self.open_group()
            return True
        elif self.groups and self.accept(")"):
            self.note_item(max(1, self.n_rules - self.groups.pop()))
        elif self.accept("|"):
            self.skip(lines=True)
            self.begin_alternative()
            return True
        elif self.accept("*", "+"):
            self.repeat(int(self.text[self.position - 1] == "+"), None)
        elif self.accept("?"):
            self.repeat(0, 1)
        elif self.accept("{"):
            self.repeat(*self.times())
        else:
            return False
        self.skip()
        return True

    def quoted(self, inside: re.Pattern[str], end: str) -> None:
        begin = self.position
        is_empty = not self.match(inside)
        if not self.accept(end):
            if self.position < len(self.text):
                self.fail(f"unknown escape {self.text[self.position : self.position + 2]!r}")
            self.fail(f"unexpected end of input: {end} is missing", begin)
        self.note_item()
        self.has_item = not is_empty

    def token(self) -> None:
        self.accept("!")
        begin, match = self.position, _TOKEN.match(self.text, self.position)
        if not match:
            self.fail_expected("a token, <name> or <[id]>")
        self.position = match.end()
        if match[1] is None and not self.is_token(match[0]):
            self.fail(f"{match[0]!r} is not one token of this model", begin)
        self.number(match[1] or "0")
        self.note_item()

    def open_group(self) -> None:
        self.groups.append(self.n_rules)
        if len(self.groups) > MAX_NESTED:
            self.fail(f"more than {MAX_NESTED} parentheses are open")
        self.n_generated += 1
        self.skip(lines=True)
        self.begin_alternative()

    def times(self) -> tuple[int, int | None]:
        """The rest of `{2}`, `{2,}` or `{2,5}`."""
        self.skip()
        low = self.number(self.match(_DIGITS) or self.fail_expected("a number of times"))
        self.skip()
        high: int | None = low
        if self.accept(","):
            self.skip()
            digits = self.match(_DIGITS)
            high = self.number(digits) if digits else None
            self.skip()
        if not self.accept("}"):
            self.fail_expected(", or }")
        if low > MAX_REPEATED:
            self.fail(f"at most {MAX_REPEATED} repetitions are possible")
        # As in llama.cpp, more than MAX_REPEATED means no limit.
        return low, None if high is not None and high > MAX_REPEATED else high

    def repeat(self, low: int, high: int | None) -> None:
        if not self.has_item:
            self.fail("there is nothing before this that could be repeated", self.position - 1)
        if high is not None and high < low:
            self.fail(f"{low} repetitions at least, and {high} at most", self.position - 1)
        n = self.n_item * (high or low or 1)
        if n > MAX_REPEATED:
            self.fail("too many repetitions, or of too much", self.position - 1)
        self.n_generated += 1 if high is None else high - low
        self.has_item, self.n_item = high != 0, n

    def number(self, digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            self.fail(f"the number {digits[:MAX_DIGITS]}... is too large")
        return int(digits)

    @property
    def n_rules(self) -> int:
        return len(self.referenced) + self.n_generated

    def note_item(self, n_rules: int = 1) -> None:
        """An item was read that a repetition may repeat."""
        self.has_item, self.n_item = True, n_rules

    def begin_alternative(self) -> None:
        self.has_item, self.n_item = False, 1

    def skip(self, lines: bool | None = None) -> None:
        """Skip space and comments; with `lines`, by default in parentheses, line ends too."""
        lines = bool(self.groups) if lines is None else lines
        self.match(_SPACE_AND_LINES if lines else _SPACE)

    def accept(self, *literals: str) -> bool:
        """Read one of these texts if it is next."""
        for literal in literals:
            if self.text.startswith(literal, self.position):
                self.position += len(literal)
                return True
        return False

    def match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        self.position = match.end() if match else self.position
        return match[0] if match else ""

    def fail_expected(self, what: str) -> NoReturn:
        rest = self.text[self.position : self.position + 20].partition("\n")[0]
        actual = repr(rest) if self.position < len(self.text) else "the end of the grammar"
        self.fail(f"expected {what}, and not {actual}")

    def fail(self, what: str, position: int | None = None) -> NoReturn:
        line = self.text.count("\n", 0, self.position if position is None else position) + 1
        raise _GrammarError(f"line {line}: {what}")
