"""What a bundle says of real clips, five questions each, as they come: a page of Markdown.

Nothing is chosen: the first clips of each file of captions, by the names of the clips.

    python -m benchmarks.footage_examples flickr8k/dev.jsonl msrvtt/val.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from reellama.pipeline import VideoChat

QUESTIONS = (
    "Describe the video.",
    "What is it?",
    "Is there a person?",
    "Where is it?",
    "What does the camera do?",
)


def first_clips(file: Path, n: int) -> list[tuple[Path, str]]:
    """The first `n` clips of a JSONL file by name, each with one person's caption."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: row["video"])
    return [(file.parent / row["video"], row["captions"][0]) for row in rows[:n]]


def examples(video_chat: VideoChat, path: Path, caption: str, name: str) -> str:
    """A clip as a heading, one person's caption, and a table of questions and answers."""
    video_chat.conversation.clear()
    video_chat.videos.clear()
    video_chat.add(path)
    lines = [
        f"## {name}",
        "",
        f"A person wrote: {caption}",
        "",
        "| asked | said |",
        "| --- | --- |",
    ]
    for question in QUESTIONS:
        video_chat.conversation.clear()
        answer = " ".join(video_chat.ask(question, max_tokens=64).split()).replace("|", "\\|")
        lines.append(f"| {question} | {answer} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Ask about the clips and print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="captions, JSONL")
    parser.add_argument("--clips", type=int, default=5, help="of each file")
    parser.add_argument("--bundle", default="mini")
    options = parser.parse_args()
    print(f"# What `{options.bundle}` says of real clips\n")
    print(
        "The first clips of held-out files of captions, by name; none was chosen for its answers."
    )
    print("The clips belong to their makers and are not part of the repository. Written by\n")
    files = " ".join(f"{file.parent.name}/{file.name}" for file in options.files)
    print(f"    python -m benchmarks.footage_examples {files} --bundle {options.bundle}\n")
    with VideoChat(bundle=options.bundle) as video_chat:
        for file in options.files:
            for path, caption in first_clips(file, options.clips):
                print(
                    examples(video_chat, path, caption, f"{file.parent.name}/{path.name}"),
                    flush=True,
                )


if __name__ == "__main__":
    main()
