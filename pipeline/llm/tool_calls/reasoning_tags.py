"""How families of models show what they think before they answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReasoningTags:
    """What stands before and after the reasoning."""

    begin: str
    end: str


# Looked for in a chat template, the first that is there.
REASONING_TAGS = (
    ReasoningTags("<think>", "</think>"),  # DeepSeek R1, Qwen3, SmolLM3, GLM, Granite 3, ...
    ReasoningTags("[THINK]", "[/THINK]"),  # Mistral's reasoning models
    ReasoningTags("<seed:think>", "</seed:think>"),  # Seed-OSS
    ReasoningTags("<|START_THINKING|>", "<|END_THINKING|>"),  # Command R7B, Command A
    ReasoningTags("<|channel>thought", "<channel|>"),  # Gemma 4
    ReasoningTags("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
)


def reasoning_tags(template: str) -> ReasoningTags | None:
    """The tags of a chat template's family, if it thinks."""
    return next((tags for tags in REASONING_TAGS if tags.begin in template), None)
