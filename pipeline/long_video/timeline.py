"""A long video, scene by scene: when what is seen, and a summary.

    timeline = LongVideo("mini").timeline("lecture.mp4")
    timeline.scenes[3].start, timeline.scenes[3].text

Every scene is watched with the bundle's whole budget of soft tokens. Descriptions are written side
by side (continuous batching) while the next scenes are read.
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from reellama.gguf_tools import heap
from reellama.gguf_tools.closeable import Closeable
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.quantization.merged_llm import merged_or_beside
from reellama.gguf_tools.text.chat_template import ChatTemplate
from reellama.models import prompt_format
from reellama.models.cache_folders import ENCODED_FRAMES
from reellama.models.encoded_frames import encoded_frames
from reellama.models.open_bundle import open_bundle, search_bundle
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions
from reellama.pipeline.chat.answer_plan import plan_answer
from reellama.pipeline.chat.conversation import Video
from reellama.pipeline.chat.whole_sentences import whole_sentences
from reellama.pipeline.llm.batching.batcher import Batcher
from reellama.pipeline.llm.batching.generation_job import (
    GenerationJob,
    GenerationStats,
    JobUpdate,
)
from reellama.pipeline.llm.generation_options import GenerationOptions
from reellama.pipeline.llm.prompt import Prompt, Text, TokenizedPrompt
from reellama.pipeline.long_video.video_index import CACHE_FOLDER, VideoIndex, index_video
from reellama.pipeline.progress_callbacks import StepProgress
from reellama.pipeline.video.clip import VideoInput, opened, read_frames
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.source import FrameSource, VideoError
from reellama.pipeline.video.subtitles import Subtitle

# Scenes of one video at most: each takes a fraction of a second to a second on two cores.
MAX_SCENES = 300
MIN_SCENE_SECONDS = 1.0
N_PARALLEL = 4
# Cells of a scene's context beside its tokens and the answer: the question and the template.
QUESTION_CELLS = 128
N_CTX = 512  # at least
# Cells of a scene at most, unless more are asked for: frames in full may have any number.
MAX_SCENE_CELLS = 1024
MAX_TOKENS = 128  # of a description or an answer, unless more are asked for
DEFAULT_READ_OPTIONS = VideoReadOptions()
# Scenes that are looked at again for a question.
SCENES_PER_QUESTION = 3


@dataclass(frozen=True)
class TimelineScene:
    """What is seen from `start` to `end` seconds; `time` is the middle of it.

    said: what subtitles say meanwhile.
    """

    start: float
    end: float
    time: float
    text: str
    said: str = ""


@dataclass(frozen=True)
class Timeline:
    """A video in scenes. `skipped` says which parts could not be read, and why."""

    path: Path
    duration: float
    scenes: tuple[TimelineScene, ...]
    summary: str
    skipped: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The object of `reellama timeline --format json`."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class SceneAnswer:
    """An answer about a long video: the scene that it comes from, and how well that fits."""

    text: str
    start: float
    end: float
    score: float


@dataclass(eq=False)
class _PendingText:
    """A text that the LLM is writing."""

    updates: queue.SimpleQueue[JobUpdate] = field(default_factory=queue.SimpleQueue)
    stats: GenerationStats = field(default_factory=GenerationStats)

    def text(self) -> str:
        """The text, as soon as the LLM has written it: whole sentences, if a limit cut it off."""
        pieces = []
        while (update := self.updates.get()) is not None:
            if isinstance(update, Exception):
                raise update
            pieces.append(update.text)
        text = "".join(pieces).strip()
        return whole_sentences(text) if self.stats.stop_reason == "length" else text


@dataclass(frozen=True)
class _KnownText:
    """A text that needs no LLM."""

    answer: str

    def text(self) -> str:
        """The text, which is there at once."""
        return self.answer


class LongVideo(Closeable):
    """Watches long videos with one bundle. Close it, or use it in a `with` block.

    bundle, mmproj: as `open_bundle` takes them. llm: another GGUF whose embeddings have the
    bundle's width. read_options, pooling: which frames are taken of a scene, and its tokens, for a
    vision GGUF. max_tokens: of a description or an answer; a longer one ends with its last whole
    sentence. cache: folder of what was seen of videos, or None. merged: folder of LLMs that have
    the bundle's adapter merged in, where the right one is made if it is missing; None keeps the
    adapter beside the LLM.
    footage_caveat: what the bundle cannot tell of the scenes that it has seen, or "".
    Raises ReellamaError for a bundle or an LLM that cannot be used.
    """

    def __init__(
        self,
        bundle: str | Path = "mini",
        *,
        mmproj: str | Path | None = None,
        llm: str | None = None,
        read_options: VideoReadOptions = DEFAULT_READ_OPTIONS,
        pooling: PoolingOptions = DEFAULT_POOLING,
        max_tokens: int = MAX_TOKENS,
        n_threads: int | None = None,
        cache: Path | None = CACHE_FOLDER,
        merged: Path | None = None,
    ) -> None:
        self.cache, self.read_options, self.pooling = cache, read_options, pooling
        self.max_tokens = max_tokens
        self.footage_caveat = ""
        self.bundle = open_bundle(bundle, mmproj, cache=cache and cache / ENCODED_FRAMES.name)
        self.bundle.check_pooling(pooling)
        self._search = search_bundle(self.bundle)
        path = find.resolve(llm) if llm else self.bundle.llm_path()
        file = read_gguf(path)
        self.bundle.check_llm(file)
        self._template = ChatTemplate.from_gguf(file)
        cells = pooling.tokens or min(self.bundle.n_tokens(pooling), MAX_SCENE_CELLS)
        n_ctx = max(N_CTX, cells + QUESTION_CELLS + max_tokens)
        path, lora = merged_or_beside(path, self.bundle.lora, merged, make=True)
        self._batcher = Batcher(
            path, n_parallel=N_PARALLEL, n_ctx=n_ctx, n_threads=n_threads, lora=lora
        )

    def close(self) -> None:
        """Give the memory of the LLM back."""
        self._batcher.close()

    def index(self, video: VideoInput, report: StepProgress | None = None) -> VideoIndex:
        """See `video_index.index_video`: with hard cuts."""

        def progress(done: float, total: float) -> None:
            if report is not None:
                report("looking", done, total)

        return index_video(video, self._search, cuts=True, cache=self.cache, progress=progress)

    def timeline(
        self,
        video: VideoInput,
        *,
        max_scenes: int = MAX_SCENES,
        min_seconds: float = MIN_SCENE_SECONDS,
        subtitles: bool = True,
        report: StepProgress | None = None,
    ) -> Timeline:
        """Cut a video into at most `max_scenes` scenes and describe each; see `VideoIndex.scenes`.

        subtitles: whether scenes have the lines of subtitles in the file or beside it.
        Raises VideoError.
        """
        described: list[tuple[float, float, _PendingText]] = []
        skipped: list[str] = []
        with opened(video) as source:
            index = self.index(source, report)
            lines = source.subtitles() if subtitles else ()
            borders = index.scenes(max_scenes, min_seconds)
            for i, (start, end) in enumerate(borders):
                try:
                    scene = self._encode_scene(source, start, end)
                    written = self._ask(scene.parts, self.bundle.describe_briefly)
                    described.append((start, end, written))
                except VideoError as error:
                    skipped.append(f"{start:.1f} s to {end:.1f} s: {error}")
                if report is not None:
                    report("watching", i + 1, len(borders))
        scenes = tuple(
            TimelineScene(start, end, (start + end) / 2, written.text(), _said(lines, start, end))
            for start, end, written in described
        )
        return Timeline(
            index.path, index.duration, scenes, summarize_scenes(scenes), tuple(skipped)
        )

    def ask(
        self, video: VideoInput, question: str, *, report: StepProgress | None = None
    ) -> list[SceneAnswer]:
        """Find the scenes that a question is about, look at these again, and answer from each.

        The best comes first. What is known without looking at scenes is one answer about all of the
        video; see `plan_answer`. Raises VideoError, and ReellamaError where the tower cannot read.
        """
        if not question.strip():
            raise ReellamaError("the question is empty")
        with opened(video) as source:
            whole = replace(read_frames(source, frames=1), subtitles=source.subtitles())
            answer = plan_answer(question, [Video(source.path, [], whole)], self.bundle).answer
            if answer is not None:
                return [SceneAnswer(answer, 0.0, source.duration, 1.0)]
            index = self.index(source, report)
            borders = index.scenes(len(index.times), MIN_SCENE_SECONDS)  # by every cut
            scores = _scene_scores(index, borders, self._search.embed_texts([question])[0])
            best = sorted(range(len(borders)), key=lambda i: -scores[i])[:SCENES_PER_QUESTION]
            answers = [
                (i, self._answer(self._encode_scene(source, *borders[i]), question)) for i in best
            ]
        scene_answers = [
            SceneAnswer(answer.text(), *borders[i], scores[i]) for i, answer in answers
        ]
        if all(isinstance(answer, _KnownText) for _, answer in answers):
            return [replace(scene_answers[0], start=0.0, end=index.duration)]
        return scene_answers

    def _answer(self, scene: Video, question: str) -> _PendingText | _KnownText:
        """What the model writes to a question about one scene, or what is known without it."""
        plan = plan_answer(question, [scene], self.bundle)
        if plan.answer is not None:
            return _KnownText(plan.answer)
        request = plan.request or question
        return self._ask(scene.parts, request, plan.stop)

    def _encode_scene(self, source: FrameSource, start: float, end: float) -> Video:
        """A scene as a video of its own: it is read as `ask --start --end` reads it."""
        read_options = replace(self.read_options, start=start, end=end).for_bundle(self.bundle)
        clip = read_frames(source, read_options)
        context_left = self._batcher.n_ctx - QUESTION_CELLS - self.max_tokens
        chosen = self.bundle.choose_frames(clip.frames, clip.times, self.pooling, context_left)
        features = self.bundle.chosen_features(chosen)
        array = self.bundle.project(features, clip.times[chosen.chosen])
        encoded = encoded_frames(array, chosen, clip.frames, clip.times)
        parts = self.bundle.prompt_parts(encoded, self.pooling, context_left)
        heap.trim_heap()
        caveat = self.bundle.footage_caveat(features)
        self.footage_caveat = self.footage_caveat or caveat
        return Video(source.path, parts, clip, caveat)

    def _ask(self, video: Prompt, question: str, stop: Sequence[str] = ()) -> _PendingText:
        written = _PendingText()
        tokenized = self._tokenize_prompt(video, question)
        options = GenerationOptions(max_tokens=self.max_tokens, stop=stop, n_probs=0)
        job = GenerationJob(tokenized, written.updates.put, options, stats=written.stats)
        self._batcher.submit(job)
        return written

    def _tokenize_prompt(self, video: Prompt, question: str) -> TokenizedPrompt:
        messages = prompt_format.messages(self.bundle.system, [], question)
        prompt: Prompt = []
        media: Prompt = [*video, Text(prompt_format.AFTER_VIDEO)]
        for segment in self._template.render(messages):
            if segment.content == len(messages) - 1:
                prompt, media = prompt + media, []
            prompt.append(Text(segment.text, segment.special))
        return self._batcher.tokenize_prompt(prompt)


def summarize_scenes(scenes: Sequence[TimelineScene], n_texts: int = 3) -> str:
    """What most of the time shows, in the scenes' own words: nothing is made up.

    >>> dog, cat = TimelineScene(0, 4, 2, "A dog runs."), TimelineScene(4, 6, 5, "A cat.")
    >>> summarize_scenes([dog, cat])
    'A dog runs. A cat.'
    """
    seconds: Counter[str] = Counter()
    for scene in scenes:
        seconds[scene.text] += round((scene.end - scene.start) * 1000)
    main_texts = {text for text, _ in seconds.most_common(n_texts)}
    return " ".join(dict.fromkeys(scene.text for scene in scenes if scene.text in main_texts))


def _said(lines: Sequence[Subtitle], start: float, end: float) -> str:
    """The lines that begin in a scene."""
    return " ".join(line.text for line in lines if start <= line.start < end)


def _scene_scores(
    index: VideoIndex, borders: Sequence[tuple[float, float]], wanted: np.ndarray
) -> list[float]:
    """How well each scene's best moment fits; a scene between two moments has the one before."""
    fits = index.embeddings @ wanted
    scores = []
    for start, end in borders:
        inside = (index.times >= start) & (index.times < end)
        before = max(0, int(np.searchsorted(index.times, start, "right")) - 1)
        scores.append(float(fits[inside].max() if inside.any() else fits[before]))
    return scores
