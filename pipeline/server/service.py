"""What the protocols ask for: chats with videos in them, completions, embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.text.chat_template import ChatTemplate
from reellama.models.token_pooling.options import VIDEOS_SHARE
from reellama.pipeline.chat.subtitle_answers import asks_of_subtitles
from reellama.pipeline.llm.batching.generation_job import GenerationStats
from reellama.pipeline.llm.prompt import Prompt, Text, TokenIds, known_ids
from reellama.pipeline.llm.tool_calls.answer_parser import AnswerParser
from reellama.pipeline.llm.tool_calls.chat_format import ChatFormat
from reellama.pipeline.server.admission.admission_controller import AdmissionController
from reellama.pipeline.server.admission.work_threads import WorkThreads
from reellama.pipeline.server.chat.answer_constraints import (
    check_think,
    find_grammar,
    parser_for,
    template_variables,
    with_grammar,
)
from reellama.pipeline.server.chat.chat_answer import ChatAnswer
from reellama.pipeline.server.chat.chat_format_cache import ChatFormatCache
from reellama.pipeline.server.chat.chat_request import ChatRequest, with_system
from reellama.pipeline.server.chat.conversation_fit import (
    FittedConversation,
    Rendering,
    Template,
    before_text,
    fit_conversation,
)
from reellama.pipeline.server.chat.cooperative_loops import yielding_to_event_loop
from reellama.pipeline.server.chat.generation import Generation, PreparedPrompt
from reellama.pipeline.server.chat.planned_answers import (
    plain_question,
    plan_request,
    reworded,
)
from reellama.pipeline.server.chat.request_options import RequestOptions
from reellama.pipeline.server.chat.tool_messages import Conversation, adapted
from reellama.pipeline.server.files.file_store import FileStore
from reellama.pipeline.server.loaded_models import LoadedModel, ModelPool
from reellama.pipeline.server.media.decode_process import MediaLimits
from reellama.pipeline.server.media.media_encoder import MediaEncoder, SeenMedia, sniff
from reellama.pipeline.server.media.media_items import MediaItem
from reellama.pipeline.server.media.soft_token_cache import SoftTokenCache
from reellama.pipeline.server.model_registry import RegisteredModel, look_up_model
from reellama.pipeline.server.model_store import Store, short_name
from reellama.pipeline.server.monitoring.metrics import Metrics
from reellama.pipeline.server.responses.response_store import ResponseStore
from reellama.pipeline.server.sandbox.grammar_cache import GrammarCache
from reellama.pipeline.server.sandbox.sandbox import Sandbox, SandboxChild
from reellama.pipeline.server.sandbox.sandboxed_template import SandboxedTemplate
from reellama.pipeline.server.settings import Settings
from reellama.pipeline.server.timeouts import with_timeout
from reellama.pipeline.server.video_options import VideoOptions

T = TypeVar("T")
LONG_PROMPT_CHARACTERS = 50_000  # prompts that have more are tokenized one at a time
MESSAGE_OVERHEAD_CHARACTERS = 100  # that rendering a message is worth, beside its text


class ServiceError(ReellamaError):
    """A request that cannot be answered; `status` and `headers` are HTTP's."""

    def __init__(
        self, message: str, *, status: int = 400, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


class Service:
    """The models, what sees for them, and the queue before them. Belongs to one event loop."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.models = ModelPool(settings)
        self.sandbox = Sandbox()
        self.grammars = GrammarCache(self.sandbox)
        self.chat_formats = ChatFormatCache(self.sandbox)
        self.store = Store(settings.store)
        self.files = FileStore(settings.store / "files", settings.max_files, sniff)
        self.responses = ResponseStore(settings.store / "responses", settings.max_responses)
        limits = MediaLimits(
            max_bytes=settings.max_body,
            max_pixels=settings.max_pixels,
            max_seconds=settings.max_video_seconds,
            decode_seconds=settings.decode_seconds,
            decode_memory=settings.decode_memory,
        )
        self.media_encoder = MediaEncoder(
            limits,
            SoftTokenCache(
                settings.cache,
                memory=settings.cache_memory,
                disk=settings.cache_disk,
                on_lookup=self.metrics.looked_up,
            ),
        )
        self._long_prompts = WorkThreads("long prompts")
        self.admission = AdmissionController(
            settings.n_parallel, settings.queue, settings.max_per_client, self.metrics.refused
        )

    def loaded(self) -> list[LoadedModel]:
        """The models in memory."""
        return self.models.loaded()

    async def close(self) -> None:
        """Unload everything."""
        self.sandbox.close()
        self._long_prompts.close()
        self.media_encoder.close()
        await self.models.close()

    async def chat(
        self,
        model: str,
        asked: ChatRequest,
        options: RequestOptions,
        template: str | None = None,
    ) -> ChatAnswer:
        """Answer a conversation, by the model's own template or another one.

        What is too long loses its oldest turns; videos stay. Raises ReellamaError, whose `status`
        (else 400) is HTTP's.
        """
        known = await self._find(model)
        chat_format = await self._chat_format(known, asked, template)
        parser: AnswerParser | None = None

        async def prepare(loaded: LoadedModel) -> PreparedPrompt:
            nonlocal parser
            prepared, parser = await self._prepare(
                loaded, known, chat_format, asked, options, template
            )
            return prepared

        return ChatAnswer(await self._generate(known, prepare, options), parser)

    async def count_tokens(self, model: str, asked: ChatRequest, options: RequestOptions) -> int:
        """How many positions a conversation takes, all of it. Raises like `chat`."""
        known = await self._find(model)
        chat_format = await self._chat_format(known, asked, None)
        whole = replace(options, truncate=False)
        async with self._using(known, options.keep_alive) as loaded:
            prepared, _ = await self._prepare(loaded, known, chat_format, asked, whole, None)
            return len(prepared.prompt.keys)

    async def complete(
        self,
        model: str,
        prompt: str | list[int],
        options: RequestOptions,
        media: Sequence[MediaItem] = (),
        suffix: str | None = None,
    ) -> Generation:
        """Go on from a text, or its tokens, after what it is about. Raises like `chat`.

        With a `suffix`, what stands between the two is written, by a model that can.
        """
        known = await self._find(model)

        async def prepare(loaded: LoadedModel) -> PreparedPrompt:
            generation = options.generation
            if (schema := options.schema) is not None:
                grammar = await self.grammars.get({"schema": schema}, known.path)
                sampling = replace(generation.sampling, grammar=grammar)
                generation = replace(generation, sampling=sampling)
            room = _room(loaded, options, len(media))
            seen = await self._see(known, media, options.video, room)
            tokenizer = loaded.batcher.tokenizer
            parts = before_text(seen.parts)
            if isinstance(prompt, str):
                parts.append(Text(prompt, special=suffix is None))
            else:
                parts.append(known_ids(prompt, tokenizer.n_vocab))
            if suffix is not None:
                if tokenizer.infill is None:
                    name = short_name(known.manifest.name)
                    raise ServiceError(f'"{name}" does not support insert')
                pre, suf, mid = (TokenIds((token,)) for token in tokenizer.infill)
                parts = [pre, *parts, suf, Text(suffix), mid]
            tokenized = await self._tokenize_in_thread(
                loaded, len(prompt), lambda: loaded.batcher.tokenize_prompt(parts)
            )
            return PreparedPrompt(tokenized, generation)

        return await self._generate(known, prepare, options)

    async def embed(
        self,
        model: str,
        texts: Sequence[str | list[int]],
        *,
        truncate: bool = True,
        keep_alive: float | None = None,
    ) -> tuple[list[list[float]], int]:
        """Unit vectors of texts or of tokens, and how many tokens were read. Raises like `chat`."""
        known = await self._find(model)
        async with self._using(known, keep_alive) as loaded:
            found = [await loaded.embed(text, truncate) for text in texts]
        return [vector for vector, _ in found], sum(n_tokens for _, n_tokens in found)

    async def check_template(self, source: str) -> None:
        """Raise ReellamaError for a chat template that cannot be used."""
        question = [{"role": "user", "content": "?"}]
        await self.sandbox.call(lambda child: SandboxedTemplate(child, source).render(question))

    @asynccontextmanager
    async def _using(
        self, known: RegisteredModel, keep_alive: float | None
    ) -> AsyncIterator[LoadedModel]:
        """A model, loaded, and a place to use it at."""
        leave = self.admission.admit()
        try:
            loaded, _ = await self.models.acquire(known, keep_alive)
            try:
                yield loaded
            finally:
                await self.models.release(loaded)
        finally:
            leave()

    async def _chat_format(
        self, known: RegisteredModel, asked: ChatRequest, template: str | None
    ) -> ChatFormat:
        chat_format = await self.chat_formats.get(known, template)
        check_think(asked.think, chat_format, short_name(known.manifest.name))
        return chat_format

    async def _prepare(
        self,
        loaded: LoadedModel,
        known: RegisteredModel,
        chat_format: ChatFormat,
        asked: ChatRequest,
        options: RequestOptions,
        template: str | None,
    ) -> tuple[PreparedPrompt, AnswerParser | None]:
        """A conversation as a prompt, and what takes its answer apart."""
        grammar, start_marker = await find_grammar(
            self.grammars, known.path, asked, options.schema, chat_format
        )
        room = _room(loaded, options, sum(len(message.media) for message in asked.messages))
        question = plain_question(asked, options.generation, options.schema is not None)
        said = asks_of_subtitles(question)
        seen = [
            await self._see(known, m.media, options.video, room, said)
            async for m in yielding_to_event_loop(asked.messages)
        ]
        plan = plan_request(question, seen, known.bundle)
        whole = with_system(asked.messages, known.bundle.system if known.bundle else None)
        none: list[Prompt] = [[] for _ in whole[len(seen) :]]  # a system prompt sees nothing
        shown = [*none, *(each.parts for each in seen)]
        conversation = reworded(list(zip(whole, shown, strict=True)), plan)
        # In a thread: calls with long arguments take long.
        conversation = await asyncio.to_thread(
            adapted, conversation, chat_format, asked.usable_tools
        )
        variables = template_variables(asked.think) | dict(asked.template_variables)
        if chat_format.is_told_of_tools:
            variables["tools"] = [tool.definition for tool in asked.usable_tools]
        traits = chat_format.traits
        how = partial(
            Rendering,
            variables=variables,
            text_arguments=traits.text_arguments,
            no_content=traits.no_content,
        )
        fitted = await self._fit(loaded, known, template, how, conversation, options)
        words = not asked.usable_tools
        generation = with_grammar(
            options.generation, chat_format, fitted.opening, grammar, words, start_marker
        )
        prompt, tokenizer = fitted.prompt, loaded.batcher.tokenizer
        if options.context:
            before = known_ids(options.context, tokenizer.n_vocab).ids
            prompt = prompt.without_first(tokenizer.bos if tokenizer.add_bos else None).after(
                before
            )
        remark = next((video.footage_caveat for video in plan.videos if video.footage_caveat), "")
        prepared = PreparedPrompt(
            prompt, generation, chat_format.markers, plan.answer, plan.stop, remark
        )
        parser = parser_for(chat_format, asked, fitted.opening) if plan.answer is None else None
        return prepared, parser

    async def _fit(
        self,
        loaded: LoadedModel,
        known: RegisteredModel,
        template: str | None,
        how: Callable[[Template], Rendering],
        conversation: Conversation,
        options: RequestOptions,
    ) -> FittedConversation:
        """The conversation as token ids and soft tokens, without the oldest turns that do not fit.

        The template of a GGUF on this machine is trusted; what clients sent is sandboxed, the
        template of a GGUF that one uploaded too.
        """
        limit = min(options.n_ctx or loaded.n_ctx, loaded.n_ctx)
        fit = partial(
            fit_conversation,
            conversation=conversation,
            limit=limit,
            max_tokens=options.generation.max_tokens,
            keep_all=not options.truncate,
        )
        file, source = known.gguf, template or known.manifest.template
        own = file.chat_template if known.manifest.is_uploaded else ""
        if not (source or own):
            trusted = how(ChatTemplate.from_gguf(file))
            size = sum(len(m.content) + MESSAGE_OVERHEAD_CHARACTERS for m, _ in conversation)
            return await self._tokenize_in_thread(
                loaded, size, lambda: fit(loaded.batcher, trusted)
            )
        bos, eos = file.token("bos"), file.token("eos")

        def fit_sandboxed(child: SandboxChild) -> FittedConversation:
            sent = SandboxedTemplate(child, source or own or "", bos, eos, strict=bool(source))
            with loaded.in_use():
                return fit(loaded.batcher, how(sent))

        return await self.sandbox.call(fit_sandboxed)

    async def _tokenize_in_thread(self, loaded: LoadedModel, size: int, work: Callable[[], T]) -> T:
        """The outcome of work on a prompt of so many characters, in a thread."""

        def hold_and_work() -> T:
            with loaded.in_use():
                return work()

        if size > LONG_PROMPT_CHARACTERS:
            return await self._long_prompts.run(hold_and_work)
        return await asyncio.to_thread(hold_and_work)

    async def _find(self, model: str) -> RegisteredModel:
        return await asyncio.to_thread(look_up_model, model, self.settings, self.store)

    async def _generate(
        self,
        known: RegisteredModel,
        prepare: Callable[[LoadedModel], Awaitable[PreparedPrompt]],
        options: RequestOptions,
    ) -> Generation:
        leave = self.admission.admit()
        loaded: LoadedModel | None = None

        async def release(stats: GenerationStats) -> None:
            leave()
            self.metrics.answered(stats)
            if stats.stop_reason is None:
                self.metrics.refused("unfinished")
            if loaded is not None:
                await self.models.release(loaded)

        async def begin() -> None:
            nonlocal loaded
            loaded, taken = await self.models.acquire(known, options.keep_alive)
            generation.stats.load_seconds = taken
            await generation.start(loaded, await prepare(loaded), options.n_ctx)

        seconds = self.settings.answer_seconds
        generation = Generation(release, seconds)
        try:
            await (with_timeout(begin(), seconds) if seconds else begin())
        except BaseException:
            await generation.aclose()
            raise
        return generation

    async def _see(
        self,
        known: RegisteredModel,
        media: Sequence[MediaItem],
        options: VideoOptions,
        room: int,
        with_subtitles: bool = False,
    ) -> SeenMedia:
        """What stands for a message's pictures and videos in a prompt."""
        if not media:
            return SeenMedia([], [])
        if known.bundle is None:
            raise ServiceError(
                f"{known.manifest.name} sees nothing: it has no mmproj, and the bundle "
                f"{self.settings.bundle} was made for an LLM of another width"
            )
        return await self.media_encoder.encode(media, known.bundle, options, room, with_subtitles)


def _room(loaded: LoadedModel, options: RequestOptions, n_media: int) -> int:
    """Cells of the context for each of a request's pictures and videos."""
    limit = min(options.n_ctx or loaded.n_ctx, loaded.n_ctx)
    return int(limit * VIDEOS_SHARE) // max(1, n_media)
