"""The options of `reellama eval`: what is asked, and how."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from reellama.gguf_tools.atomic_write import write_atomically
from reellama.models.token_pooling.options import AUTO
from reellama.pipeline.cli.arguments.checks import one_of
from reellama.pipeline.cli.options import (
    ComputeOptions,
    MmprojOption,
    OptionalContextOption,
    TokenOptions,
)

DESCRIBED_CLIPS = 300  # that are described
CLIPS_PER_TASK = 50  # of the benchmark
FOOTAGE_CLIPS = 200  # of captioned footage, a task
SPLIT_NAMES = ("new-clips", "new-style", "new-pictures", "photographs")
FOOTAGE_TASK_NAMES = ("captions", "yes-no", "subject-kind", "motion", "search")


@dataclass(frozen=True)
class QuestionOptions:
    """What is asked; without --data and --benchmark, descriptions of drawn clips are judged."""

    data: Annotated[
        Path | None,
        Option(metavar="PATH", help="Ask what a JSONL file asks, or MVBench's folder."),
    ] = None
    bench: Annotated[
        list[str] | None,
        Option(
            callback=one_of(*FOOTAGE_TASK_NAMES, "all"),
            metavar="NAME",
            help="Ask of the captioned clips of --data: "
            f"{', '.join(FOOTAGE_TASK_NAMES)} or all; may be repeated.",
        ),
    ] = None
    train: Annotated[
        Path | None,
        Option(metavar="FILE", help="Captioned clips that the baselines of --bench may know."),
    ] = None
    benchmark: Annotated[
        bool, Option("--benchmark", help="Ask the drawn benchmark, whose answers are exact.")
    ] = False
    split: Annotated[
        str,
        Option(
            callback=one_of(*SPLIT_NAMES),
            metavar="NAME",
            help=f"Of the benchmark: {', '.join(SPLIT_NAMES)}.",
        ),
    ] = SPLIT_NAMES[0]
    task: Annotated[
        list[str] | None, Option(metavar="NAME", help="This task only; may be repeated.")
    ] = None
    seed: Annotated[int, Option(min=0, metavar="N", help="Of the clips that are drawn.")] = 0
    clips: Annotated[
        int | None,
        Option(
            min=1,
            metavar="N",
            help=f"Clips to describe (default {DESCRIBED_CLIPS}), "
            f"or a task (default {CLIPS_PER_TASK}; of --bench, {FOOTAGE_CLIPS}).",
        ),
    ] = None
    assets: Annotated[Path | None, Option(metavar="DIR", help="Folder of picture sets.")] = None
    style: Annotated[
        list[str] | None,
        Option(metavar="NAME", help="Describe clips drawn in this style; may be repeated."),
    ] = None

    def task_names(self) -> set[str]:
        """The names that --task gave, in small letters; empty for all tasks."""
        return {name.lower() for name in self.task or ()}


@dataclass(frozen=True)
class RunOptions(ComputeOptions, TokenOptions):
    """How a bundle is asked, and what becomes of the figures."""

    llm: Annotated[
        Path | None, Option(metavar="GGUF", help="The bundle's LLM in another file.")
    ] = None
    mmproj: MmprojOption = None
    frames: Annotated[int | None, Option(min=1, metavar="N", help="Frames of a video.")] = None
    n_ctx: OptionalContextOption = None
    controls: Annotated[
        bool,
        Option(help="Ask also without the video, with frames shuffled, and with one frame."),
    ] = True
    quantizations: Annotated[
        Path | None, Option(metavar="DIR", help="Ask with every GGUF of a folder.")
    ] = None
    quantize: Annotated[
        bool, Option("--quantize", help="Make these GGUFs first, F16 to Q2_K, from the LLM.")
    ] = False
    plot: Annotated[
        Path | None,
        Option(
            metavar="PREFIX",
            help="Draw PREFIX.png and .svg of quantizations, or of how sure yes and no are.",
        ),
    ] = None
    json: Annotated[
        Path | None, Option("--json", metavar="FILE", help="Write all as JSON; - is stdout.")
    ] = None
    html: Annotated[
        Path | None, Option(metavar="FILE", help="Write a page of figures, clips and answers.")
    ] = None
    record: Annotated[
        str | None,
        Option(metavar="NAME", help="Keep the scores in the bundle's scores.json as this."),
    ] = None

    def engine(self) -> dict[str, Any]:
        """What `Engine` takes of these."""
        n_ctx = {} if self.n_ctx is None else {"n_ctx": self.n_ctx}
        return {**self.engine_options(), **n_ctx}

    def chat(self) -> dict[str, Any]:
        """What `VideoChat` takes of these: the LLM is the one that answers everywhere, with the
        bundle's adapter merged in."""
        from reellama.gguf_tools.quantization.merged_llm import MERGED_LLMS

        vision = {"mmproj": self.mmproj, "tokens": self.tokens, "pooling": self.pooling}
        return {**vision, "merged": MERGED_LLMS, "merge": True}

    def model_words(self) -> list[str]:
        """The options that say which model is asked, and what it sees, as they are typed."""
        given = (
            ("--llm", self.llm),
            ("--mmproj", self.mmproj),
            ("--n-ctx", self.n_ctx),
            ("--frames", self.frames),
            ("--tokens", self.tokens),
            ("--pooling", None if self.pooling == AUTO else self.pooling),
        )
        return [word for name, value in given if value is not None for word in (name, str(value))]


def write_text(path: Path, text: str) -> None:
    """Write `text` to a file, whole or not at all; - is stdout."""
    if str(path) == "-":
        sys.stdout.write(text)
    else:
        write_atomically(path, text)
