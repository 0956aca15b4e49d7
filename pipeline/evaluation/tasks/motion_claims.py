"""Does a description claim motion that is not there? Stills as clips, under a camera that we move.

Of each clip one frame is taken and shown through a crop that stands still, pans or zooms. So
nothing in it moves, and what the camera does is known. Statements are found by tables of words.
That someone runs or jumps is no such statement: a photograph of a runner shows it as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.temporary_folders import temporary_folder
from reellama.models.synthetic.camera import CAMERA_MOVES, Camera
from reellama.models.synthetic.video_writer import write_video
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.evaluation.bootstrap import BootstrapEstimate, mean, ratio
from reellama.pipeline.evaluation.captioned_clips import CaptionedSplit
from reellama.pipeline.evaluation.footage_report import MODEL, FootageScore
from reellama.pipeline.evaluation.items import EvalItem
from reellama.pipeline.evaluation.runner import AnsweredItem, QuestionProgress, ask_of_clips
from reellama.pipeline.evaluation.tasks.concept_words import kind_of
from reellama.pipeline.video.clip import read_frames
from reellama.pipeline.video.source import VideoError

STILL = "the camera stays still"
STILL_SHARE = 1 / 3  # of the clips; the other moves share the rest
SECONDS, VIDEO_FPS = 4.0, 12
SIDE = 480  # pixels on the longest side of the frame that is shown in part
OF_CAMERA, OF_MOTION = "What does the camera do?", "What moves?"
QUESTIONS = ("", OF_CAMERA, OF_MOTION)  # an empty one asks for a description

_CAMERA = re.compile(r"\b(camera|zooms?|zooming|zoomed|pans?|panning|view)\b")
_CAMERA_ACTS = re.compile(
    r"\b(mov(e|es|ed|ing)|pan(s|ned|ning)?|zoom(s|ed|ing)?|tilts?|tracks?|shifts?|turns?|swings?"
    r"|goes|comes|stays?|remains?|shak(es?|ing)|still|static|stationary|fixed|steady|motionless)\b"
)
# Each statement about the camera, and the words for it.
_CAMERA_WORDS = {
    "still": r"still|static|stationary|fixed|steady|motionless|not mov\w+|\w+n't mov\w+",
    "left": r"left|leftwards?",
    "right": r"right|rightwards?",
    "up": r"up|upwards?",
    "down": r"down|downwards?",
    "in": r"zoom\w* in|closer|nearer",
    "out": r"zoom\w* out|away|farther|further",
    "about": r"moves? about|moving about|shak\w+|handheld|wobbl\w+",
}
_STILL = re.compile(
    r"\b(nothing|no one|nobody|none)\b.*\bmov|not mov|n't mov|stays? still|motionless|^nothing\W*$"
)
_MOTION = re.compile(
    r"\b(mov(e|es|ing)|spin(s|ning)?|rotat(es?|ing)|grows?(?! (in|on|from)\b)|shrinks?"
    r"|bounc(es?|ing)|shak(es?|ing)(?! hands?\b)|appears?(?= *($|,|(and|from|in|on|at)\b))"
    r"|disappears?|vanish(es)?|comes? closer|goes? away|(goes|going) (up|down|left|right))\b"
)


@dataclass(frozen=True)
class MotionClaim:
    """One statement about the camera, or about the things in the picture.

    says: "still"; "moves" for any way; of the camera also a key of `_CAMERA_WORDS`.
    """

    says: str
    about_camera: bool

    def is_true(self, move: str) -> bool:
        """Whether the claim is true of a still under a camera that makes `move`."""
        if not self.about_camera:
            return self.says == "still"
        if self.says == "moves":
            return move != STILL
        return self.says == move.split()[-1]


def motion_claims(answer: str, question: str = "") -> list[MotionClaim]:
    """The statements of an answer about motion or camera, sentence by sentence.

    An answer to `OF_MOTION` that names something says that it moves.

    >>> [claim.says for claim in motion_claims("Nothing moves. The camera zooms in.")]
    ['still', 'in']
    """
    found: list[MotionClaim] = []
    text = answer.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    for sentence in re.split(r"[.!?;]", text):
        if question == OF_CAMERA or _CAMERA.search(sentence):
            found += _camera_claims(sentence, short=question == OF_CAMERA)
        elif _STILL.search(sentence):
            found.append(MotionClaim("still", about_camera=False))
        elif _MOTION.search(sentence) or (question == OF_MOTION and kind_of(sentence)):
            found.append(MotionClaim("moves", about_camera=False))
    return found


def _camera_claims(sentence: str, *, short: bool) -> list[MotionClaim]:
    """What a sentence about the camera claims; a `short` answer may have no verb: "Left"."""
    acts = _CAMERA_ACTS.search(sentence)
    if not (acts or short):
        return []
    said = [way for way, words in _CAMERA_WORDS.items() if re.search(rf"\b({words})\b", sentence)]
    if acts and not said and not re.search(r"\b(stays?|remains?)\b", sentence):
        said = ["moves"]
    return [MotionClaim(way, about_camera=True) for way in said]


def items(split: CaptionedSplit, folder: Path, unreadable: list[str]) -> Iterator[EvalItem]:
    """Three questions about each clip, written into `folder`; the answer is the camera's move."""
    for number, clip in enumerate(split.sample()):
        rng = np.random.default_rng([split.seed, number])
        move = STILL if rng.random() < STILL_SHARE else str(rng.choice(CAMERA_MOVES))
        try:
            frame = read_frames(clip.video, frames=1, max_side=SIDE).frames[0]
        except VideoError as error:
            unreadable.append(str(error))
            continue
        path = folder / f"{number}.mp4"
        write_video(path, camera_clip(frame, Camera.random(rng, move)), VIDEO_FPS)
        for question in QUESTIONS:
            yield EvalItem("motion claims", question, move, (), path)


