"""Fits a conversation into a context: tokenizes it without the oldest turns, if need be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.text.chat_template import Segment
from reellama.models.prompt_format import AFTER_VIDEO
from reellama.pipeline.chat.conversation import ANSWER_DIVISOR
from reellama.pipeline.llm.batching.batcher import Batcher
from reellama.pipeline.llm.prompt import Prompt, Text, TokenizedPrompt
from reellama.pipeline.server.chat.tool_messages import EncodedConversation, template_message


class Template(Protocol):
    """A chat template; see `reellama.gguf_tools.text.chat_template.ChatTemplate`."""

    def render(self, messages: Sequence[Any], **variables: Any) -> list[Segment]:
        """The conversation in segments."""
        ...


@dataclass(frozen=True)
class Rendering:
    """A template with its variables, among them the definitions of tools.

    text_arguments, no_content: see `TemplateTraits`.
    """

    template: Template
    variables: Mapping[str, Any] = field(default_factory=dict)
    text_arguments: bool = False
    no_content: bool = False


@dataclass(frozen=True)
class FittedConversation:
    """A tokenized conversation.

    opening: the text from the last message to the answer, with the beginning of an answer that is
    continued.
    """

    prompt: TokenizedPrompt
    opening: str


def fit_conversation(
    batcher: Batcher,
    rendering: Rendering,
    conversation: EncodedConversation,
    limit: int,
    max_tokens: int,
    *,
    keep_all: bool = False,
) -> FittedConversation:
    """Tokenize a conversation without the oldest turns that do not fit into `limit` positions.

    The videos of those turns are kept, before the first turn that is left. A conversation that fits
    is rendered once, another one about log2(limit) times, and never with more messages than there
    are positions, since each takes at least one. With `keep_all` no turn is left out, whether all
    fit or not. Raises ReellamaError for a last message that cannot fit.
    """
    reserve = min(max_tokens if max_tokens > 0 else limit, limit // ANSWER_DIVISOR)
    max_positions = limit - reserve
    turns = [i for i, (message, _) in enumerate(conversation) if message.role != "system"]
    n_system = len(conversation) - len(turns)
    if n_system > limit:
        raise ReellamaError(f"{n_system} system messages do not fit {limit} positions: send fewer")
    contents = (len(conversation[i][0].content) for i in reversed(turns))
    min_positions = [
        n_system + n + batcher.min_positions(characters)
        for n, characters in enumerate(accumulate(contents), 1)
    ]
    min_turns = len(turns) if keep_all else min(_unfinished_turns(conversation, turns), limit)
    max_turns = max(min_turns, sum(n <= max_positions for n in min_positions))

    def tokenize_last(n_turns: int) -> FittedConversation | None:
        """Tokenize the last turns; None if they do not fit."""
        prompt, opening = conversation_prompt(rendering, _last_turns(conversation, turns, n_turns))
        characters = sum(len(part.text) for part in prompt if isinstance(part, Text))
        if n_turns > min_turns and batcher.min_positions(characters) > max_positions:
            return None
        tokenized = batcher.tokenize_prompt(prompt)
        fits = n_turns <= min_turns or len(tokenized.keys) <= max_positions
        return FittedConversation(tokenized, opening) if fits else None

    if (fitted := tokenize_last(max_turns)) is not None:
        return fitted
    n_fitting, n_too_many = min_turns, max_turns
    while n_too_many - n_fitting > 1:
        n_turns = (n_fitting + n_too_many) // 2
        if (shorter := tokenize_last(n_turns)) is None:
            n_too_many = n_turns
        else:
            n_fitting, fitted = n_turns, shorter
    if fitted is None:
        fitted = tokenize_last(min_turns)
        assert fitted is not None
    return fitted


def _unfinished_turns(conversation: EncodedConversation, turns: Sequence[int]) -> int:
    """How many turns must stay: the last question and the messages after it."""
    n = 1
    while n < len(turns) and conversation[turns[-n]][0].role != "user":
        n += 1
    return n


def _last_turns(
    conversation: EncodedConversation, turns: Sequence[int], n_turns: int
) -> EncodedConversation:
    """The last turns and all system messages; leading answers and results are left out too.

    The first turn gets the videos of those that are left out.
    """
    if not turns or n_turns >= len(turns):
        return conversation
    roles = [conversation[i][0].role for i in turns]
    n_dropped = len(turns) - n_turns
    while roles[n_dropped] in ("assistant", "tool") and n_dropped + 1 < len(turns):
        n_dropped += 1
    first = turns[n_dropped]
    dropped = {*turns[:n_dropped]}
    dropped_videos = [part for i in turns[:n_dropped] for part in conversation[i][1]]
    message, videos = conversation[first]
    with_dropped = (message, [*dropped_videos, *videos])
    return [
        with_dropped if i == first else entry
        for i, entry in enumerate(conversation)
        if i not in dropped
    ]


def conversation_prompt(
    rendering: Rendering, conversation: EncodedConversation
) -> tuple[Prompt, str]:
    """The prompt, with each message's videos before its text, and the opening of the answer.

    A message of the assistant that comes last is the beginning of the answer.
    """
    last = conversation[-1][0]
    is_begun = last.role == "assistant" and not last.tool_calls and len(conversation) > 1
    rendered = conversation[:-1] if is_begun else conversation
    messages = [
        template_message(message, rendering.text_arguments, rendering.no_content)
        for message, _ in rendered
    ]
    videos_left = dict(enumerate(videos for _, videos in rendered))
    prompt: Prompt = []
    opening = ""
    for segment in rendering.template.render(messages, **rendering.variables):
        if (
            segment.content is not None
        ):  # a template may write a content twice, its videos come once
            prompt += with_video_ending(videos_left.pop(segment.content, []))
        prompt.append(Text(segment.text, segment.special))
        opening = opening + segment.text if segment.special else ""
    if is_begun and last.content:
        return [*prompt, Text(last.content)], opening + last.content
    return prompt, opening


def with_video_ending(videos: Prompt) -> Prompt:
    """Videos, followed by the text that separates them from the question."""
    return [*videos, Text(AFTER_VIDEO)] if videos else []
