"""A wrong word on the command line is named, with its option, before any file is opened."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from tests.conftest import Result

Run = Callable[..., Result]

# The command and what it says; no file here exists, and that is not what is said.
WRONG = {
    "ask NO What? --sampling often": "'often' is not one of uniform",
    "ask NO What? --sampling fps": "needs frames a second",
    "ask NO What? --start 5 --end 3": "end (3.0 s) must come after start",
    "ask NO What? --pooling x": "'--pooling': 'x' is not one of auto",
    "ask NO What? --subtitles x": "'x' is not one of auto, off",
    "ask NO What? --llm ollama:": "ollama:NAME wants a name",
    "ask NO What? --llm ollama:x --lora y": "--lora has no place in x",
    "ask NO ''": "the question is empty",
    "describe NO -ngl x": "'x' is neither a number nor auto nor all",
    "inspect NO --end x": "'x' is not a time",
    "search NO ' '": "search for what?",
    "timeline NO --ask ' '": "the question is empty",
    "timeline NO --ask What? --out NO.srt": "leave out --out",
    "timeline NO --format x": "'x' is not one of text",
    "watch NO --json": "--json is for --status",
    "train NO --steps 1,2": "'1,2': give those of the three phases",
    "train NO --projector x": "'x' is not one of resampler",
    "serve --bundle NO --log-level x": "'x' is not one of debug",
    "serve --bundle NO --keep-alive x": "keep_alive is 'x'",
    "eval NO --split x": "'x' is not one of new-clips",
    "eval NO --bench x": "'x' is not one of captions",
    "demo-video NO/x.mp4 --motion x": "no motion is called 'x'",
    "demo-video NO/x.mp4 --kind stra": "no picture is called 'stra'",
    "demo-video NO/x.xyz": "call it x.mp4",
    "gguf fit NO --type-k q9": "'--type-k' / '-ctk': 'q9' is not one of f32",
    "gguf fit NO --vram 12": "12 is 12 bytes",
    "gguf pick NO --vram x": "'x' is not a size",
    "gguf pick NO --types Q9": "no such type: Q9",
    "gguf pick NO -ngl x": "'x' is neither a number",
    "gguf bench NO -ctk f16,q9": "'-ctk' / '--type-k': 'q9' is not one of f32",
    "gguf bench NO -fa maybe": "'maybe' is not one of auto, on, off",
    "gguf bench NO -t x": "'-t' / '--threads': 'x' is no number",
    "gguf bench NO -ngl x": "'x' is neither a number",
    "gguf bench NO -pg 512": "'512' is not N,N",
    "gguf bench NO -b 0": "n_batch is 0",
    "gguf bench NO -npl 999": "999 sequences at once",
    "gguf bench NO -p 0 -n 0 -s 0": "nothing to measure",
    "gguf compare NO Q9": "no such type: Q9",
    "gguf perplexity NO -ngl x": "'x' is neither a number",
    "gguf quantize NO": "which type?",
    "gguf quantize NO Q9": "no such type: Q9",
    "gguf quantize NO Q8_0 --output-type Q9": "no such tensor type: Q9",
    "gguf quantize NO Q8_0 --tensor-type a=Q9": "no such tensor type: Q9",
    "gguf quantize NO Q8_0 --override-kv a=b": "'a=b' is not KEY=TYPE:VALUE",
    "gguf quantize NO --target-size x": "'x' is not a size",
    "gguf quantize NO --target-size 1GB --target-bpw 4": "give one of them",
    "gguf convert NO Q4_K_M": "cannot convert to Q4_K_M: give F32, F16, BF16, Q8_0, and quantize",
    "gguf convert NO --mmproj-type q4": "cannot convert to q4: give F32",
    "gguf split NO --max-size x": "'x' is not a size",
    "gguf edit NO -o x --set a": "'a' is not KEY=VALUE",
    "gguf edit NO -o x": "nothing to change",
    "gguf imatrix NO": "nothing to read",
    "gguf imatrix NO --merge x --process-output": "needs a TEXT",
    "gguf pull NO": "NO is not a name on the hub",
}


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_word_is_named_before_a_file_is_opened(reellama: Run, command: str) -> None:
    result = reellama(*shlex.split(command))
    assert (result.status, result.out) == (2, "")
    assert WRONG[command] in result.err
    assert "no such file" not in result.err.lower()


def test_what_is_right_but_for_the_file_is_a_failure(reellama: Run) -> None:
    for command in ("gguf fit NO --vram 1GiB -ctk q8_0", "gguf bench NO -pg 8,8", "timeline NO"):
        result = reellama(*command.split())
        assert result.status == 1 and "NO" in result.err
