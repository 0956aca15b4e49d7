"""Builds GBNF grammars of tool calls: arguments by the tools' schemas, and the text around them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from reellama.pipeline.llm.generation_options import SamplingError
from reellama.pipeline.llm.schema_grammar import MAX_GRAMMAR_CHARACTERS, schema_rules
from reellama.pipeline.llm.tool_calls.tool import Tool

# Strings and character classes, which are left unchanged, and names of rules.
_GBNF = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|[a-zA-Z][a-zA-Z0-9-]*')
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


def literal(text: str) -> str:
    """A GBNF string of this text.

    >>> print(literal('say "a"'))
    "say \\"a\\""
    """
    return '"' + "".join(_ESCAPES.get(character, character) for character in text) + '"'


class CallGrammar:
    """Collects rules; `text` makes the grammar, with the rule `root` first."""

    def __init__(self) -> None:
        self._rules: dict[str, str] = {"space": '| " " | "\\n"{1,2} [ \\t]{0,20}'}

    def rule(self, name: str, body: str) -> str:
        """Add a rule under this name, or a longer one if it is taken; returns the name."""
        while self._rules.get(name, body) != body:
            name += "-x"
        self._rules[name] = body
        return name

    def arguments(self, tool: Tool) -> str:
        """Add the rules of a tool's arguments, a JSON object; returns the name of the first."""
        schema = tool.parameters or {"properties": {}}
        return self.schema({"type": "object", **schema})

    def schema(self, schema: object) -> str:
        """Add the rules of a JSON schema; returns the name of the first."""
        rules = schema_rules(schema)
        prefix = f"s{len(self._rules)}-"

        def renamed(match: re.Match[str]) -> str:
            return prefix + match[0] if match[0] in rules else match[0]

        for name, body in rules.items():
            self._rules[prefix + name] = _GBNF.sub(renamed, body)
        return prefix + "root"

    def until(self, ending: str) -> str:
        """Add rules of any text up to and with `ending`; returns the name of the first."""
        name = f"u{len(self._rules)}"
        self._rules |= {
            f"{name}-{i}": " | ".join(alternatives)
            for i, alternatives in enumerate(_until_rules(name, ending))
        }
        return f"{name}-0"

    def text(self, root: str) -> str:
        """The whole grammar. Raises SamplingError if it is too long."""
        rules = {"root": root, **self._rules}
        text = "\n".join(f"{name} ::= {body}" for name, body in rules.items())
        if len(text) > MAX_GRAMMAR_CHARACTERS:
            raise SamplingError(
                f"the grammar of this answer has more than {MAX_GRAMMAR_CHARACTERS} characters"
            )
        return text


def _until_rules(name: str, ending: str) -> Iterator[list[str]]:
    """The alternatives of a rule for each state of the Knuth-Morris-Pratt automaton of `ending`."""
    letters = sorted(set(ending))
    others = "[^" + "".join(map(_in_class, letters)) + "\\x00]"
    for i in range(len(ending)):
        alternatives = [f"{others} {name}-0"]
        for letter in letters:
            read = ending[:i] + letter
            state = next(n for n in range(len(read), -1, -1) if read.endswith(ending[:n]))
            one = f"[{_in_class(letter)}]"
            alternatives.append(one if state == len(ending) else f"{one} {name}-{state}")
        yield alternatives


def _in_class(letter: str) -> str:
    """A character, escaped for a GBNF character class."""
    escapes = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return escapes.get(letter, f"\\{letter}" if letter in "\\[]-" else letter)
