"""`reellama gguf`: what there is to do with a GGUF file. A module a command."""

from __future__ import annotations

from typer import Typer

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
