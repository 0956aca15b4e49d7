"""How families of models show what they think before they answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReasoningTags:
    """The texts before and after the reasoning.

    mark: a text that the family's chat templates have; "": they have `begin`.
    silent: the tags of channels, where each part of an answer has one. They are left out of the
    text, and reasoning may then come between the parts too. answer: the tag before the answer's
    text, or "".
    """

    begin: str
    end: str
    mark: str = ""
    silent: tuple[str, ...] = ()
    answer: str = ""


# Looked for in a chat template, the first that is there.
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
    """The tags of a chat template's family, if it thinks."""
    return next((tags for tags in REASONING_TAGS if (tags.mark or tags.begin) in template), None)
