"""What all protocols call: chats with videos in them, completions, embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from reellama.pipeline.llm.batching.generation_job import GenerationStats
from reellama.pipeline.llm.scoring.prompt_scorer import without_prefix
from reellama.pipeline.llm.tool_calls.answer_parser import AnswerParser
from reellama.pipeline.llm.tool_calls.chat_format import ChatFormat
from reellama.pipeline.server.admission.admission_controller import AdmissionController
from reellama.pipeline.server.chat.answer_constraints import check_think
from reellama.pipeline.server.chat.answer_timeout import with_timeout
from reellama.pipeline.server.chat.chat_answer import ChatAnswer
from reellama.pipeline.server.chat.chat_format_cache import ChatFormatCache
from reellama.pipeline.server.chat.chat_request import ChatRequest
from reellama.pipeline.server.chat.generation import Generation, PreparedPrompt
from reellama.pipeline.server.chat.prompt_preparer import PromptPreparer
from reellama.pipeline.server.chat.request_options import RequestOptions
from reellama.pipeline.server.files.file_store import FileStore
from reellama.pipeline.server.loaded_model import LoadedModel
from reellama.pipeline.server.media.decode_process import MediaLimits
from reellama.pipeline.server.media.media_encoder import MediaEncoder
from reellama.pipeline.server.media.media_items import MediaItem
from reellama.pipeline.server.media.media_kind import sniff_kind
from reellama.pipeline.server.media.soft_token_cache import SoftTokenCache
from reellama.pipeline.server.model_pool import ModelPool
from reellama.pipeline.server.model_registry.model_lookup import look_up_model
from reellama.pipeline.server.model_registry.model_name import short_name
from reellama.pipeline.server.model_registry.model_store import ModelStore
from reellama.pipeline.server.model_registry.registered_model import RegisteredModel
from reellama.pipeline.server.monitoring.metrics import Metrics
from reellama.pipeline.server.responses.response_store import ResponseStore
from reellama.pipeline.server.sandbox.sandbox import Sandbox
from reellama.pipeline.server.sandbox.sandboxed_template import SandboxedTemplate
from reellama.pipeline.server.settings import Settings


class Service:
    """The models, media encoder, stores and admission control. Belongs to one event loop."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.models = ModelPool(settings)
        self.sandbox = Sandbox()
        self.chat_formats = ChatFormatCache(self.sandbox)
        self.store = ModelStore(settings.store)
        self.files = FileStore(settings.store / "files", settings.max_files, sniff_kind)
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
                on_lookup=self.metrics.count_lookup,
            ),
            settings.video,
        )
        self.prompt_preparer = PromptPreparer(
            settings.bundle, self.media_encoder, self.sandbox, model_only=settings.model_only
        )
        self.admission = AdmissionController(
            settings.n_parallel, settings.queue, settings.max_per_client, self.metrics.count_dropped
        )

    def loaded(self) -> list[LoadedModel]:
        """The models in memory."""
        return self.models.loaded()

    def sweep(self) -> None:
        """Remove what killed servers have left in the store."""
        self.store.sweep()
        self.files.sweep()

    async def close(self) -> None:
        """Unload everything."""
        self.sandbox.close()
        self.prompt_preparer.close()
        self.media_encoder.close()
        await self.models.close()

    async def chat(
        self,
        model: str,
        request: ChatRequest,
        options: RequestOptions,
        template: str | None = None,
    ) -> ChatAnswer:
        """Answer a conversation, by the model's own template or another one.

        A conversation that is too long loses its oldest turns, but no videos. Raises ReellamaError,
        whose `status` (else 400) is HTTP's.
        """
        registered = await self._find(model)
        chat_format = await self._chat_format(registered, request, template)
        parser: AnswerParser | None = None

        async def prepare(loaded: LoadedModel) -> PreparedPrompt:
            nonlocal parser
            prepared, parser = await self.prompt_preparer.prepare_chat(
                loaded, registered, chat_format, request, options, template
            )
            return prepared

        return ChatAnswer(await self._generate(registered, prepare, options), parser)

    async def count_tokens(self, model: str, request: ChatRequest, options: RequestOptions) -> int:
        """How many positions the whole conversation takes. Raises like `chat`."""
        registered = await self._find(model)
        chat_format = await self._chat_format(registered, request, None)
        whole = replace(options, truncate=False)
        async with self._using(registered, options.keep_alive) as loaded:
            prepared, _ = await self.prompt_preparer.prepare_chat(
                loaded, registered, chat_format, request, whole, None
            )
            return len(prepared.prompt.keys)

    async def complete(
        self,
        model: str,
        prompt: str | list[int],
        options: RequestOptions,
        media: Sequence[MediaItem] = (),
        suffix: str | None = None,
        echo: bool = False,
    ) -> Generation:
        """Continue a prompt, a text or token ids, which the media precede. Raises like `chat`.

        With a `suffix`, models that can infill write the text between prompt and suffix. With
        `echo` the tokens of the prompt come first, scored as those of the answer; without media.
        """
        registered = await self._find(model)

        async def prepare(loaded: LoadedModel) -> PreparedPrompt:
            prepared = await self.prompt_preparer.prepare_completion(
                loaded, registered, prompt, options, media, suffix
            )
            if not echo:
                return prepared
            ids = [key for key in prepared.prompt.keys if isinstance(key, int)]
            tokens = await loaded.score(ids, prepared.generation_options.n_probs)
            if isinstance(prompt, str):
                tokens = without_prefix(tokens, prompt)
            return replace(prepared, echo=tokens)

        return await self._generate(registered, prepare, options)

    async def embed(
        self,
        model: str,
        texts: Sequence[str | list[int]],
        *,
        truncate: bool = True,
        keep_alive: float | None = None,
    ) -> tuple[list[list[float]], int]:
        """Unit vectors of texts or token ids, and how many tokens were read. Raises like `chat`."""
        registered = await self._find(model)
        async with self._using(registered, keep_alive) as loaded:
            embedded = [await loaded.embed(text, truncate) for text in texts]
        return [vector for vector, _ in embedded], sum(n_tokens for _, n_tokens in embedded)

    async def check_template(self, source: str) -> None:
        """Raise ReellamaError for a chat template that cannot be used."""
        question = [{"role": "user", "content": "?"}]
        await self.sandbox.call(lambda child: SandboxedTemplate(child, source).render(question))

    @asynccontextmanager
    async def _using(
        self, registered: RegisteredModel, keep_alive: float | None
    ) -> AsyncIterator[LoadedModel]:
        """Admit the request, and hold the loaded model."""
        leave = self.admission.admit()
        try:
            loaded, _ = await self.models.acquire(registered, keep_alive)
            try:
                yield loaded
            finally:
                await self.models.release(loaded)
        finally:
            leave()

    async def _chat_format(
        self, registered: RegisteredModel, request: ChatRequest, template: str | None
    ) -> ChatFormat:
        chat_format = await self.chat_formats.get(registered, template)
        check_think(request.think, chat_format, short_name(registered.manifest.name))
        return chat_format

    async def _find(self, model: str) -> RegisteredModel:
        return await asyncio.to_thread(look_up_model, model, self.settings, self.store)

    async def _generate(
        self,
        registered: RegisteredModel,
        prepare: Callable[[LoadedModel], Awaitable[PreparedPrompt]],
        options: RequestOptions,
    ) -> Generation:
        leave = self.admission.admit()
        loaded: LoadedModel | None = None

        async def release(stats: GenerationStats) -> None:
            leave()
            self.metrics.count_answer(stats)
            if stats.stop_reason is None:
                self.metrics.count_dropped("unfinished")
            if loaded is not None:
                await self.models.release(loaded)

        async def begin() -> None:
            nonlocal loaded
            loaded, load_seconds = await self.models.acquire(registered, options.keep_alive)
            generation.stats.load_seconds = load_seconds
            await generation.start(loaded, await prepare(loaded), options.n_ctx)

        seconds = self.settings.answer_seconds
        generation = Generation(release, seconds)
        try:
            await (with_timeout(begin(), seconds) if seconds else begin())
        except BaseException:
            await generation.aclose()
            raise
        return generation
