"""Chat with videos: reading, encoding and answering in one object.

chat = VideoChat("holiday.mp4")
print(chat.ask("What happens?"))
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from reellama.gguf_tools.atomic_write import write_atomically
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.quantization.merged_llm import make_merged, merged_or_beside
from reellama.models.array_cache import ArrayCache
from reellama.models.bundle import Bundle
from reellama.models.cache_folders import ENCODED_FRAMES
from reellama.models.open_bundle import VideoBundle, open_bundle
from reellama.models.token_pooling.options import VIDEOS_SHARE, PoolingOptions
from reellama.pipeline.chat.answer_plan import AnswerPlan, plan_answer
from reellama.pipeline.chat.conversation import Chat, TokenStream, Turn, Video
from reellama.pipeline.chat.question_text import videos_in_question
from reellama.pipeline.chat.subtitle_answers import as_text
from reellama.pipeline.chat.timings import Timings
from reellama.pipeline.chat.video_encoder import VideoEncoder
from reellama.pipeline.llm.engine import GREEDY_SAMPLING, Engine, EngineStats, Text
from reellama.pipeline.progress_callbacks import Progress
from reellama.pipeline.video.read_options import VideoReadOptions

SMALL_LLM = 512 << 20  # bytes of one whose first words one thread reads in a tenth of a second


class VideoChat:
    """A conversation about `videos` with the LLM of a bundle.

    The LLM is loaded while `videos` are read.

    Args:
        bundle, mmproj, tiles: as for `reellama.models.open_bundle`.
        tokens, pooling: as in `PoolingOptions`.
        model_only: let the model answer all questions, even those that a file or a rule answers.
        llm: another GGUF whose embeddings have the bundle's width.
        system: replaces the bundle's system prompt.
        read_options: which frames to read; `frames`, `start` and `end` override its fields.
        cache: folder of encoded videos; None disables the cache.
        merged: folder of LLMs with a bundle's adapter merged in, which is used if it has the LLM.
        merge: make the merged LLM if it is missing.
        wait: wait until the LLM is loaded; else the first call that needs the LLM waits.
        n_ctx: positions of the context, or a function of the bundle and the LLM's header.
        engine: keyword arguments of `Engine` (`n_threads`, `n_gpu_layers`, `lora`, ...).

    Raises ReellamaError for a file that is missing, damaged or does not fit.
    """

    def __init__(
        self,
        *videos: str | Path,
        bundle: str | Path = "mini",
        mmproj: str | Path | None = None,
        llm: str | Path | None = None,
        system: str | None = None,
        read_options: VideoReadOptions = VideoReadOptions(),
        tokens: int | None = None,
        pooling: str = "auto",
        tiles: bool = False,
        model_only: bool = False,
        cache: Path | None = ENCODED_FRAMES,
        merged: Path | None = None,
        merge: bool = False,
        progress: Progress | None = None,
        wait: bool = True,
        frames: int | None = None,
        start: float | None = None,
        end: float | None = None,
        n_ctx: int | Callable[[VideoBundle, GGUFFile], int] = 4096,
        **engine: Any,
    ) -> None:
        given: dict[str, Any] = {"frames": frames, "start": start, "end": end}
        given = {name: value for name, value in given.items() if value is not None}
        self.read_options = replace(read_options, **given)
        self.pooling = PoolingOptions(tokens, pooling)
        self.model_only = model_only
        self.timings = Timings()
        self._described: tuple[Video, dict[str, Any], str] | None = None  # and with which options
        with self.timings.stage("load"):
            use_gpu = engine.get("n_gpu_layers", 0) != 0
            self.bundle = open_bundle(bundle, mmproj, tiles=tiles, use_gpu=use_gpu)
            self.bundle.check_pooling(self.pooling)
            self._encoder = VideoEncoder(self.bundle, ArrayCache(cache) if cache else None)
            self._llm = find.resolve(llm) if llm else self.bundle.llm_path()
            self._merged = merged
            # One header is read, that of the file to load: each takes a while.
            self._path, _ = merged_or_beside(self._llm, self.bundle.lora, merged, make=False)
            header = read_gguf(self._path)
            self.bundle.check_llm(header)
        self._system = self.bundle.system if system is None else system
        # The LLM is loaded, and reads the first words, while videos are read and looked at.
        engine["n_ctx"] = n_ctx if isinstance(n_ctx, int) else n_ctx(self.bundle, header)
        self._loading = ThreadPoolExecutor(1).submit(self._load, merge, **engine)
        try:
            if not isinstance(self.bundle, Bundle):  # its tower is llama.cpp's too: in turns
                self.engine  # noqa: B018  # waits
            for video in videos:
                self.add(video, progress)
            if wait:
                self.engine  # noqa: B018
        except BaseException:
            self.close()
            raise

    def _load(self, merge: bool, lora: Sequence[Any] = (), **engine: Any) -> Engine:
        """Load the LLM, with the bundle's adapter merged in if `merge`, else beside the LLM."""
        with self.timings.stage("load"):
            own = self.bundle.lora
            if merge and not self._is_merged:
                self._path, _ = merged_or_beside(self._llm, own, self._merged, make=True)
            unmerged = () if self._is_merged else own
            loaded = Engine(self._path, lora=[*unmerged, *lora], **engine)
        if self._encoder.was_cached:  # all that is asked is there, and may have been read before
            return loaded
        # Read the text before any video; the videos may be encoded at the same time.
        beside = self._encoder.busy and self._path.stat().st_size <= SMALL_LLM
        with loaded.single_threaded() if beside else nullcontext():
            Chat(loaded, system=self._system).read_ahead()
        return loaded

    @property
    def _is_merged(self) -> bool:
        """Whether the LLM has the bundle's adapter merged in."""
        return self._path != self._llm

    @property
    def engine(self) -> Engine:
        """The LLM; waits until it is loaded. Raises ReellamaError if it cannot be loaded."""
        return self._loading.result()

    @cached_property
    def conversation(self) -> Chat:
        """The conversation; waits until the LLM is loaded."""
        return Chat(self.engine, system=self._system)

    def __enter__(self) -> VideoChat:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the LLM."""
        with suppress(ReellamaError):  # the LLM could not be loaded
            self.engine.close()

    @property
    def llm(self) -> str:
        """The LLM that answers: the path of its GGUF, without the adapter that is merged in."""
        return str(self._llm)

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that the bundle understands; () if unknown."""
        return self.bundle.languages

    @property
    def last(self) -> EngineStats:
        """Token counts and times of the last answer, and why it ended."""
        return self.engine.last

    @property
    def n_past(self) -> int:
        """Positions of the context in use."""
        return self.engine.n_past

    @property
    def has_adapter_beside(self) -> bool:
        """Whether the adapter is applied beside the LLM, so that `merge_adapter` can merge it."""
        return self._merged is not None and bool(self.bundle.lora) and not self._is_merged

    def merge_adapter(self) -> bool:
        """Merge the bundle's adapter into its LLM for the next `VideoChat` that opens them.

        Returns False if there is nothing to merge, or if the LLM is too large. Raises ReellamaError
        if the merged file cannot be written.
        """
        if self._merged is None or not self.has_adapter_beside:
            return False
        return make_merged(self._llm, self.bundle.lora, self._merged) is not None

    def save_prompt(self) -> None:
        """Save the KV cache of the videos for the next question; see `Engine.save_prompt`."""
        self.engine.save_prompt()

    def check_llm(self) -> None:
        """Raise ReellamaError when the LLM cannot answer now. One that is loaded here can."""

    @property
    def videos(self) -> list[Video]:
        """The videos that the questions are about."""
        return self.conversation.videos

    @property
    def turns(self) -> list[Turn]:
        """The conversation so far."""
        return self.conversation.turns

    def add(self, path: str | Path, progress: Progress | None = None) -> Video:
        """Look at one more video; `progress(done, total)` counts its frames."""
        video = self._encode_video(
            Path(path),
            self.read_options,
            self.pooling,
            lambda: self._context_left(self.videos),
            progress,
        )
        self.conversation.add(video)
        return video

    def reread(
        self,
        read_options: VideoReadOptions | None = None,
        pooling: PoolingOptions | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Read all videos again, with other options. On an error nothing changes."""
        read_options, pooling = read_options or self.read_options, pooling or self.pooling
        self.bundle.check_pooling(pooling)
        paths = [video.path for video in self.videos]
        self.conversation.videos = self._encode_videos(paths, read_options, pooling, progress)
        self.read_options, self.pooling = read_options, pooling

    def ask(self, question: str, **generation: Any) -> str:
        """Answer `question`; `generation` (`sampling`, `max_tokens`) goes to `Engine.generate`."""
        return "".join(token.text for token in self.stream(question, **generation)).strip()

    def stream(self, question: str, **generation: Any) -> TokenStream:
        """Answer `question` token by token, each with its probability and the best alternatives.

        What the file itself says (how long, how large, ...) and what its subtitles say word for
        word comes from there, as one token; see `plan_answer` for this and for what is asked of the
        model in other words. With a grammar or a schema, and with `model_only`, the model answers
        all questions itself.
        """
        return self._answer(len(self.turns), question, generation)

    def retry(self, **generation: Any) -> TokenStream:
        """Answer the last question again, token by token."""
        if not self.turns:
            raise ReellamaError("nothing was asked yet")
        return self._answer(len(self.turns) - 1, self.turns[-1].question, generation)

    def _answer(self, index: int, question: str, generation: dict[str, Any]) -> TokenStream:
        """Answer `question` as turn `index`, in place of those from there on."""
        plan = self._plan(question, generation)
        if plan.answer is not None:
            return self.conversation.add_known_answer(index, question, plan.answer)
        if plan.request is not None:
            return self._from_description(index, question, plan, generation)
        return self._timed(self.conversation.answer_turn(index, question, **generation))

    def _from_description(
        self, index: int, question: str, plan: AnswerPlan, generation: dict[str, Any]
    ) -> TokenStream:
        """A video's description, or how it begins. It is asked for once: words that are nearly as
        likely turn with the last digits, which depend on what stood in the KV cache before."""
        (video,) = plan.videos
        if self._described and self._described[0] is video and self._described[1] == generation:
            answer = plan.part_of(self._described[2])
            yield from self.conversation.add_known_answer(index, question, answer)
            return
        stop = generation.get("stop", ())
        own = (stop,) if isinstance(stop, str) else tuple(stop)
        options = {**generation, "stop": (*own, *plan.stop)}
        text = ""
        with closing(
            self.conversation.answer_turn(index, question, request=plan.request, **options)
        ) as tokens:
            for token in self._timed(tokens):
                text += token.text
                yield token
        sampling = generation.get("sampling", GREEDY_SAMPLING)
        if not plan.stop and self.last.stop_reason == "stop" and sampling.takes_likeliest:
            self._described = video, generation, text

    def footage_behind(self, question: str, **generation: Any) -> Video | None:
        """The video of real footage that the answer to `question` rests on: its `footage_caveat` is
        worth a line beside the answer. None where the answer rests on files, or on drawn clips."""
        return self._plan(question, generation).footage

    def _plan(self, question: str, generation: dict[str, Any]) -> AnswerPlan:
        sampling = generation.get("sampling", GREEDY_SAMPLING)
        has_grammar = sampling.grammar is not None or sampling.json_schema is not None
        if self.model_only or has_grammar:
            return AnswerPlan(videos_in_question(question, self.videos)[0])
        return plan_answer(question, self.videos, self.bundle, self.languages)

    def describe(self, **generation: Any) -> str:
        """Answer the bundle's own request for a description."""
        return self.ask(self.bundle.describe, **generation)

    def save(self, path: str | Path) -> None:
        """Write the conversation to `path` (JSON), whole or not at all."""
        data = {
            "reellama": 1,
            "reading": self.read_options.to_json(),
            "pooling": asdict(self.pooling),
            **self.conversation.to_json(),
        }
        write_atomically(Path(path), json.dumps(data, indent=2, ensure_ascii=False) + "\n")

    def load(self, path: str | Path, progress: Progress | None = None) -> None:
        """Continue a saved conversation: its turns and its videos, which are read again.

        On an error the present conversation stays as it is.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            read_options = VideoReadOptions(**data["reading"])
            pooling = PoolingOptions(**data.get("pooling", {}))
        except OSError as error:
            raise ReellamaError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise ReellamaError(
                f"{path} is not a saved conversation: /save writes such files"
            ) from error
        self.conversation = Chat.from_json(
            data,
            self.engine,
            encode_videos=lambda paths: self._encode_videos(paths, read_options, pooling, progress),
            on_drop=self.conversation.on_drop,
        )
        self.read_options, self.pooling = read_options, pooling

    def _encode_videos(
        self,
        paths: Sequence[Path],
        read_options: VideoReadOptions,
        pooling: PoolingOptions,
        progress: Progress | None,
    ) -> list[Video]:
        videos: list[Video] = []
        for path in paths:
            video = self._encode_video(
                path, read_options, pooling, lambda: self._context_left(videos), progress
            )
            videos.append(video)
        return videos

    def _context_left(self, videos: Sequence[Video]) -> int:
        """Cells of the context for one more video after `videos`."""
        taken = sum(video.n_soft_tokens for video in videos)
        return int(self.engine.n_ctx * VIDEOS_SHARE) - taken

    def _encode_video(
        self,
        path: Path,
        read_options: VideoReadOptions,
        pooling: PoolingOptions,
        context_left: Callable[[], int],
        progress: Progress | None,
    ) -> Video:
        """Frames -> features -> soft tokens, or those in the cache. `context_left` waits for the
        LLM: for a trained bundle it is called once the video is encoded."""
        clip, encoded, footage_caveat = self._encoder.encode(
            path, read_options, self.timings, progress, pooling, context_left
        )
        if self.bundle.warning and not self.timings.n_frames:  # it is said once
            clip = replace(clip, notes=(*clip.notes, self.bundle.warning))
        # The LLM may still be loading: meanwhile, compile the chat template that the prompt needs.
        from reellama.gguf_tools.text.chat_template import ChatTemplate

        ChatTemplate.from_gguf(self._path).compile()
        cells = context_left()
        parts = self.bundle.prompt_parts(encoded, pooling, cells)
        if self.bundle.reads_text and clip.subtitles:
            parts = [*parts, Text(as_text(clip.subtitles, self.engine.n_ctx))]
        self.timings.pooling, *notes = self.bundle.pooling_summary(encoded, pooling, cells)
        clip = replace(clip, notes=(*clip.notes, *notes))
        video = Video(path, parts, clip, footage_caveat=footage_caveat)
        self.timings.n_frames += len(clip.frames)
        self.timings.n_soft_tokens += video.n_soft_tokens
        return video

    def _timed(self, answer: TokenStream) -> TokenStream:
        """The tokens of `answer`; its stages are in `timings` afterwards."""
        asked_at = time.perf_counter()
        first_token = 0.0
        with closing(answer):
            for token in answer:
                first_token = first_token or time.perf_counter() - asked_at
                yield token
        self.timings.set_answer(first_token, self.last)
