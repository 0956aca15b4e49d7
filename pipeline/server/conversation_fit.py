"""A conversation laid out in a context: without the oldest turns that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.text.chat_template import Segment
from reellama.models.prompt_format import AFTER_VIDEO
from reellama.pipeline.llm.batching import Batcher
from reellama.pipeline.llm.prompt import Prompt, Text, TokenizedPrompt
from reellama.pipeline.server.media.media_items import MediaItem

# Share of the context that is kept free for the answer when a long conversation is cut.
ANSWER_ROOM = 4


@dataclass(frozen=True)
class ServiceMessage:
    """One message; `media` are its pictures and videos, in order."""

    role: str
    content: str
    media: tuple[MediaItem, ...] = ()


class Template(Protocol):
    """A chat template; see `reellama.gguf_tools.text.chat_template.ChatTemplate`."""

    def render(self, messages: Sequence[Any]) -> list[Segment]:
        """The conversation in segments."""
        ...


Conversation = Sequence[tuple[ServiceMessage, Prompt]]  # messages, and what stands for their media


def fit_conversation(
    batcher: Batcher, template: Template, conversation: Conversation, limit: int, max_tokens: int
) -> TokenizedPrompt:
    """The conversation without the oldest turns that do not fit `limit` positions; videos move up.

    It is rendered once where all of it fits, and else about log2(limit) times, never with more
    messages than there are positions: each takes one at least. Raises ReellamaError for a last
    message that cannot fit.
    """
    room = limit - min(max_tokens if max_tokens > 0 else limit, limit // ANSWER_ROOM)
    turns = [i for i, (message, _) in enumerate(conversation) if message.role != "system"]
    n_system = len(conversation) - len(turns)
    if n_system > limit:
        raise ReellamaError(f"{n_system} system messages do not fit {limit} positions: send fewer")
    contents = (len(conversation[i][0].content) for i in reversed(turns))
    least = [
        n_system + n + batcher.least_positions(characters)
        for n, characters in enumerate(accumulate(contents), 1)
    ]
    # A message that the answer goes on from is not without the one before it.
    few = min(len(turns), 2 if conversation[-1][0].role == "assistant" else 1)
    most = max(few, sum(n <= room for n in least))

    def lay_out(n_turns: int) -> TokenizedPrompt | None:
        """The last turns, or None where they do not fit."""
        prompt = conversation_prompt(template, _last(conversation, turns, n_turns))
        characters = sum(len(part.text) for part in prompt if isinstance(part, Text))
        if n_turns > few and batcher.least_positions(characters) > room:
            return None
        layout = batcher.tokenize_prompt(prompt)
        return layout if n_turns <= few or len(layout.keys) <= room else None

    if (found := lay_out(most)) is not None:
        return found
    fits, too_many = few, most
    while too_many - fits > 1:
        n_turns = (fits + too_many) // 2
        if (tried := lay_out(n_turns)) is None:
            too_many = n_turns
        else:
            fits, found = n_turns, tried
    return found or batcher.tokenize_prompt(
        conversation_prompt(template, _last(conversation, turns, few))
    )


def _last(conversation: Conversation, turns: Sequence[int], n_turns: int) -> Conversation:
    """The last turns, without an answer that would begin them, and all system messages."""
    if not turns or n_turns >= len(turns):
        return conversation
    at = len(turns) - n_turns
    while conversation[turns[at]][0].role == "assistant" and at + 1 < len(turns):
        at += 1
    dropped = {*turns[:at]}
    seen = [part for i in turns[:at] for part in conversation[i][1]]
    message, own = conversation[turns[at]]
    heir = (message, [*seen, *own])
    return [
        heir if i == turns[at] else each for i, each in enumerate(conversation) if i not in dropped
    ]


def conversation_prompt(template: Template, conversation: Conversation) -> Prompt:
    """What the model reads: each message's videos before its words.

    An assistant's message that comes last is the beginning of the answer.
    """
    last = conversation[-1][0]
    begun = last.role == "assistant" and len(conversation) > 1
    rendered = conversation[:-1] if begun else conversation
    messages = [{"role": m.role, "content": m.content} for m, _ in rendered]
    left = dict(enumerate(videos for _, videos in rendered))
    prompt: Prompt = []
    for segment in template.render(messages):
        if segment.content is not None:  # a template may place a content twice: videos once
            prompt += before_text(left.pop(segment.content, []))
        prompt.append(Text(segment.text, segment.special))
    return [*prompt, Text(last.content)] if begun and last.content else prompt


def before_text(videos: Prompt) -> Prompt:
    """Videos, and what stands between them and the words about them."""
    return [*videos, Text(AFTER_VIDEO)] if videos else []
