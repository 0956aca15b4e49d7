"""`reellama gguf`: what there is to do with a GGUF file. A module a command."""

from __future__ import annotations

from copy import copy

from typer import Typer

from reellama.pipeline.cli.arguments.grouped_command import SETTINGS
from reellama.pipeline.cli.commands.gguf import (
    bench,
    compare,
    convert,
    edit,
    fit,
    imatrix,
    inspect,
    listing,
    perplexity,
    pick,
    pull,
    quantize,
    split,
)

app = Typer(
    help="Find, download, inspect, convert, quantize, measure and fit GGUF files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("list")(listing.command)
app.command("pull")(pull.command)
app.command("inspect")(inspect.command)
app.command("fit")(fit.command)
app.command("convert")(convert.command)
app.command("split")(split.command)
app.command("join")(split.join)
app.command("edit")(edit.command)
app.command("imatrix")(imatrix.command)
app.command("quantize")(quantize.command)
app.command("perplexity")(perplexity.command)
app.command("bench")(bench.command)
app.command("compare")(compare.command)
app.command("pick")(pick.command)


def program_of(name: str) -> Typer:
    """The program `reellama gguf NAME` without the other commands; with all of them where none of
    them is called that.

    To make a command of a function takes typer a millisecond or two.
    """
    group = copy(app)
    named = [command for command in app.registered_commands if command.name == name]
    group.registered_commands = named or app.registered_commands
    program = Typer(**SETTINGS)
    program.add_typer(group, name="gguf")
    return program