def camera_clip(frame: np.ndarray, camera: Camera) -> np.ndarray:
    """A frame `[H, W, 3]` as a moving camera sees parts of it: uint8 `[T, h, w, 3]`, h, w even."""
    picture = Image.fromarray(frame)
    size = picture.width // 2 * 2, picture.height // 2 * 2
    count = round(SECONDS * VIDEO_FPS)
    views = [camera.view((number + 0.5) / count) for number in range(count)]
    scale = np.array([picture.width, picture.height] * 2)
    return np.stack(
        [
            np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=tuple(view * scale)))
            for view in map(np.array, views)
        ]
    )


def run(
    video_chat: VideoChat,
    split: CaptionedSplit,
    controls: Sequence[str],
    progress: QuestionProgress,
) -> FootageScore:
    """Ask, and count what is claimed. Raises ReellamaError when no clip can be read."""
    unreadable: list[str] = []
    with temporary_folder() as folder:
        asked = list(items(split, folder, unreadable))
        if not asked:
            raise ReellamaError(unreadable[0] if unreadable else "there is nothing to ask")
        answered, _ = ask_of_clips(video_chat, asked, controls, progress)
    return score(answered, unreadable)


def score(answered: Sequence[AnsweredItem], notes: Sequence[str] = ()) -> FootageScore:
    """False claims among all that were made, and how often the camera's move was said."""
    texts_by_way = {MODEL: [each.reply.generated_text for each in answered]}
    for control in answered[0].controls:
        texts_by_way[control] = [each.controls[control].generated_text for each in answered]
    items_asked = [each.item for each in answered]
    rows = {way: _figures(items_asked, answers) for way, answers in texts_by_way.items()}
    clips = len({item.video for item in items_asked})
    of = f"{clips} stills as clips, {len(items_asked)} answers"
    return FootageScore("motion claims", of, rows, notes, answered)


def _figures(
    items_asked: Sequence[EvalItem], answers: Sequence[str]
) -> dict[str, BootstrapEstimate]:
    """The figures; each clip counts once in a resample, with all its answers."""
    clips = {
        video: number for number, video in enumerate(dict.fromkeys(i.video for i in items_asked))
    }
    claims, false, wrong, answered, named = np.zeros((5, len(clips)))
    for item, answer in zip(items_asked, answers, strict=True):
        clip = clips[item.video]
        made = motion_claims(answer, item.question)
        lies = [claim for claim in made if not claim.is_true(item.answer)]
        claims[clip] += len(made)
        false[clip] += len(lies)
        wrong[clip] += bool(lies)
        answered[clip] += 1
        if item.question == OF_CAMERA:
            named[clip] = bool(made) and not lies
    return {
        "false claims": ratio(false, claims),
        "claims an answer": ratio(claims, answered),
        "answers with a false one": ratio(wrong, answered),
        "camera right": mean(named),
    }
