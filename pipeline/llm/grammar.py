"""GBNF grammars, checked before llama.cpp reads them.

llama.cpp's parser writes what it does not like to the stderr of the process, past its log, where
only the whole process could catch it. So what it would refuse is refused here, and what it should:
some repetitions keep it busy until memory is full.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

# Whether a text, `<...>` as it stands in a grammar, is one token of the vocabulary.
IsToken = Callable[[str], bool]

MAX_REPEATED = 2000  # MAX_REPETITION_THRESHOLD of llama.cpp
# Parentheses: llama.cpp's parser calls itself for each. A schema's maxLength of 900 takes as many.
MAX_NESTED = 1000
MAX_DIGITS = 19  # of a number that 64 bits hold

_SPACE = re.compile(r"(?:[ \t]+|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]+|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_DIGITS = re.compile(r"[0-9]+")
_ESCAPE = r'\\(?:[trn\\"\[\]-]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})'
_TEXT = re.compile(rf'(?:{_ESCAPE}|[^"\\]+)*')
_RANGE = re.compile(rf"(?:(?:{_ESCAPE}|[^\]\\])(?:-(?:{_ESCAPE}|[^\]\\]))?)*")
_TOKEN = re.compile(r"<(?:\[([0-9]+)\]|(?!\[)[^>]*)>")


def grammar_error(text: str, is_token: IsToken) -> str | None:
    """What is wrong with a grammar that must have a rule `root`, in one line; None if nothing is.

    Left recursion is not looked for: llama.cpp tells that quietly.
    """
    if not text.strip() or "\0" in text:
        return "it is empty or holds a NUL character"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "it holds half a character (a lone surrogate)"
    try:
        _Reader(text, is_token).read()
    except _Wrong as wrong:
        return str(wrong)
    return None


class _Wrong(Exception):
    """What is wrong, and where."""


class _Reader:
    """Reads a grammar as llama.cpp's parser does, and keeps of it what its limits depend on."""

    def __init__(self, text: str, is_token: IsToken) -> None:
        self.text, self.at, self.is_token = text, 0, is_token
        self.defined: set[str] = set()
        self.named: dict[str, int] = {}  # rules, and where each was named first
        self.n_made = 0  # rules that llama.cpp makes for groups and repetitions
        self.groups: list[int] = []  # for each one that is open, how many rules there were before
        # What a repetition would repeat: whether there is anything, and how many rules it takes.
        self.has_item, self.n_item = False, 1

    def read(self) -> None:
        """Read all rules."""
        self.skip(lines=True)
        while self.at < len(self.text):
            self.rule()
        for name, at in self.named.items():
            if name not in self.defined:
                self.fail(f"there is no rule named {name}", at)
        if "root" not in self.defined:
            self.fail("there must be a rule named root", 0)

    def rule(self) -> None:
        name = self.match(_NAME)
        if not name:
            self.expect("the name of a rule")
        self.named.setdefault(name, self.at - len(name))
        self.defined.add(name)
        self.skip(lines=False)
        if not self.take("::="):
            self.expect("::= after the name of a rule")
        self.skip(lines=True)
        self.begin_alternative()
        while self.element():
            pass
        if self.groups:
            self.expect("a closing )")
        if self.at < len(self.text) and not (self.take("\r\n") or self.take("\r", "\n")):
            self.expect("the end of the line")
        self.skip(lines=True)

    def element(self) -> bool:
        """Read one thing on the right-hand side; returns False where something else stands."""
        if self.take('"'):
            self.quoted(_TEXT, '"')
        elif self.take("["):
            self.take("^")
            self.quoted(_RANGE, "]")
        elif self.text.startswith(("<", "!"), self.at):
            self.token()
        elif name := self.match(_NAME):
            self.named.setdefault(name, self.at - len(name))
            self.item()
        elif self.take("."):
            self.item()
        elif self.take("("):
            self.open_group()
            return True
        elif self.groups and self.take(")"):
            self.item(max(1, self.n_rules - self.groups.pop()))
        elif self.take("|"):
            self.skip(lines=True)
            self.begin_alternative()
            return True
        elif self.take("*", "+"):
            self.repeat(int(self.text[self.at - 1] == "+"), None)
        elif self.take("?"):
            self.repeat(0, 1)
        elif self.take("{"):
            self.repeat(*self.times())
        else:
            return False
        self.skip()
        return True

    def quoted(self, inside: re.Pattern[str], end: str) -> None:
        begin = self.at
        empty = not self.match(inside)
        if not self.take(end):
            if self.at < len(self.text):
                self.fail(f"unknown escape {self.text[self.at : self.at + 2]!r}")
            self.fail(f"unexpected end of input: {end} is missing", begin)
        self.item()
        self.has_item = not empty

    def token(self) -> None:
        self.take("!")
        begin, found = self.at, _TOKEN.match(self.text, self.at)
        if not found:
            self.expect("a token, <name> or <[id]>")
        self.at = found.end()
        if found[1] is None and not self.is_token(found[0]):
            self.fail(f"{found[0]!r} is not one token of this model", begin)
        self.number(found[1] or "0")
        self.item()

    def open_group(self) -> None:
        self.groups.append(self.n_rules)
        if len(self.groups) > MAX_NESTED:
            self.fail(f"more than {MAX_NESTED} parentheses are open")
        self.n_made += 1
        self.skip(lines=True)
        self.begin_alternative()

    def times(self) -> tuple[int, int | None]:
        """The rest of `{2}`, `{2,}` or `{2,5}`."""
        self.skip()
        least = self.number(self.match(_DIGITS) or self.expect("a number of times"))
        self.skip()
        most: int | None = least
        if self.take(","):
            self.skip()
            digits = self.match(_DIGITS)
            most = self.number(digits) if digits else None
            self.skip()
        if not self.take("}"):
            self.expect(", or }")
        if least > MAX_REPEATED:
            self.fail(f"at most {MAX_REPEATED} repetitions are possible")
        # As llama.cpp has it: so many are as good as any number.
        return least, None if most is not None and most > MAX_REPEATED else most

    def repeat(self, least: int, most: int | None) -> None:
        if not self.has_item:
            self.fail("there is nothing before this that could be repeated", self.at - 1)
        if most is not None and most < least:
            self.fail(f"{least} repetitions at least, and {most} at most", self.at - 1)
        n = self.n_item * (most or least or 1)
        if n > MAX_REPEATED:
            self.fail("too many repetitions, or of too much", self.at - 1)
        self.n_made += 1 if most is None else most - least
        self.has_item, self.n_item = most != 0, n

    def number(self, digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            self.fail(f"the number {digits[:MAX_DIGITS]}... is too large")
        return int(digits)

    @property
    def n_rules(self) -> int:
        return len(self.named) + self.n_made

    def item(self, n_rules: int = 1) -> None:
        self.has_item, self.n_item = True, n_rules

    def begin_alternative(self) -> None:
        self.has_item, self.n_item = False, 1

    def skip(self, lines: bool | None = None) -> None:
        """Skip space and comments: also the ends of lines, by default inside of parentheses."""
        lines = bool(self.groups) if lines is None else lines
        self.match(_SPACE_AND_LINES if lines else _SPACE)

    def take(self, *words: str) -> bool:
        for word in words:
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return True
        return False

    def match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return found[0] if found else ""

    def expect(self, what: str) -> NoReturn:
        rest = self.text[self.at : self.at + 20].partition("\n")[0]
        found = repr(rest) if self.at < len(self.text) else "the end of the grammar"
        self.fail(f"expected {what}, and not {found}")

    def fail(self, what: str, at: int | None = None) -> NoReturn:
        line = self.text.count("\n", 0, self.at if at is None else at) + 1
        raise _Wrong(f"line {line}: {what}")
