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
        _GrammarChecker(text, is_token).check()
    except _GrammarProblem as problem:
        return str(problem)
    return None


class _GrammarProblem(Exception):
    """What is wrong with a grammar, and in which line."""


class _GrammarChecker:
    """Reads a grammar as llama.cpp's parser does, and counts what llama.cpp limits."""

    def __init__(self, text: str, is_token: IsToken) -> None:
        self.text, self.position, self.is_token = text, 0, is_token
        self.defined: set[str] = set()
        self.named: dict[str, int] = {}  # rules, and where each was named first
        self.n_made = 0  # rules that llama.cpp makes for groups and repetitions
        self.groups: list[int] = []  # for each one that is open, how many rules there were before
        # What a repetition would repeat: whether there is anything, and how many rules it takes.
        self.has_item, self.n_item = False, 1

    def check(self) -> None:
        """Read all rules. Raises _GrammarProblem."""
        self.skip(lines=True)
        while self.position < len(self.text):
            self.rule()
        for name, position in self.named.items():
            if name not in self.defined:
                self.fail(f"there is no rule named {name}", position)
        if "root" not in self.defined:
            self.fail("there must be a rule named root", 0)

    def rule(self) -> None:
        name = self.match(_NAME)
        if not name:
            self.fail_expected("the name of a rule")
        self.named.setdefault(name, self.position - len(name))
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
        """Read one thing on the right-hand side; returns False where something else stands."""
        if self.accept('"'):
            self.quoted(_TEXT, '"')
        elif self.accept("["):
            self.accept("^")
            self.quoted(_RANGE, "]")
        elif self.text.startswith(("<", "!"), self.position):
            self.token()
        elif name := self.match(_NAME):
            self.named.setdefault(name, self.position - len(name))
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
        empty = not self.match(inside)
        if not self.accept(end):
            if self.position < len(self.text):
                self.fail(f"unknown escape {self.text[self.position : self.position + 2]!r}")
            self.fail(f"unexpected end of input: {end} is missing", begin)
        self.note_item()
        self.has_item = not empty

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
        self.n_made += 1
        self.skip(lines=True)
        self.begin_alternative()

    def times(self) -> tuple[int, int | None]:
        """The rest of `{2}`, `{2,}` or `{2,5}`."""
        self.skip()
        least = self.number(self.match(_DIGITS) or self.fail_expected("a number of times"))
        self.skip()
        most: int | None = least
        if self.accept(","):
            self.skip()
            digits = self.match(_DIGITS)
            most = self.number(digits) if digits else None
            self.skip()
        if not self.accept("}"):
            self.fail_expected(", or }")
        if least > MAX_REPEATED:
            self.fail(f"at most {MAX_REPEATED} repetitions are possible")
        # As in llama.cpp, more than MAX_REPEATED are as good as any number.
        return least, None if most is not None and most > MAX_REPEATED else most

    def repeat(self, least: int, most: int | None) -> None:
        if not self.has_item:
            self.fail("there is nothing before this that could be repeated", self.position - 1)
        if most is not None and most < least:
            self.fail(f"{least} repetitions at least, and {most} at most", self.position - 1)
        n = self.n_item * (most or least or 1)
        if n > MAX_REPEATED:
            self.fail("too many repetitions, or of too much", self.position - 1)
        self.n_made += 1 if most is None else most - least
        self.has_item, self.n_item = most != 0, n

    def number(self, digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            self.fail(f"the number {digits[:MAX_DIGITS]}... is too large")
        return int(digits)

    @property
    def n_rules(self) -> int:
        return len(self.named) + self.n_made

    def note_item(self, n_rules: int = 1) -> None:
        """Note that something was read that a repetition could repeat."""
        self.has_item, self.n_item = True, n_rules

    def begin_alternative(self) -> None:
        self.has_item, self.n_item = False, 1

    def skip(self, lines: bool | None = None) -> None:
        """Skip space and comments: also the ends of lines, by default inside of parentheses."""
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
        found = repr(rest) if self.position < len(self.text) else "the end of the grammar"
        self.fail(f"expected {what}, and not {found}")

    def fail(self, what: str, position: int | None = None) -> NoReturn:
        line = self.text.count("\n", 0, self.position if position is None else position) + 1
        raise _GrammarProblem(f"line {line}: {what}")
