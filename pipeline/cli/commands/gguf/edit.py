"""`reellama gguf edit`: a copy of a model with other metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from reellama.pipeline.cli.arguments.checks import checked_by


@checked_by
def _check_setting(text: str) -> None:
    from reellama.gguf_tools.editing.edit import Setting

    Setting.parse(text)


def command(
    model: Annotated[str, Argument(metavar="MODEL", help="A GGUF file, or a model's name.")],
    output: Annotated[Path, Option("--output", "-o", metavar="FILE", help="The copy to write.")],
    setting: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="KEY=[TYPE:]VALUE",
            callback=_check_setting,
            help="Set a key, such as general.name=Mine or x.y=u32:7; may be repeated.",
        ),
    ] = None,
    remove: Annotated[
        list[str] | None, Option(metavar="KEY", help="Leave a key out; may be repeated.")
    ] = None,
    template: Annotated[
        Path | None, Option(metavar="FILE", help="A chat template (Jinja) in place of its own.")
    ] = None,
    force: Annotated[bool, Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Change a model's metadata or chat template, in a copy. Its tensors stay as they are."""
    from reellama.gguf_tools.editing.edit import Setting, edit
    from reellama.pipeline.cli.commands.gguf.split import show
    from reellama.pipeline.cli.options import read_text
    from reellama.pipeline.cli.progress import byte_bar

    if not (setting or remove or template):
        raise BadParameter("nothing to change: give --set, --remove or --template")
    with byte_bar("copying") as progress:
        made = edit(
            model,
            output,
            [Setting.parse(text) for text in setting or ()],
            remove=remove or (),
            template=read_text(template) if template else None,
            force=force,
            progress=progress,
        )
    show(made)
