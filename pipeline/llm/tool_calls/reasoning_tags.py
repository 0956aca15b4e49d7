"""The tags around reasoning, by families of models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReasoningTags:
    """The texts before and after reasoning.

    mark: a text that identifies the family's chat templates; "" if `begin` does.
    silent: tags of channels, for models that put each part of an answer into one. They are left out
    of the text, and reasoning may also come between the parts. answer: the tag before the answer's
    text, or "".
    """

    begin: str
    end: str
    mark: str = ""
    silent: tuple[str, ...] = ()
    answer: str = ""


# By family; the first one whose mark is in the chat template is used.
REASONING_TAGS = (
    ReasoningTags("<think>", "</think>"),  # DeepSeek R1, Qwen3, SmolLM3, GLM, Granite 3, ...
    ReasoningTags("[THINK]", "[/THINK]"),  # Mistral's reasoning models
    ReasoningTags("<seed:think>", "</seed:think>"),  # Seed-OSS
    ReasoningTags("<|START_THINKING|>", "<|END_THINKING|>"),  # Command R7B, Command A
    ReasoningTags("<|channel>thought", "<channel|>"),  # Gemma 4
    ReasoningTags("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ReasoningTags("<think:opensource>", "</think:opensource>", mark="hy_Assistant"),  # Hunyuan 3
    ReasoningTags(  # gpt-oss
        "<|channel|>analysis<|message|>",
        "<|end|>",
        mark="<|channel|>analysis",
        silent=(
            "<|start|>assistant",
            "<|channel|>commentary<|message|>",
            "<|channel|>final<|message|>",
            "<|channel|>final <|constrain|>json<|message|>",
            "<|end|>",
            "<|return|>",
        ),
        answer="<|channel|>final<|message|>",
    ),
)


def reasoning_tags(template: str) -> ReasoningTags | None:
    """The tags of a chat template's family; None if it has no reasoning."""
    return next((tags for tags in REASONING_TAGS if (tags.mark or tags.begin) in template), None)
