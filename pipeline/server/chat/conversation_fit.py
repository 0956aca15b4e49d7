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
from reellama.pipeline.server.chat.tool_messages import Conversation, template_message


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

    opening: what stands between the last words that somebody said and the answer; an answer that
    is gone on with is part of it.
    """

    prompt: TokenizedPrompt
    opening: str


def fit_conversation(
    batcher: Batcher,
    rendering: Rendering,
    conversation: Conversation,
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
    room = limit - min(max_tokens if max_tokens > 0 else limit, limit // ANSWER_DIVISOR)
    turns = [i for i, (message, _) in enumerate(conversation) if message.role != "system"]
    n_system = len(conversation) - len(turns)
    if n_system > limit:
        raise ReellamaError(f"{n_system} system messages do not fit {limit} positions: send fewer")
    contents = (len(conversation[i][0].content) for i in reversed(turns))
    least = [
        n_system + n + batcher.least_positions(characters)
        for n, characters in enumerate(accumulate(contents), 1)
    ]
    few = len(turns) if keep_all else min(_fewest(conversation, turns), limit)
    most = max(few, sum(n <= room for n in least))

    def tokenize_last(n_turns: int) -> FittedConversation | None:
        """The last turns, or None where they do not fit."""
        prompt, opening = conversation_prompt(rendering, _last(conversation, turns, n_turns))
        characters = sum(len(part.text) for part in prompt if isinstance(part, Text))
        if n_turns > few and batcher.least_positions(characters) > room:
            return None
        tokenized = batcher.tokenize_prompt(prompt)
        fits = n_turns <= few or len(tokenized.keys) <= room
        return FittedConversation(tokenized, opening) if fits else None

    if (found := tokenize_last(most)) is not None:
        return found
    fits, too_many = few, most
    while too_many - fits > 1:
        n_turns = (fits + too_many) // 2
        if (tried := tokenize_last(n_turns)) is None:
            too_many = n_turns
        else:
            fits, found = n_turns, tried
    if found is None:
        found = tokenize_last(few)
        assert found is not None
    return found


def _fewest(conversation: Conversation, turns: Sequence[int]) -> int:
    """How many of the last turns must stay: what was asked, and what came of it so far."""
    n = 1
    while n < len(turns) and conversation[turns[-n]][0].role != "user":
        n += 1
    return n


def _last(conversation: Conversation, turns: Sequence[int], n_turns: int) -> Conversation:
    """The last turns and all system messages. Answers and results do not begin them."""
    if not turns or n_turns >= len(turns):
        return conversation
    at = len(turns) - n_turns
    while conversation[turns[at]][0].role in ("assistant", "tool") and at + 1 < len(turns):
        at += 1
    dropped = {*turns[:at]}
    seen = [part for i in turns[:at] for part in conversation[i][1]]
    message, own = conversation[turns[at]]
    heir = (message, [*seen, *own])
    return [
        heir if i == turns[at] else each for i, each in enumerate(conversation) if i not in dropped
    ]


def conversation_prompt(rendering: Rendering, conversation: Conversation) -> tuple[Prompt, str]:
    """What the model reads, each message's videos before its words, and the answer's opening.

    An assistant's message that comes last is the beginning of the answer.
    """
    last = conversation[-1][0]
    begun = last.role == "assistant" and not last.tool_calls and len(conversation) > 1
    rendered = conversation[:-1] if begun else conversation
    how = rendering.text_arguments, rendering.no_content
    messages = [template_message(message, *how) for message, _ in rendered]
    left = dict(enumerate(videos for _, videos in rendered))
    prompt: Prompt = []
    opening = ""
    for segment in rendering.template.render(messages, **rendering.variables):
        if segment.content is not None:  # a template may place a content twice: videos once
            prompt += before_text(left.pop(segment.content, []))
        prompt.append(Text(segment.text, segment.special))
        opening = opening + segment.text if segment.special else ""
    if begun and last.content:
        return [*prompt, Text(last.content)], opening + last.content
    return prompt, opening


def before_text(videos: Prompt) -> Prompt:
    """Videos, and what stands between them and the words about them."""
    return [*videos, Text(AFTER_VIDEO)] if videos else []
