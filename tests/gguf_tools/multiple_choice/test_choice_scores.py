"""HellaSwag, WinoGrande and multiple choice: llama.cpp's files, and the scores of its tool."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.multiple_choice.choice_scores import measure_choices, wilson_interval
from reellama.gguf_tools.multiple_choice.task_files import (
    READERS,
    draw_evenly,
    draw_in_order,
    read_winogrande,
)
from tests.conftest import Result
from tests.helpers import bare_llama

Run = Callable[..., Result]
BOS = 1
ENDINGS = ("puts the kettle on.", "sings.", "walks home, slowly.", "eats an apple and sleeps.")
PAIRS = (
    ("Ann gave Bob the bag because _ was tired.", "Ann", "Bob", 2),
    ('"Eve met Bob, and _ was late."', "Eve", "Bob", 1),
    ("Both of them laughed at _.", "Al", "Ed", 2),  # too short behind the answer
    ('"_ was late, and Bob laughed."', "Eve", "Christopher", 1),
)


def hellaswag(n: int) -> bytes:
    lines = [(f"Home {i}: she comes in and", str(i % 4), *ENDINGS) for i in range(n)]
    return "\n".join(line for task in lines for line in task).encode() + b"\n"


def winogrande() -> bytes:
    quoted = [f"{i},{','.join(map(str, pair))}" for i, pair in enumerate(PAIRS)]
    return "\n".join(["no task", *quoted, "", ""]).encode()


def text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode()


def answers(*values: str, right: int = 0) -> bytes:
    labels = [int(i == right) for i in range(len(values))]
    return (
        struct.pack("<I", len(values))
        + b"".join(map(text, values))
        + struct.pack(f"<{len(values)}i", *labels)
    )


def multiple_choice() -> bytes:
    tasks = [
        text(f"What does she do {i}?") + answers(*ENDINGS[: 2 + i % 3], right=i % 2) + answers()
        for i in range(5)
    ]
    tasks.append(text("How many?") + answers("4", "40", "7", "8", "9", right=1) + answers())
    starts = 4 + 4 * len(tasks) + np.cumsum([0, *map(len, tasks)])
    return struct.pack(f"<{len(tasks) + 1}I", len(tasks), *starts[:-1]) + b"".join(tasks)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    contents = zip(READERS, (hellaswag(9), winogrande(), multiple_choice()), strict=True)
    found = {name: (folder / name, content) for name, content in contents}
    for path, content in found.values():
        path.write_bytes(content)
    return {name: path for name, (path, _) in found.items()}


def spell(value: str) -> bytes:
    """The bytes that are the tiny model's tokens, with SentencePiece's spaces."""
    return value.replace(" ", "▁").encode()


class Bare:
    """The log-probability of each byte of a text, from the model's logits for the text alone."""

    def __init__(self, model: Path, value: str) -> None:
        self.tokens = [BOS, *(byte + 3 for byte in spell(value))]
        logits = bare_llama.logits(model, self.tokens[:1], [*self.tokens[1:], 0], 256)
        self.log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))

    def score(self, start: int, end: int | None = None) -> float:
        """The mean over the bytes from `start` on."""
        positions = range(start + 1, len(self.tokens))[slice(0, end)]
        return float(np.mean([self.log_p[i - 1, self.tokens[i]] for i in positions]))


def n_common(*values: str) -> int:
    pairs = zip(*map(spell, values), strict=False)
    return next(i for i, letters in enumerate(pairs) if len(set(letters)) > 1)


@pytest.mark.numeric
def test_an_ending_scores_the_mean_of_its_tokens(tiny_llama: Path, files: dict[str, Path]) -> None:
    found = measure_choices(tiny_llama, files["hellaswag"], "hellaswag", n_tasks=4, n_threads=1)
    assert found.n_tasks == 4 and found.chance == 0.25
    right = 0
    for task, scores, chosen in zip(draw_in_order(9, 4), found.scores, found.answers, strict=True):
        values = [f"Home {task}: she comes in and {ending}" for ending in ENDINGS]
        expected = [Bare(tiny_llama, value).score(n_common(*values)) for value in values]
        assert scores == pytest.approx(expected, rel=2e-3)
        assert chosen == int(np.argmax(expected))
        right += chosen == task % 4
    assert found.n_right == right and found.share == right / 4


