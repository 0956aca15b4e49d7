"""A long conversation loses its oldest turns, at a cost that its length hardly changes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.text.chat_template import ChatTemplate, Segment
from reellama.pipeline.llm.batching.batcher import Batcher
from reellama.pipeline.llm.prompt import Prompt, TokenizedPrompt
from reellama.pipeline.server.chat.chat_request import ServiceMessage
from reellama.pipeline.server.chat.conversation_fit import (
    Rendering,
    conversation_prompt,
    fit_conversation,
)
from reellama.pipeline.server.chat.tool_messages import EncodedConversation

LIMIT = 512


class Counting:
    """ChatML, which counts the messages that it renders."""

    def __init__(self) -> None:
        self.n_messages = 0

    def render(self, messages: Sequence[Any], **_: Any) -> list[Segment]:
        self.n_messages += len(messages)
        return ChatTemplate("").render(messages)


@pytest.fixture(scope="module")
def batcher(tiny_llama: Path) -> Iterator[Batcher]:
    batcher = Batcher(tiny_llama, n_parallel=1, n_ctx=LIMIT)
    yield batcher
    batcher.close()


def fitted(
    batcher: Batcher, conversation: EncodedConversation, max_tokens: int = 16
) -> TokenizedPrompt:
    how = Rendering(Counting())
    return fit_conversation(batcher, how, conversation, LIMIT, max_tokens).prompt


def one_by_one(
    batcher: Batcher, conversation: EncodedConversation, max_tokens: int
) -> TokenizedPrompt:
    """The same by dropping one turn after another, and tokenizing all of it each time."""
    kept = list(conversation)
    few = 2 if kept[-1][0].role == "assistant" else 1
    while True:
        prompt, _ = conversation_prompt(Rendering(ChatTemplate("")), kept)
        tokenized = batcher.tokenize_prompt(prompt)
        turns = [i for i, (message, _) in enumerate(kept) if message.role != "system"]
        if len(tokenized.keys) <= LIMIT - max_tokens or len(turns) <= few:
            return tokenized
        _, seen = kept.pop(turns[0])
        heir = turns[1] - 1
        while kept[heir][0].role == "assistant" and heir + 1 < len(kept):
            seen = [*seen, *kept.pop(heir)[1]]
        message, own = kept[heir]
        kept[heir] = message, [*seen, *own]


def video(n_tokens: int) -> Prompt:
    return [np.full((n_tokens, 64), 0.01, np.float32)]


MESSAGES = st.builds(
    lambda words, n_tokens: (words, video(n_tokens) if n_tokens else []),
    st.text("abc ", max_size=60),
    st.sampled_from([0, 0, 0, 5, 20]),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(MESSAGES, min_size=1, max_size=24), st.booleans())
def test_fitting_keeps_the_turns_that_dropping_one_by_one_keeps(
    batcher: Batcher, said: list[tuple[str, Prompt]], with_system: bool
) -> None:
    conversation: list[tuple[ServiceMessage, Prompt]] = [
        (ServiceMessage(("user", "assistant")[i % 2], words), [] if i % 2 else seen)
        for i, (words, seen) in enumerate(said)
    ]
    if with_system:
        conversation.insert(0, (ServiceMessage("system", "Be brief."), []))
    try:
        expected = one_by_one(batcher, conversation, 16)
    except ReellamaError:  # videos alone are too long
        return
    assert fitted(batcher, conversation).keys == expected.keys


def test_a_hundred_thousand_messages_are_not_rendered_one_after_another(batcher: Batcher) -> None:
    template = Counting()
    conversation: EncodedConversation = [
        (ServiceMessage(("user", "assistant")[i % 2], "hi"), []) for i in range(100_001)
    ]
    tokenized = fit_conversation(batcher, Rendering(template), conversation, LIMIT, 16).prompt
    assert LIMIT / 2 < len(tokenized.keys) <= LIMIT - 16
    assert template.n_messages < 4 * LIMIT


def test_a_text_that_cannot_fit_is_not_tokenized(batcher: Batcher) -> None:
    length = 10**7
    with pytest.raises(ReellamaError, match="at least .* positions, but the context has 512"):
        fitted(batcher, [(ServiceMessage("user", "x" * length), [])])


def test_system_messages_without_end_are_refused(batcher: Batcher) -> None:
    system: tuple[ServiceMessage, Prompt] = (ServiceMessage("system", "x"), [])
    with pytest.raises(ReellamaError, match="100000 system messages"):
        fitted(batcher, [*[system] * 100_000, (ServiceMessage("user", "?"), [])])


def test_an_answer_that_was_begun_is_continued(batcher: Batcher) -> None:
    asked: tuple[ServiceMessage, Prompt] = (ServiceMessage("user", "Count."), [])
    begun = fitted(batcher, [asked, (ServiceMessage("assistant", "One, two"), [])])
    whole = fitted(batcher, [asked])
    assert begun.keys == [*whole.keys, *batcher.tokenizer.encode("One, two")]
