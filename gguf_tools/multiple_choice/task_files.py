"""Tasks with several answers, in the files of `llama-perplexity`.

HellaSwag is a text file with six lines a task, WinoGrande a CSV file; ARC, MMLU and TruthfulQA are
in a binary format. A random part of the tasks is the same as in llama-perplexity, which has a fixed
seed.
https://github.com/ggml-org/llama.cpp/tree/master/tools/perplexity
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.text.text_chunks import read_text
from reellama.gguf_tools.user_paths import expand_user

HELLASWAG_LINES = 6  # a task: its context, the number of the right ending, four endings
MAX_ANSWERS = 100  # of a task in the binary format
ANSWER = re.compile(rb"\s*([+-]?[0-9]+)")


@dataclass(frozen=True)
class Task:
    """A question with its answers."""

    texts: tuple[bytes, ...]  # the whole text with each of the answers
    right: frozenset[int]  # indices of the right answers
    # For WinoGrande: the text up to and with each answer. The text after it is always the same.
    prefixes: tuple[bytes, ...] = ()


class TaskFile(NamedTuple):
    """The tasks of a file, and the number of lines that were skipped."""

    tasks: list[Task]
    n_skipped: int


def read_hellaswag(path: Path, n_tasks: int | None) -> TaskFile:
    """Read at most `n_tasks` tasks of HellaSwag in random order.

    Raises ReellamaError for a file that cannot be read or has another format.
    """
    lines = _lines(read_text(path))
    if not lines or len(lines) % HELLASWAG_LINES:
        raise ReellamaError(
            f"{path} has {len(lines):,} lines, but HellaSwag has {HELLASWAG_LINES} for each task: "
            "the context, the number of the right ending, and four endings"
        )
    groups = [lines[i : i + HELLASWAG_LINES] for i in range(0, len(lines), HELLASWAG_LINES)]
    order = draw_in_order(len(groups), n_tasks)
    return TaskFile([_hellaswag_task(path, number, groups[number]) for number in order], 0)


def read_winogrande(path: Path, n_tasks: int | None) -> TaskFile:
    """Read WinoGrande: lines of `number,sentence with a _,answer,answer,1 or 2`.

    Lines of another form are skipped. So is a last line without another newline behind the one
    that ends the file, because llama-perplexity does not read it. Raises as `read_hellaswag`.
    """
    lines = read_text(path).split(b"\n")[:-1]
    tasks = [task for line in lines if (task := _winogrande_task(line)) is not None]
    if not tasks:
        raise ReellamaError(
            f"{path} has no WinoGrande tasks: lines of 'number,sentence with a _,answer,answer,1'"
        )
    order = draw_evenly(len(tasks), n_tasks)
    return TaskFile([tasks[number] for number in order], len(lines) - len(tasks))


def read_multiple_choice(path: Path, n_tasks: int | None) -> TaskFile:
    """Read llama.cpp's binary format of ARC, MMLU and TruthfulQA. Raises as `read_hellaswag`."""
    try:
        content = expand_user(path).read_bytes()
    except OSError as error:
        raise ReellamaError(f"cannot read {path}: {error.strerror}") from error
    try:
        (total,) = struct.unpack_from("<I", content)
        positions = struct.unpack_from(f"<{min(total, len(content))}I", content, 4)
        if n_tasks is None or n_tasks >= total:
            reader = _BinaryReader(content, 4 + 4 * total)
            tasks = [reader.task() for _ in range(total)]
        else:
            order = draw_evenly(total, n_tasks)
            tasks = [_BinaryReader(content, positions[number]).task() for number in order]
    except (struct.error, ValueError) as error:
        raise ReellamaError(
            f"{path} is not a file of multiple-choice tasks for llama.cpp, or is damaged: {error}"
        ) from error
    if not tasks:
        raise ReellamaError(f"{path} has no multiple-choice tasks")
    return TaskFile(tasks, 0)


READERS: dict[str, Callable[[Path, int | None], TaskFile]] = {
    "hellaswag": read_hellaswag,
    "winogrande": read_winogrande,
    "multiple-choice": read_multiple_choice,
}


