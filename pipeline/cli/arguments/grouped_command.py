"""A command whose help shows its options in groups, those that matter most first."""

from __future__ import annotations

import os
from typing import Any

from typer import BadParameter
from typer.core import TyperCommand

HELP_OPTIONS = ["-h", "--help"]
# Settings that every program made of commands has.
SETTINGS: dict[str, Any] = {
    "rich_markup_mode": None,  # drawing help with rich costs half of the time that --help may take
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": HELP_OPTIONS, "max_content_width": 100},
}
# Options that stand before all groups.
FIRST = ("bundle", "frames", "start", "end", "json", "out", "ask", "form")


_VIDEO = "VIDEO"  # in the names of arguments that are paths of videos


class GroupedCommand(TyperCommand):
    """Groups are those of `rich_help_panel`; rich, which would draw them, takes long to load."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options group by group."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            is_option = param.param_type_name == "option"
            group = getattr(param, "rich_help_panel", None) or "Options"
            sections.setdefault(group if is_option else "Arguments", []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as click does, but name the argument of `VIDEO... WORDS` that is really missing.

        Click fills the last argument first: given a video alone, it would say that the video is
        missing. An empty path is refused, as it would mean the present folder. A file whose name
        begins with a dash is told from an option.
        """
        if "" in args:
            words = self.make_parser(ctx).parse_args(list(args))[0]
            videos = [
                p
                for p in self.params
                if p.param_type_name == "argument" and _VIDEO in str(p.metavar)
            ]
            given = [words.get(str(p.name)) for p in videos]
            if any("" in (each if isinstance(each, list | tuple) else [each]) for each in given):
                raise BadParameter("a path is empty: is a variable not set?", ctx)
        try:
            return super().parse_args(ctx, list(args))
        except Exception as error:
            if type(error).__name__ == "NoSuchOption":
                files = [word for word in args if word.startswith("-") and os.path.exists(word)]
                if files:
                    raise BadParameter(f"{files[0]} is a file: call it ./{files[0]}", ctx) from None
            missing = getattr(error, "param", None)
            arguments = [p for p in self.params if p.param_type_name == "argument"]
            if type(error).__name__ == "MissingParameter" and arguments[:1] == [missing]:
                last = self.make_parser(ctx).parse_args(list(args))[0].get(str(arguments[-1].name))
                if isinstance(last, str) and _is_video(last):
                    error.param = arguments[-1]  # type: ignore[attr-defined]
            raise


# How error messages name a type; click would say "'x' is not a valid int range".
TYPE_NAMES = {"int range": "whole number", "float range": "number"}


def adapt_types(command: Any) -> None:
    """Give the types of all options of a command, and of those in it, the names that people use.

    Paths are not tried: a file that may not be read is a failure, and no wrong argument.
    """
    for param in command.params:
        if param.type.name in TYPE_NAMES:
            param.type.name = TYPE_NAMES[param.type.name]
        if hasattr(param.type, "readable"):
            param.type.readable = False
    for each in getattr(command, "commands", {}).values():
        adapt_types(each)


# Settings of a command with groups of options, which shows its help where nothing is given.
GROUPED: dict[str, Any] = {"cls": GroupedCommand, "no_args_is_help": True}


def _is_video(word: str) -> bool:
    return os.path.exists(word) or ("://" in word and " " not in word)