@pytest.mark.numeric
def test_winogrande_scores_what_follows_the_answer(
    tiny_llama: Path, files: dict[str, Path]
) -> None:
    found = measure_choices(tiny_llama, files["winogrande"], "winogrande", n_threads=1)
    assert (found.n_tasks, found.n_skipped) == (len(PAIRS), 1)
    for (sentence, *choices, right), scores, chosen in zip(
        PAIRS, found.scores, found.answers, strict=True
    ):
        before, after = sentence.strip('"').split("_")
        values = [Bare(tiny_llama, f"{before}{choice}{after}") for choice in choices]
        if len(after) > 3:
            lengths = [len(spell(before + str(choice))) for choice in choices]
            expected = [v.score(n, -1) for v, n in zip(values, lengths, strict=True)]
        else:  # the answer counts too, its first letter in the second as read by llama.cpp
            first, second = (v.score(len(spell(before)), -1) for v in values)
            n = len(spell(f"{choices[1]}{after}")) - 1
            token = values[1].tokens[len(spell(before)) + 1]
            true, taken = values[1].log_p[len(spell(before)), token], values[0].log_p[-1, token]
            expected = [first, second + (taken - true) / n]
        assert scores == pytest.approx(expected, rel=2e-3)
        assert chosen == (0 if expected[0] > expected[1] else 1)
        assert right in (1, 2)


@pytest.mark.numeric
def test_multiple_choice_takes_any_number_of_answers(
    tiny_llama: Path, files: dict[str, Path]
) -> None:
    found = measure_choices(tiny_llama, files["multiple-choice"], "multiple-choice", n_threads=1)
    for number, scores in enumerate(found.scores[:5]):
        values = [f"What does she do {number}? {e}" for e in ENDINGS[: 2 + number % 3]]
        expected = [Bare(tiny_llama, value).score(n_common(*values)) for value in values]
        assert scores == pytest.approx(expected, rel=2e-3)
    # Of "4" and "40" the first begins the second: its last character is left to score.
    values = [f"How many? {n}" for n in ("4", "40", "7", "8", "9")]
    expected = [Bare(tiny_llama, value).score(len(spell("How many? "))) for value in values]
    assert found.scores[5] == pytest.approx(expected, rel=2e-3)
    assert found.chance == 6 / sum(map(len, found.scores))


def test_the_tasks_drawn_are_those_of_llama_perplexity() -> None:
    # As llama-perplexity prints them for files of 47 and of 41 tasks.
    assert draw_evenly(47, 7) == [19, 45, 32, 41, 0, 5, 12]
    assert draw_in_order(41, 7) == [17, 40, 29, 37, 0, 5, 12]


@given(st.integers(1, 400), st.integers(1, 400))
def test_no_task_is_drawn_twice(total: int, n: int) -> None:
    for drawn in (draw_evenly(total, n), draw_in_order(total, n)):
        assert len(drawn) == len(set(drawn)) == min(total, n)
        assert set(drawn) <= set(range(total))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share(of: tuple[int, int]) -> None:
    share = of[0] / of[1]
    low, high = wilson_interval(share, of[1])
    assert -1e-9 <= low <= share + 1e-9 and share - 1e-9 <= high <= 1 + 1e-9


@given(st.binary(max_size=20), st.sampled_from(sorted(READERS)))
def test_any_other_file_is_refused_in_a_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, benchmark: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(content)
    with pytest.raises(ReellamaError, match=rf"^[^\n]*{re.escape(str(path))}[^\n]*$"):
        READERS[benchmark](path, None)


def test_a_cut_off_file_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("hellaswag", "multiple-choice"):
        (tmp_path / name).write_bytes(files[name].read_bytes()[:-30])
        with pytest.raises(ReellamaError, match="lines, but HellaSwag has|is damaged"):
            READERS[name](tmp_path / name, None)


def test_a_last_line_without_a_newline_behind_it_is_not_read(tmp_path: Path) -> None:
    line = b"0,Ann met Bob and _ left.,Ann,Bob,1\n"
    (tmp_path / "two.csv").write_bytes(line * 2)  # as llama-perplexity, which reads one
    assert len(read_winogrande(tmp_path / "two.csv", None).tasks) == 1
    (tmp_path / "two.csv").write_bytes(line * 2 + b"\n")
    assert len(read_winogrande(tmp_path / "two.csv", None).tasks) == 2


def test_the_command_takes_the_options_of_llama_perplexity(
    reellama: Run, tiny_llama: Path, files: dict[str, Path]
) -> None:
    words = ("gguf", "perplexity", tiny_llama, "--threads", "1")
    shown = reellama(*words, "--hellaswag", files["hellaswag"], "--hellaswag-tasks", "3")
    assert shown.status == 0 and "HellaSwag, 3 tasks" in shown.out and "25.00%" in shown.out
    found = json.loads(reellama(*words, "--winogrande", files["winogrande"], "--json").out)
    assert found["n_tasks"] == len(PAIRS) == len(found["answers"])
    for wrong in (["--hellaswag"], [files["hellaswag"], "--hellaswag", "--ppl-stride", "4"]):
        assert reellama(*words, *wrong).status == 2
    long = reellama(*words, "--hellaswag", files["hellaswag"], "--ctx", "8")
    assert long.status == 1 and "but --ctx leaves room for 32" in long.err
