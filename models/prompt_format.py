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
    conversation = [{"role": "system", "content": system}] if system else []
    for earlier, answer in turns:
        conversation.append({"role": "user", "content": earlier})
        conversation.append({"role": "assistant", "content": answer})
    return [*conversation, {"role": "user", "content": question}]


def question_ids(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    system: str | None,
    question: str,
    turns: Sequence[tuple[str, str]] = (),
) -> tuple[list[int], list[int]]:
    """Token ids before and after a video's soft tokens, which begin the first user message.

    turns: earlier questions and answers about the video.
    """
    conversation = messages(system, turns, question)
    segments = template.render(conversation)
    first_user = 1 if system else 0  # index of the first user message in the conversation
    user = next(i for i, segment in enumerate(segments) if segment.content == first_user)
    before = [(segment.text, segment.special) for segment in segments[:user]]
    after = [(segment.text, segment.special) for segment in segments[user:]]
    ids = tokenizer.encode_parts(before)
    if tokenizer.add_bos and tokenizer.bos is not None and ids[:1] != [tokenizer.bos]:
        ids.insert(0, tokenizer.bos)
    return ids, tokenizer.encode_parts([(AFTER_VIDEO, False), *after])


def multiple_choice(question: str, choices: Sequence[str]) -> str:
    """The text of a question with its choices, as in training."""
    return f"{question}\nChoose one: {'; '.join(choices)}."
