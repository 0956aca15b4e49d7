"""Describe a long video scene by scene, and summarize it.

    timeline = LongVideo("mini").timeline("lecture.mp4")
    timeline.scenes[3].start, timeline.scenes[3].text

Each scene gets as many soft tokens as a whole short video. Descriptions are generated in a batch
(continuous batching) while the next scenes are read.
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reellama.gguf_tools import heap
from reellama.gguf_tools.closeable import Closeable
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.quantization.merged_llm import merged_or_beside
from reellama.gguf_tools.text.chat_template import ChatTemplate
from reellama.gguf_tools.text.whole_sentences import whole_sentences
from reellama.models import prompt_format
from reellama.models.cache_folders import ENCODED_FRAMES
from reellama.models.encoded_frames import encoded_frames
from reellama.models.open_bundle import open_bundle, search_bundle
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions
from reellama.pipeline.chat.answer_plan import plan_answer
from reellama.pipeline.chat.conversation import Video
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

if TYPE_CHECKING:
    from reellama.gguf_tools.runtime.backend import GpuLayers

# The most scenes of a video: each takes up to a second on two cores.
MAX_SCENES = 300
MIN_SCENE_SECONDS = 1.0
N_PARALLEL = 4
# Positions for the question and the template, beside a scene's soft tokens and the answer.
QUESTION_CELLS = 128
N_CTX = 512  # the least positions of a context
# The most soft tokens of a scene, unless `pooling` asks for more: vision models have no limit.
MAX_SCENE_CELLS = 1024
MAX_TOKENS = 128  # default limit of a description or an answer
DEFAULT_READ_OPTIONS = VideoReadOptions()
# Scenes that are encoded for a question.
SCENES_PER_QUESTION = 3


@dataclass(frozen=True)
class TimelineScene:
    """A scene of a timeline. Times are seconds."""

    start: float
    end: float
    time: float  # the middle of the scene
    text: str  # the description
    said: str = ""  # subtitles


@dataclass(frozen=True)
class Timeline:
    """The described scenes of a video."""

    path: Path
    duration: float  # seconds
    scenes: tuple[TimelineScene, ...]
    summary: str
    skipped: tuple[str, ...] = ()  # the parts that could not be read, with the reasons

    def to_json(self) -> dict[str, Any]:
        """The object that `reellama timeline --format json` writes."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class SceneAnswer:
    """An answer about a scene of a long video."""

    text: str
    start: float  # of the scene, seconds
    end: float
    score: float  # similarity of the scene to the question


@dataclass(eq=False)
class _PendingText:
    """A text that the LLM is generating."""

    updates: queue.SimpleQueue[JobUpdate] = field(default_factory=queue.SimpleQueue)
    stats: GenerationStats = field(default_factory=GenerationStats)

    def text(self) -> str:
        """Wait for the text. If a limit cut it off, it ends with its last whole sentence."""
        pieces = []
        while (update := self.updates.get()) is not None:
            if isinstance(update, Exception):
                raise update
            pieces.append(update.text)
        text = "".join(pieces).strip()
        return whole_sentences(text) if self.stats.stop_reason == "length" else text


@dataclass(frozen=True)
class _KnownText:
    """An answer that is known without the LLM."""

    answer: str

    def text(self) -> str:
        """The text, as `_PendingText.text` but without waiting."""
        return self.answer


class LongVideo(Closeable):
    """Describes long videos with a bundle. Close it, or use it in a `with` block.

    Args:
        bundle, mmproj: as for `open_bundle`.
        llm: another GGUF whose embeddings have the bundle's width.
        read_options: the frames of a scene.
        pooling: the soft tokens of a scene, for a vision GGUF.
        max_tokens: of a description or an answer; a longer one ends with its last whole sentence.
        n_ctx: positions for a scene; None for its soft tokens, a question and an answer.
        cache: folder of cached frame embeddings; None disables the cache.
        merged: folder of LLMs with the bundle's adapter merged in, which are made if missing. None
            applies the adapter beside the LLM.

    Attributes:
        footage_caveat: what the bundle cannot tell of the scenes so far, or "".

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
        n_ctx: int | None = None,
        n_threads: int | None = None,
        n_gpu_layers: GpuLayers = 0,
        cache: Path | None = CACHE_FOLDER,
        merged: Path | None = None,
    ) -> None:
        self.cache, self.read_options, self.pooling = cache, read_options, pooling
        self.max_tokens = max_tokens
        self.footage_caveat = ""
        kept = cache and cache / ENCODED_FRAMES.name
        self.bundle = open_bundle(bundle, mmproj, use_gpu=n_gpu_layers != 0, cache=kept)
        self.bundle.check_pooling(pooling)
        self._search = search_bundle(self.bundle)
        path = find.resolve(llm) if llm else self.bundle.llm_path()
        file = read_gguf(path)
        self.bundle.check_llm(file)
        self._template = ChatTemplate.from_gguf(file)
        cells = pooling.tokens or min(self.bundle.n_tokens(pooling), MAX_SCENE_CELLS)
        n_ctx = n_ctx or max(N_CTX, cells + QUESTION_CELLS + max_tokens)
        path, lora = merged_or_beside(path, self.bundle.lora, merged, make=True)
        self._batcher = Batcher(
            path,
            n_parallel=N_PARALLEL,
            n_ctx=n_ctx,
            n_threads=n_threads,
            n_gpu_layers=n_gpu_layers,
            lora=lora,
        )

    def close(self) -> None:
        """Free the LLM."""
        self._batcher.close()

    def index(self, video: VideoInput, report: StepProgress | None = None) -> VideoIndex:
        """The index of a video with hard cuts; see `index_video`."""

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
        """Cut a video into scenes (see `VideoIndex.scenes`) and describe each.

        Args:
            max_scenes: the most scenes.
            min_seconds: the least seconds of a scene.
            subtitles: whether scenes include the subtitles in the file or beside it.
            report: called with the stage, the steps done, and their total.

        Raises VideoError for a video that cannot be read.
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
        """Find the scenes that fit a question best, and answer the question about each.

        Returns the answers, best scene first, or one answer about the whole video if it is known
        without the model (see `plan_answer`). Raises VideoError for a video that cannot be read,
        and ReellamaError for a bundle whose tower has no text side.
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
        """The model's answer about a scene, or one that is known without the model."""
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
    """The descriptions that cover most of the time, in order, without a model.

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
    """The subtitles that begin in a scene, as one text."""
    return " ".join(line.text for line in lines if start <= line.start < end)


def _scene_scores(
    index: VideoIndex, borders: Sequence[tuple[float, float]], query: np.ndarray
) -> list[float]:
    """The similarity of each scene's best frame to a query embedding `[d]`.

    A scene without a sampled frame gets the similarity of the frame before it.
    """
    similarities = index.embeddings @ query  # [n]
    scores = []
    for start, end in borders:
        inside = (index.times >= start) & (index.times < end)
        before = max(0, int(np.searchsorted(index.times, start, "right")) - 1)
        scores.append(float(similarities[inside].max() if inside.any() else similarities[before]))
    return scores
