"""The prompt format of a question about a video, the same in chat and in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reellama.gguf_tools.text.chat_template import ChatTemplate
    from reellama.gguf_tools.text.tokenizer import Tokenizer

# Between a video's soft tokens and the text of the first user message.
AFTER_VIDEO = "\n"


def messages(
    system: str | None, turns: Sequence[tuple[str, str]], question: str
) -> list[dict[str, str]]:
    """Messages for a chat template: the system prompt, earlier turns, then the question."""
    system_messages = [{"role": "system", "content": system}] if system else []
    earlier = [
        message
        for asked, answered in turns
        for message in (
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answered},
        )
    ]
    return [*system_messages, *earlier, {"role": "user", "content": question}]


def question_ids(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    system: str | None,
    question: str,
    turns: Sequence[tuple[str, str]] = (),
) -> tuple[list[int], list[int]]:
    """Token ids before and after one video's soft tokens, which begin the first user message.

    `turns` are earlier questions and answers about it.
    """
    conversation = messages(system, turns, question)
    segments = template.render(conversation)
    first = 1 if system else 0
    user = next(i for i, segment in enumerate(segments) if segment.content == first)
    before = [(segment.text, segment.special) for segment in segments[:user]]
    after = [(segment.text, segment.special) for segment in segments[user:]]
    ids = tokenizer.encode_parts(before)
    if tokenizer.add_bos and tokenizer.bos is not None and ids[:1] != [tokenizer.bos]:
        ids.insert(0, tokenizer.bos)
    return ids, tokenizer.encode_parts([(AFTER_VIDEO, False), *after])


def multiple_choice(question: str, choices: Sequence[str]) -> str:
    """A question followed by its choices."""
    return f"{question}\nChoose one: {'; '.join(choices)}."
