"""Files of clips with captions: what is read, and what is said of a line that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.evaluation.captioned_clips import (
    CaptionedClip,
    CaptionedSplit,
    read_captioned,
)


def test_a_clip_has_all_captions_of_its_lines(captioned: Path) -> None:
    first, *_ = read_captioned(captioned)
    assert first.video == captioned.parent / "astronaut-0.png"
    assert len(first.captions) == 4
    row = {"video": first.video.name, "caption": "someone"}
    file = captioned.with_name("more.jsonl")
    file.write_text(captioned.read_text() + "\n" + json.dumps(row))
    assert read_captioned(file)[0].captions == (*first.captions, "someone")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "Expecting property name"),
        ("[]", "`video` must be a text"),
        ('{"video": "astronaut-0.png"}', "`captions` must be a list"),
        ('{"video": "astronaut-0.png", "captions": []}', "`captions` must be a list"),
        ('{"video": "astronaut-0.png", "captions": [" "]}', "none of them empty"),
        ('{"video": "no.png", "captions": ["x"]}', "there is no"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(
    captioned: Path, line: str, complaint: str
) -> None:
    file = captioned.with_name("wrong.jsonl")
    file.write_text(captioned.read_text().splitlines()[0] + "\n" + line + "\n")
    with pytest.raises(ReellamaError) as error:
        read_captioned(file)
    assert complaint in str(error.value) and f"{file}, line 2: " in str(error.value)


def test_one_clip_is_too_few_and_no_file_none(captioned: Path, tmp_path: Path) -> None:
    file = captioned.with_name("one.jsonl")
    file.write_text(captioned.read_text().splitlines()[0])
    with pytest.raises(ReellamaError, match="1 clips in it; two or more"):
        read_captioned(file)
    with pytest.raises(ReellamaError, match="No such file"):
        read_captioned(tmp_path / "no.jsonl")


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 9))
def test_a_sample_is_some_of_the_clips_in_their_order(n: int, most: int, seed: int) -> None:
    clips = [CaptionedClip(Path(str(number)), ("x",)) for number in range(n)]
    split = CaptionedSplit(clips, [], most, seed)
    found = split.sample()
    assert found == split.sample() and len(found) == min(n, most)
    places = [clips.index(clip) for clip in found]
    assert places == sorted(set(places))
