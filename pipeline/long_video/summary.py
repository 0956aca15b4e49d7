"""Summarize a timeline, or answer questions about it, with a model of an Ollama server."""

from __future__ import annotations

from collections.abc import Sequence

from reellama import prompts
from reellama.pipeline.llm.ollama_model import OllamaModel
from reellama.pipeline.long_video.timeline import SceneAnswer, Timeline
from reellama.pipeline.video.timestamps import format_time

SUMMARIZE = "Summarize the video in two or three sentences."
# The most notes sent to the model, which fit into N_CTX.
MAX_NOTES = 120
N_CTX = 8192


def summarize_timeline(timeline: Timeline, model: OllamaModel) -> str:
    """A summary of all scenes. Raises OllamaError if the server fails."""
    step = max(1, -(-len(timeline.scenes) // MAX_NOTES))
    notes = [(s.start, s.end, s.text) for s in timeline.scenes[::step]]
    return _ask(model, notes, SUMMARIZE)


def answer_from_scenes(question: str, answers: Sequence[SceneAnswer], model: OllamaModel) -> str:
    """An answer with times, from the bundle's answers about single scenes.

    Raises OllamaError if the server fails.
    """
    notes = [(a.start, a.end, a.text) for a in sorted(answers, key=lambda answer: answer.start)]
    return _ask(model, notes, f"{question}\nSay at which times of the video that can be seen.")


def _ask(model: OllamaModel, notes: Sequence[tuple[float, float, str]], question: str) -> str:
    lines = [f"- {format_time(start)} to {format_time(end)}: {text}" for start, end, text in notes]
    system = "\n".join([prompts.load("timeline_notes"), "", *lines])
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    tokens = model.generate(messages, n_probs=0, n_ctx=N_CTX)
    return "".join(token.text for token in tokens).strip()