def draw_in_order(total: int, n: int | None) -> list[int]:
    """The tasks that llama-perplexity draws for HellaSwag, out of `total`, without replacement.

    The random numbers are those of `std::uniform_int_distribution` in libstdc++ since GCC 11
    (Lemire, https://arxiv.org/abs/1805.10941). Other standard libraries draw other ones.
    """
    numbers, left = _mersenne_twister(), list(range(total))
    return [left.pop(_below(len(left), numbers)) for _ in range(min(total, n or total))]


def draw_evenly(total: int, n: int | None) -> list[int]:
    """The tasks that llama-perplexity draws for the other benchmarks: all in order, or n at
    random."""
    if n is None or n >= total:
        return list(range(total))
    numbers, left, chosen = _mersenne_twister(), list(range(total)), []
    for _ in range(n):
        share = np.float32(next(numbers)) / np.float32(2**32)  # rounded as a C++ float is
        place = min(int(share * np.float32(len(left))), len(left) - 1)
        chosen.append(left[place])
        left[place] = left[-1]
        left.pop()
    return chosen


def _mersenne_twister() -> Iterator[int]:
    """The 32-bit numbers of C++'s `std::mt19937(1)`."""
    generator = np.random.RandomState(1)
    while True:
        yield from map(int, generator.randint(0, 2**32, 1024, np.uint32))


def _below(bound: int, numbers: Iterator[int]) -> int:
    """A number from 0 to bound - 1, by Lemire's multiplication."""
    product = next(numbers) * bound
    if product % 2**32 < bound:
        while product % 2**32 < (2**32 - bound) % bound:
            product = next(numbers) * bound
    return product >> 32


def _lines(content: bytes) -> list[bytes]:
    lines = content.split(b"\n")
    return lines[:-1] if not lines[-1] else lines


def _hellaswag_task(path: Path, number: int, lines: list[bytes]) -> Task:
    context, label, *endings = lines
    match = ANSWER.match(label)
    if match is None or not 0 <= int(match[1]) < len(endings):
        raise ReellamaError(
            f"{path}, line {HELLASWAG_LINES * number + 2}: {label.decode(errors='replace')!r} is "
            f"not the number of an ending, 0 to {len(endings) - 1}"
        )
    return Task(tuple(context + b" " + ending for ending in endings), frozenset([int(match[1])]))


def _winogrande_task(line: bytes) -> Task | None:
    """The task of a line, or None. As in llama.cpp, only the sentence may be quoted."""
    commas: list[int] = []
    is_quoted = False
    for place, character in enumerate(line):
        if character == ord('"'):
            is_quoted = not is_quoted
        elif character == ord(",") and not is_quoted and len(commas) < 4:
            commas.append(place)
    if len(commas) < 4:
        return None
    sentence, *choices = (line[start + 1 : end] for start, end in pairwise(commas))
    if sentence.startswith(b'"'):
        sentence = sentence[1:-1]
    before, gap, after = sentence.partition(b"_")
    answer = ANSWER.match(line[commas[3] + 1 :])
    if not gap or answer is None or int(answer[1]) not in (1, 2):
        return None
    prefixes = tuple(before + choice for choice in choices)
    return Task(
        tuple(prefix + after for prefix in prefixes), frozenset([int(answer[1]) - 1]), prefixes
    )


class _BinaryReader:
    """Reads tasks from a position on. Raises ValueError or struct.error at the end of the data."""

    def __init__(self, content: bytes, position: int) -> None:
        self.content, self.position = content, position

    def task(self) -> Task:
        question = self._text()
        answers, right = self._answers()
        self._answers()  # answers of which several are right, which no score of llama.cpp reads
        if not question or not answers or not all(answers):
            raise ValueError("a question or an answer is empty")
        return Task(tuple(question + b" " + answer for answer in answers), right)

    def _answers(self) -> tuple[list[bytes], frozenset[int]]:
        n = self._number()
        if n > MAX_ANSWERS:
            raise ValueError(f"a question has {n:,} answers")
        answers = [self._text() for _ in range(n)]
        labels = [self._number() for _ in range(n)]
        return answers, frozenset(i for i, label in enumerate(labels) if label == 1)

    def _number(self) -> int:
        (value,) = struct.unpack_from("<I", self.content, self.position)
        self.position += 4
        return int(value)

    def _text(self) -> bytes:
        size = self._number()
        text = self.content[self.position : self.position + size]
        if len(text) < size:
            raise ValueError("it ends within a text")
        self.position += size
        return text
