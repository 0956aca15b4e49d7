"""The slash commands of a chat."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table
from rich.text import Text

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.user_paths import expand_user
from reellama.pipeline.cli import chat_settings
from reellama.pipeline.cli.console import (
    alternatives_table,
    err,
    reading_bar,
    say,
    strip_control,
    timings_table,
    video_summary,
)
from reellama.pipeline.cli.filmstrip import Filmstrip
from reellama.pipeline.cli.session import Session

Action = Callable[[Session, str], None]


@dataclass(frozen=True)
class Command:
    """A slash command: its arguments, a line of help, and the function that runs it."""

    arguments: str
    help: str
    run: Action


COMMANDS: dict[str, Command] = {}


def command(arguments: str, help: str) -> Callable[[Action], Action]:  # noqa: A002  # as in typer
    """Register a function as the command of its name."""

    def register(action: Action) -> Action:
        COMMANDS[action.__name__.strip("_")] = Command(arguments, help, action)
        return action

    return register


def run(session: Session, line: str) -> None:
    """Run one line that starts with a slash. Raises ReellamaError when there is no such command."""
    name, _, rest = line[1:].partition(" ")
    if name == "save!":
        name, rest = "save", f"! {rest}"
    name = {"quit": "bye", "exit": "bye", "?": "help"}.get(name, name)
    if name in COMMANDS:
        COMMANDS[name].run(session, rest.strip())
        return
    if os.path.exists(expand_user(line)):  # a file dropped on the terminal
        raise ReellamaError(f"to look at this file: /add {line}")
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean /{near[0]}?" if near else "/help lists them"
    raise ReellamaError(f"there is no command /{strip_control(name)}: {hint}")


@command("FILE", "look at one more video, picture or folder of pictures")
def add(session: Session, rest: str) -> None:
    """Look at one more video."""
    for path in _paths(rest, "add FILE"):
        session.add(path)


@command("[N]", "show the frames, or look again at N of them")
def frames(session: Session, rest: str) -> None:
    """Show or change the frames."""
    video_chat = session.video_chat
    if not video_chat.videos:
        raise ReellamaError("there is no video yet: /add FILE")
    if rest:
        session.reread(replace(video_chat.read_options, frames=_whole_number(rest, "frames N")))
    else:
        session.say_videos()
    for video in video_chat.videos:
        err.print(Filmstrip(video.clip.frames, list(video.clip.times), whole=not rest))


@command("[N]", "show what the soft tokens say, or where the N-th looks")
def inspect(session: Session, rest: str) -> None:
    """Read the soft tokens of the videos."""
    from reellama.models.bundle import Bundle
    from reellama.pipeline.cli.token_tables import show_token, slot_table

    number = _whole_number(rest, "inspect N", minimum=0) if rest else None
    bundle = session.video_chat.bundle
    if not session.video_chat.videos:
        raise ReellamaError("there is no video yet: /add FILE")
    if not isinstance(bundle, Bundle):
        raise ReellamaError(
            f"the soft tokens of {bundle.name} are no words: there is nothing to read"
        )
    for video in session.video_chat.videos:
        clip = video.clip
        readings = bundle.interpret(bundle.features(clip.frames), clip.times)
        say(video_summary(video))
        if number is None:
            err.print(slot_table(readings, clip, everything=False))
        else:
            show_token(clip, readings, number, err)


@command("[NAME [VALUE]]", "show settings, or change one: /set temperature 0.7")
def _set(session: Session, rest: str) -> None:
    """Show or change settings."""
    name, _, value = rest.partition(" ")
    if name and value.strip():
        chat_settings.change(session, name, value.strip())
    err.print(chat_settings.table(session, name))


@command("[WHAT]", "show the session, video, turns, probs, settings or timings")
def show(session: Session, rest: str) -> None:
    """Show something about the session."""
    views: dict[str, Callable[[], None]] = {
        "": lambda: _show_session(session),
        "video": lambda: frames(session, ""),
        "turns": lambda: _show_turns(session),
        "probs": lambda: probs(session, ""),
        "settings": lambda: err.print(chat_settings.table(session)),
        "timings": lambda: err.print(timings_table(session.video_chat.timings)),
    }
    if rest not in views:
        raise ReellamaError(
            f"there is no /show {strip_control(rest)}: {', '.join(filter(None, views))}"
        )
    views[rest]()


@command("", "show how sure each token was, and the alternatives")
def probs(session: Session, rest: str) -> None:
    """Show the probabilities of the last answer."""
    if not session.tokens:
        raise ReellamaError("there is no answer yet")
    err.print(alternatives_table(session.tokens))


@command("", "answer the last question again")
def retry(session: Session, rest: str) -> None:
    """Answer the last question again."""
    before = session.video_chat.turns[-1:]
    session.answer(session.video_chat.retry(**session.options.generation()))
    if session.video_chat.turns[-1:] == before and session.options.temperature == 0:
        say("the same again, as always at temperature 0: try /set temperature 0.7")


@command("", "take the last question and its answer back")
def undo(session: Session, rest: str) -> None:
    """Take the last turn back."""
    turn = session.video_chat.conversation.undo()
    say(f"taken back: {turn.question}")


@command("FILE", "save the conversation; /save! also over a file")
def save(session: Session, rest: str) -> None:
    """Save the conversation. A file of this conversation is kept up to date without asking."""
    over = rest.startswith("! ")
    (path,) = _paths(rest.removeprefix("! "), "save FILE", at_most=1)
    if path.is_file() and not over and path.resolve() not in session.own_files:
        raise ReellamaError(f"{path} is there already: /save! {path} writes over it")
    session.video_chat.save(path)
    session.own_files.add(path.resolve())
    say(f"saved {path}: /load {path} goes on with it")


@command("[FILE]", "go on with a saved conversation, or with the last one")
def load(session: Session, rest: str) -> None:
    """Load a conversation."""
    path = _paths(rest, "load FILE", at_most=1)[0] if rest else session.last_conversation()
    if not rest and not path.exists():
        raise ReellamaError("there is no last conversation yet: /load FILE")
    with reading_bar(path) as report:
        session.video_chat.load(path, report)
    session.own_files.add(path.resolve())
    session.tokens = []
    _show_session(session)


@command("", "forget all questions and answers; the video stays")
def clear(session: Session, rest: str) -> None:
    """Forget all turns."""
    session.video_chat.conversation.clear()
    session.tokens = []
    say("forgot the conversation; the video stays")


@command("", "list the commands")
def help(session: Session, rest: str) -> None:  # noqa: A001  # the command's name
    """List the commands."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, entry in COMMANDS.items():
        table.add_row(Text(f"/{name} {entry.arguments}".strip()), Text(entry.help, "dim"))
    err.print(table)
    say("Ctrl-C stops an answer, Alt-Enter starts a line, Tab completes, Ctrl-D leaves.")


