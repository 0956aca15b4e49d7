"""Prepares prompts of chats and completions: encodes their media, and tokenizes everything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.text.chat_template import ChatTemplate
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.models.token_pooling.options import VIDEOS_SHARE
from reellama.pipeline.chat.answer_plan import AnswerPlan
from reellama.pipeline.chat.subtitle_answers import asks_of_subtitles
from reellama.pipeline.llm.prompt import Prompt, Text, TokenIds, TokenizedPrompt, checked_token_ids
from reellama.pipeline.llm.tool_calls.answer_parser import AnswerParser
from reellama.pipeline.llm.tool_calls.chat_format import ChatFormat
from reellama.pipeline.server.admission.fair_thread_pool import FairThreadPool
from reellama.pipeline.server.chat.answer_constraints import (
    find_grammar,
    parser_for,
    template_variables,
    with_grammar,
)
from reellama.pipeline.server.chat.chat_request import ChatRequest, with_system
from reellama.pipeline.server.chat.conversation_fit import (
    FittedConversation,
    Rendering,
    Template,
    fit_conversation,
    with_video_ending,
)
from reellama.pipeline.server.chat.cooperative_loops import yielding_to_event_loop
from reellama.pipeline.server.chat.generation import PreparedPrompt
from reellama.pipeline.server.chat.planned_answers import apply_plan, plain_question, plan_request
from reellama.pipeline.server.chat.request_options import RequestOptions
from reellama.pipeline.server.chat.tool_messages import EncodedConversation, adapt_conversation
from reellama.pipeline.server.loaded_model import LoadedModel
from reellama.pipeline.server.media.media_encoder import EncodedMedia, MediaEncoder
from reellama.pipeline.server.media.media_items import MediaItem
from reellama.pipeline.server.model_registry.model_name import short_name
from reellama.pipeline.server.model_registry.registered_model import RegisteredModel
from reellama.pipeline.server.sandbox.grammar_cache import GrammarCache
from reellama.pipeline.server.sandbox.sandbox import Sandbox, SandboxChild
from reellama.pipeline.server.sandbox.sandboxed_template import SandboxedTemplate

T = TypeVar("T")
LONG_PROMPT_CHARACTERS = 50_000  # longer prompts are tokenized one at a time
MESSAGE_OVERHEAD_CHARACTERS = 100  # about what a template writes around a message


class PromptPreparer:
    """Prepares prompts for a loaded model. Belongs to one event loop.

    bundle_name: that of the server's bundle, for errors. sandbox: processes templates and schemas
    that may be a client's. model_only: as in `Settings`.
    """

    def __init__(
        self,
        bundle_name: str,
        media_encoder: MediaEncoder,
        sandbox: Sandbox,
        *,
        model_only: bool = False,
    ) -> None:
        self._bundle_name = bundle_name
        self._media_encoder = media_encoder
        self._sandbox = sandbox
        self._model_only = model_only
        self._grammars = GrammarCache(sandbox)
        self._long_prompts = FairThreadPool("long prompts")

    def close(self) -> None:
        """End the thread of long prompts."""
        self._long_prompts.close()

    async def prepare_chat(
        self,
        loaded: LoadedModel,
        registered: RegisteredModel,
        chat_format: ChatFormat,
        request: ChatRequest,
        options: RequestOptions,
        template: str | None,
    ) -> tuple[PreparedPrompt, AnswerParser | None]:
        """The prompt of a conversation, and the parser of its answer, None if it is text alone."""
        grammar, start_marker = await find_grammar(
            self._grammars, registered.path, request, options.schema, chat_format
        )
        conversation, plan = await self._with_media(loaded, registered, request, options)
        tools = request.usable_tools
        # In a thread, because calls with long arguments take long.
        conversation = await asyncio.to_thread(adapt_conversation, conversation, chat_format, tools)
        rendering = _rendering(request, chat_format)
        fitted = await self._fit(loaded, registered, template, rendering, conversation, options)
        generation_options = with_grammar(
            options.generation_options,
            chat_format,
            fitted.opening,
            grammar,
            not tools,
            start_marker,
        )
        prompt = _after_context(fitted.prompt, options.context, loaded.batcher.tokenizer)
        prepared = PreparedPrompt(
            prompt,
            generation_options,
            chat_format.markers,
            plan.answer,
            plan.stop,
            plan.footage.footage_caveat if plan.footage else "",
        )
        parser = parser_for(chat_format, request, fitted.opening) if plan.answer is None else None
        return prepared, parser

    async def prepare_completion(
        self,
        loaded: LoadedModel,
        registered: RegisteredModel,
        text: str | list[int],
        options: RequestOptions,
        media: Sequence[MediaItem],
        suffix: str | None,
    ) -> PreparedPrompt:
        """The prompt of a text or token ids, which the media precede; see `Service.complete`."""
        generation_options = options.generation_options
        if (schema := options.schema) is not None:
            grammar = await self._grammars.get({"schema": schema}, registered.path)
            sampling = replace(generation_options.sampling, grammar=grammar)
            generation_options = replace(generation_options, sampling=sampling)
        context_left = _context_left(loaded, options, len(media))
        encoded_media = await self._encode(registered, media, options, context_left)
        tokenizer = loaded.batcher.tokenizer
        parts = with_video_ending(encoded_media.parts)
        if isinstance(text, str):
            parts.append(Text(text, special=suffix is None))
        else:
            parts.append(checked_token_ids(text, tokenizer.n_vocab))
        if suffix is not None:
            if tokenizer.infill is None:
                raise ReellamaError(
                    f'"{short_name(registered.manifest.name)}" does not support insert'
                )
            pre, suf, mid = (TokenIds((token,)) for token in tokenizer.infill)
            parts = [pre, *parts, suf, Text(suffix), mid]
        prompt = await self._tokenize_in_thread(
            loaded, len(text), lambda: loaded.batcher.tokenize_prompt(parts)
        )
        return PreparedPrompt(prompt, generation_options)

    async def _with_media(
        self,
        loaded: LoadedModel,
        registered: RegisteredModel,
        request: ChatRequest,
        options: RequestOptions,
    ) -> tuple[EncodedConversation, AnswerPlan]:
        """The conversation with its encoded media, and the plan of its answer."""
        n_media = sum(len(message.media) for message in request.messages)
        context_left = _context_left(loaded, options, n_media)
        model_only = self._model_only if options.model_only is None else options.model_only
        has_schema = options.schema is not None
        question = plain_question(
            request, options.generation_options, has_schema=has_schema, model_only=model_only
        )
        with_subtitles = asks_of_subtitles(question)
        encoded_media = [
            await self._encode(registered, message.media, options, context_left, with_subtitles)
            async for message in yielding_to_event_loop(request.messages)
        ]
        plan = plan_request(question, encoded_media, registered.bundle)
        system = registered.bundle.system if registered.bundle else None
        messages = with_system(request.messages, system)
        # A system prompt that `with_system` has added has no videos.
        parts: list[Prompt] = [[] for _ in messages[len(encoded_media) :]]
        parts += [encoded.parts for encoded in encoded_media]
        return apply_plan(list(zip(messages, parts, strict=True)), plan), plan

    async def _encode(
        self,
        registered: RegisteredModel,
        media: Sequence[MediaItem],
        options: RequestOptions,
        context_left: int,
        with_subtitles: bool = False,
    ) -> EncodedMedia:
        """Encode a message's pictures and videos."""
        if not media:
            return EncodedMedia([], [])
        if registered.bundle is None:
            raise ReellamaError(
                f"{registered.manifest.name} sees nothing: it has no mmproj, and the bundle "
                f"{self._bundle_name} was made for an LLM of another width"
            )
        return await self._media_encoder.encode(
            media, registered.bundle, options.video, context_left, with_subtitles
        )

    async def _fit(
        self,
        loaded: LoadedModel,
        registered: RegisteredModel,
        template: str | None,
        rendering: Callable[[Template], Rendering],
        conversation: EncodedConversation,
        options: RequestOptions,
    ) -> FittedConversation:
        """Render and tokenize a conversation, without the oldest turns that do not fit.

        The template of the GGUF that the server was started with is trusted. All others are
        rendered in the sandbox: clients send templates, and can have models pulled.
        """
        fit = partial(
            fit_conversation,
            conversation=conversation,
            limit=min(options.n_ctx or loaded.n_ctx, loaded.n_ctx),
            max_tokens=options.generation_options.max_tokens,
            keep_all=not options.truncate,
        )
        file, source = registered.gguf, template or registered.manifest.template
        if registered.is_trusted and not source:
            trusted = rendering(ChatTemplate.from_gguf(file))
            size = sum(len(m.content) + MESSAGE_OVERHEAD_CHARACTERS for m, _ in conversation)
            return await self._tokenize_in_thread(
                loaded, size, lambda: fit(loaded.batcher, trusted)
            )
        bos, eos = file.token("bos"), file.token("eos")

        def fit_sandboxed(child: SandboxChild) -> FittedConversation:
            untrusted = source or file.chat_template or ""
            sandboxed = SandboxedTemplate(child, untrusted, bos, eos, strict=bool(source))
            with loaded.in_use():
                return fit(loaded.batcher, rendering(sandboxed))

        return await self._sandbox.call(fit_sandboxed)

    async def _tokenize_in_thread(
        self, loaded: LoadedModel, n_characters: int, tokenize: Callable[[], T]
    ) -> T:
        """Call `tokenize` in a thread, which uses the model meanwhile."""

        def use_and_tokenize() -> T:
            with loaded.in_use():
                return tokenize()

        if n_characters > LONG_PROMPT_CHARACTERS:
            return await self._long_prompts.run(use_and_tokenize)
        return await asyncio.to_thread(use_and_tokenize)


def _rendering(request: ChatRequest, chat_format: ChatFormat) -> Callable[[Template], Rendering]:
    """The `Rendering` of a template that is not known yet."""
    variables = template_variables(request.think) | dict(request.template_variables)
    if chat_format.is_told_of_tools:
        variables["tools"] = [tool.definition for tool in request.usable_tools]
    return partial(
        Rendering,
        variables=variables,
        text_arguments=chat_format.traits.text_arguments,
        no_content=chat_format.traits.no_content,
    )


def _after_context(
    prompt: TokenizedPrompt, context: Sequence[int], tokenizer: Tokenizer
) -> TokenizedPrompt:
    """A prompt after the token ids of an earlier conversation, if any."""
    if not context:
        return prompt
    bos = tokenizer.bos if tokenizer.add_bos else None
    return prompt.without_first(bos).preceded_by(checked_token_ids(context, tokenizer.n_vocab).ids)


def _context_left(loaded: LoadedModel, options: RequestOptions, n_media: int) -> int:
    """How many cells of the context each picture or video may take."""
    limit = min(options.n_ctx or loaded.n_ctx, loaded.n_ctx)
    return int(limit * VIDEOS_SHARE) // max(1, n_media)
