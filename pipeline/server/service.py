"""What the protocols ask for: chats with videos in them, completions, embeddings."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.text.chat_template import ChatTemplate
from reellama.pipeline.llm.engine import Token
from reellama.pipeline.llm.generation_job import GenerationJob, GenerationStats
from reellama.pipeline.llm.generation_options import GenerationOptions
from reellama.pipeline.llm.prompt import Prompt, Text, TokenizedPrompt
from reellama.pipeline.server.conversation_fit import (
    Conversation,
    ServiceMessage,
    before_text,
    fit_conversation,
)
from reellama.pipeline.server.files.file_store import FileStore
from reellama.pipeline.server.guard import CLIENT
from reellama.pipeline.server.loaded_models import LoadedModel, ModelPool
from reellama.pipeline.server.media.media_encoder import MediaEncoder, MediaLimits, sniff
from reellama.pipeline.server.media.media_items import MediaItem
from reellama.pipeline.server.media.soft_token_cache import SoftTokenCache
from reellama.pipeline.server.metrics import Metrics
from reellama.pipeline.server.model_registry import RegisteredModel, look_up_model
from reellama.pipeline.server.model_store import Store
from reellama.pipeline.server.sandbox.grammars import Grammars
from reellama.pipeline.server.sandbox.sandbox import Sandbox
from reellama.pipeline.server.sandbox.sandboxed_template import SandboxedTemplate
from reellama.pipeline.server.settings import Settings
from reellama.pipeline.server.video_options import DEFAULT_VIDEO_OPTIONS, VideoOptions

RETRY_AFTER = 2  # seconds
ANY_JSON_OBJECT: dict[str, Any] = {"type": "object"}


class ServiceError(ReellamaError):
    """A request that cannot be answered; `status` and `headers` are HTTP's."""

    def __init__(
        self, message: str, *, status: int = 400, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


@dataclass(frozen=True)
class RequestOptions:
    """How to answer a request.

    n_ctx: positions that may be used, at most the server's. keep_alive: seconds, -1 for ever.
    response_format: "json", or a JSON schema.
    """

    generation: GenerationOptions
    n_ctx: int | None = None
    keep_alive: float | None = None
    response_format: str | dict[str, Any] | None = None
    video: VideoOptions = DEFAULT_VIDEO_OPTIONS


class Generation:
    """An answer as it comes: an async iterator of tokens. `stats` is complete after the last.

    `aclose` ends it and lets others have its place; call it also when it was read to its end.
    """

    def __init__(self, release: Callable[[GenerationStats], Awaitable[None]]) -> None:
        self.stats = GenerationStats()
        self._release = release
        self._job: GenerationJob | None = None
        self._tokens: asyncio.Queue[Token | Exception | None] = asyncio.Queue()
        self._done = False

    async def start(
        self,
        loaded: LoadedModel,
        layout: TokenizedPrompt,
        generation: GenerationOptions,
        n_ctx: int | None,
    ) -> None:
        """Hand the prompt to the model. Raises ReellamaError when it does not fit."""
        loop = asyncio.get_running_loop()

        def tell(news: Token | Exception | None) -> None:
            loop.call_soon_threadsafe(self._tokens.put_nowait, news)

        self._job = GenerationJob(
            layout,
            tell,
            generation,
            min(n_ctx or loaded.n_ctx, loaded.n_ctx),
            stats=self.stats,
            client=CLIENT.get(),
        )
        # In a thread: a grammar is parsed there.
        await asyncio.to_thread(loaded.batcher.submit, self._job)

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        news = None if self._done else await self._tokens.get()
        if isinstance(news, Token):
            return news
        await self.aclose()
        if news is not None:
            raise news
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the answer."""
        if not self._done:
            self._done = True
            if self._job is not None:
                self._job.cancelled = True
            await self._release(self.stats)


class Service:
    """The models, what sees for them, and the queue before them. Belongs to one event loop."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.models = ModelPool(settings)
        self.sandbox = Sandbox()
        self.grammars = Grammars(self.sandbox)
        self.store = Store(settings.store)
        self.files = FileStore(settings.store / "files", settings.max_files, sniff)
        limits = MediaLimits(
            max_bytes=settings.max_body,
            max_pixels=settings.max_pixels,
            max_seconds=settings.max_video_seconds,
            decode_seconds=settings.decode_seconds,
            decode_memory=settings.decode_memory,
        )
        self.watcher = MediaEncoder(
            limits,
            SoftTokenCache(
                settings.cache,
                memory=settings.cache_memory,
                disk=settings.cache_disk,
                on_lookup=self.metrics.looked_up,
            ),
        )
        self.active = 0  # requests that have a place, answered or waiting

    def loaded(self) -> list[LoadedModel]:
        """The models in memory."""
        return self.models.loaded()

    async def close(self) -> None:
        """Unload everything."""
        self.sandbox.close()
        await self.models.close()

    async def chat(
        self, model: str, messages: Sequence[ServiceMessage], options: RequestOptions
    ) -> Generation:
        """Answer a conversation. Raises ReellamaError, whose `status` (else 400) is HTTP's.

        What is too long loses its oldest turns; videos stay.
        """
        known = await self._find(model)

        async def lay_out(loaded: LoadedModel) -> TokenizedPrompt:
            soft = [await self._see(known, message.media, options.video) for message in messages]
            whole = _with_system(messages, known)
            none: list[Prompt] = [[] for _ in whole[len(soft) :]]  # a system prompt sees nothing
            conversation = list(zip(whole, [*none, *soft], strict=True))
            return await self._fit(loaded, known, None, conversation, options)

        return await self._generate(known, lay_out, options)

    async def complete(
        self,
        model: str,
        prompt: str,
        options: RequestOptions,
        *,
        system: str | None = None,
        template: str | None = None,
        raw: bool = False,
        media: Sequence[MediaItem] = (),
    ) -> Generation:
        """Answer a prompt: a user's message, or with `raw` the very text that the model continues.

        Raises like `chat`.
        """
        known = await self._find(model)

        async def lay_out(loaded: LoadedModel) -> TokenizedPrompt:
            soft = await self._see(known, media, options.video)
            if raw:
                text = Text(prompt, special=True)
                return await asyncio.to_thread(
                    loaded.batcher.tokenize_prompt, [*before_text(soft), text]
                )
            said = [ServiceMessage("system", system)] if system else []
            messages = _with_system([*said, ServiceMessage("user", prompt)], known)
            found: list[Prompt] = [*([] for _ in messages[:-1]), soft]
            conversation = list(zip(messages, found, strict=True))
            return await self._fit(loaded, known, template, conversation, options)

        return await self._generate(known, lay_out, options)

    async def embed(
        self,
        model: str,
        texts: Sequence[str | list[int]],
        *,
        truncate: bool = True,
        keep_alive: float | None = None,
    ) -> tuple[list[list[float]], int]:
        """Unit vectors of texts or of tokens, and how many tokens were read. Raises like `chat`."""
        gone = threading.Event()
        known = await self._find(model)
        self._enter()
        try:
            loaded, _ = await self.models.acquire(known, keep_alive)
            try:
                return await asyncio.to_thread(
                    loaded.embed, list(texts), truncate=truncate, cancelled=gone.is_set
                )
            finally:
                gone.set()  # also when the client has left, and the thread goes on
                await self.models.release(loaded)
        finally:
            self.active -= 1

    async def check_template(self, source: str) -> None:
        """Raise ReellamaError for a chat template that cannot be used."""
        question = [{"role": "user", "content": "?"}]
        await self.sandbox.call(lambda child: SandboxedTemplate(child, source).render(question))

    async def _fit(
        self,
        loaded: LoadedModel,
        known: RegisteredModel,
        template: str | None,
        conversation: Conversation,
        options: RequestOptions,
    ) -> TokenizedPrompt:
        """The conversation laid out.

        The template of a GGUF on this machine is trusted; what clients sent is sandboxed, the
        template of a GGUF that one uploaded too.
        """
        limit = min(options.n_ctx or loaded.n_ctx, loaded.n_ctx)
        fit = partial(
            fit_conversation,
            conversation=conversation,
            limit=limit,
            max_tokens=options.generation.max_tokens,
        )
        file, source = known.gguf, template or known.manifest.template
        own = file.chat_template if known.manifest.is_uploaded else ""
        if not (source or own):
            return await asyncio.to_thread(fit, loaded.batcher, ChatTemplate.from_gguf(file))
        bos, eos = file.token("bos"), file.token("eos")
        return await self.sandbox.call(
            lambda child: fit(
                loaded.batcher,
                SandboxedTemplate(child, source or own or "", bos, eos, strict=bool(source)),
            )
        )

    async def _bound(self, known: RegisteredModel, options: RequestOptions) -> GenerationOptions:
        """How to generate, the sampling bound to the response format."""
        wanted = options.response_format
        if wanted is None:
            return options.generation
        sampling = options.generation.sampling
        if isinstance(wanted, dict):
            sampling = replace(sampling, grammar=await self.grammars.get(wanted, known.path))
        else:
            sampling = replace(sampling, json_schema=ANY_JSON_OBJECT)
        return replace(options.generation, sampling=sampling)

    async def _find(self, model: str) -> RegisteredModel:
        return await asyncio.to_thread(look_up_model, model, self.settings, self.store)

    def _enter(self) -> None:
        """Take a place. Raises ServiceError with status 503 when all are taken."""
        if self.active >= self.settings.n_parallel + self.settings.queue:
            raise ServiceError(
                "the server is busy: try again later",
                status=503,
                headers={"Retry-After": str(RETRY_AFTER)},
            )
        self.active += 1

    async def _generate(
        self,
        known: RegisteredModel,
        lay_out: Callable[[LoadedModel], Awaitable[TokenizedPrompt]],
        options: RequestOptions,
    ) -> Generation:
        self._enter()
        loaded: LoadedModel | None = None

        async def release(stats: GenerationStats) -> None:
            self.active -= 1
            self.metrics.answered(stats)
            if loaded is not None:
                await self.models.release(loaded)

        generation = Generation(release)
        try:
            loaded, seconds = await self.models.acquire(known, options.keep_alive)
            generation.stats.load_seconds = seconds
            bound = await self._bound(known, options)
            await generation.start(loaded, await lay_out(loaded), bound, options.n_ctx)
        except BaseException:
            await generation.aclose()
            raise
        return generation

    async def _see(
        self, known: RegisteredModel, media: Sequence[MediaItem], options: VideoOptions
    ) -> Prompt:
        """What stands for a message's pictures and videos in a prompt."""
        if not media:
            return []
        if known.bundle is None:
            raise ServiceError(
                f"{known.manifest.name} sees nothing: it has no mmproj, and the bundle "
                f"{self.settings.bundle} was made for an LLM of another width"
            )
        return await self.watcher.see(media, known.bundle, options)


def _with_system(
    messages: Sequence[ServiceMessage], known: RegisteredModel
) -> list[ServiceMessage]:
    """The messages, with the bundle's own system prompt where they have none."""
    if known.bundle is None or not known.bundle.system:
        return list(messages)
    if any(message.role == "system" for message in messages):
        return list(messages)
    return [ServiceMessage("system", known.bundle.system), *messages]
