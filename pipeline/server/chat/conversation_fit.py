"""A conversation tokenized so that it fits a context: without the oldest turns that do not fit."""

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
    """How a template is used. `variables` go to it, definitions of tools among them.

    text_arguments, no_content: as in `TemplateTraits`.
    """

    template: Template
    variables: Mapping[str, Any] = field(default_factory=dict)
    text_arguments: bool = False
    no_content: bool = False


@dataclass(frozen=True)
class FittedConversation:
    """A conversation in a context.

    opening: the text between the last message and the answer; an answer that is continued is part
    of it.
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
    """The conversation without the oldest turns that do not fit `limit` positions; videos move up.

    It is rendered once where all of it fits, and else about log2(limit) times, never with more
    messages than there are positions: each takes one at least. Raises ReellamaError for a last
    message that cannot fit. With `keep_all` no turn is left out, whether they fit or not.
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
        """The last turns, or None where they do not fit."""
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
    """How many of the last turns must stay: the last question, and the messages after it."""
    n = 1
    while n < len(turns) and conversation[turns[-n]][0].role != "user":
        n += 1
    return n


def _last_turns(
    conversation: EncodedConversation, turns: Sequence[int], n_turns: int
) -> EncodedConversation:
    """The last turns and all system messages. Answers and results do not begin them.

    The first of these turns gets the videos of those that are left out.
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
    """What the model reads, each message's videos before its words, and the answer's opening.

    An assistant's message that comes last is the beginning of the answer.
    """
    last = conversation[-1][0]
    begun = last.role == "assistant" and not last.tool_calls and len(conversation) > 1
    rendered = conversation[:-1] if begun else conversation
    messages = [
        template_message(message, rendering.text_arguments, rendering.no_content)
        for message, _ in rendered
    ]
    videos_left = dict(enumerate(videos for _, videos in rendered))
    prompt: Prompt = []
    opening = ""
    for segment in rendering.template.render(messages, **rendering.variables):
        if segment.content is not None:  # a template may place a content twice: videos once
            prompt += before_text(videos_left.pop(segment.content, []))
        prompt.append(Text(segment.text, segment.special))
        opening = opening + segment.text if segment.special else ""
    if begun and last.content:
        return [*prompt, Text(last.content)], opening + last.content
    return prompt, opening


def before_text(videos: Prompt) -> Prompt:
    """Videos, and the text between them and the words about them."""
    return [*videos, Text(AFTER_VIDEO)] if videos else []