@command("", "leave")
def bye(session: Session, rest: str) -> None:
    """Leave."""
    session.done = True


def _show_session(session: Session) -> None:
    video_chat = session.video_chat
    for video in video_chat.videos:
        say(video_summary(video))
    say(f"bundle {video_chat.bundle.name}, LLM {Path(video_chat.llm).name}")
    n_turns = len(video_chat.turns)
    dropped = video_chat.conversation.dropped
    out_of = f" ({dropped} left the context)" if dropped else ""
    say(
        f"{n_turns} turn{'s' * (n_turns != 1)}{out_of}, "
        f"{video_chat.n_past} of {video_chat.engine.n_ctx} positions in the context"
    )


def _show_turns(session: Session) -> None:
    for turn in session.video_chat.turns:
        say(f">>> {turn.question}")
        err.print(Text(strip_control(turn.answer.strip())))


def _paths(rest: str, usage: str, at_most: int | None = None) -> list[Path]:
    """The paths in `rest`, split as in a shell unless the whole is a path that exists."""
    whole = expand_user(rest)
    if rest and os.path.exists(whole):  # which is False for names that are too long
        return [whole]
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise ReellamaError(f"{rest}: {error}") from error
    if not words or len(words) > (at_most or len(words)):
        raise ReellamaError(f"usage: /{usage}")
    return [expand_user(word) for word in words]


def _whole_number(text: str, usage: str, minimum: int = 1) -> int:
    if not text.isdecimal() or int(text) < minimum:
        raise ReellamaError(f"usage: /{usage}, a whole number from {minimum}")
    return int(text)
