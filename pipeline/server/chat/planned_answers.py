"""Questions about videos that need no model, or that the model is asked in other words.

The server answers them by the same `AnswerPlan` as `ask`. Requests with tools or for a form of the
answer always go to the model.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.models.open_bundle import VideoBundle
from reellama.pipeline.chat.answer_plan import AnswerPlan, plan_answer
from reellama.pipeline.llm.engine import Token
from reellama.pipeline.llm.generation_options import NO_LIMIT, GenerationOptions
from reellama.pipeline.server.chat.chat_request import ChatRequest, ServiceMessage
from reellama.pipeline.server.chat.tool_messages import EncodedConversation
from reellama.pipeline.server.media.media_encoder import EncodedMedia

MAX_QUESTION_CHARACTERS = 1000  # longer questions go to the model: to analyze them takes long


def plain_question(
    request: ChatRequest,
    generation_options: GenerationOptions,
    *,
    has_schema: bool = False,
    model_only: bool = False,
) -> str:
    """The last question, or "" if it must go to the model as it is."""
    last = request.messages[-1] if request.messages else None
    has_grammar = has_schema or generation_options.sampling.grammar is not None
    if (
        model_only
        or has_grammar
        or request.usable_tools
        or last is None
        or last.role != "user"
        or len(last.content) > MAX_QUESTION_CHARACTERS
    ):
        return ""
    return last.content.strip()


def plan_request(
    question: str, encoded_media: Sequence[EncodedMedia], bundle: VideoBundle | None
) -> AnswerPlan:
    """The plan for a question about the videos of all messages."""
    videos = [video for encoded in encoded_media for video in encoded.videos]
    if not question or not videos or bundle is None:
        return AnswerPlan(videos)
    return plan_answer(question, videos, bundle)


def apply_plan(conversation: EncodedConversation, plan: AnswerPlan) -> EncodedConversation:
    """The conversation, or only the plan's own request about the video if it has one."""
    if plan.request is None:
        return conversation
    system = [(message, parts) for message, parts in conversation if message.role == "system"]
    return [*system, (ServiceMessage("user", plan.request), plan.videos[0].parts)]


def answer_tokens(answer: str, tokenizer: Tokenizer, options: GenerationOptions) -> list[Token]:
    """The tokens of a known answer, each with probability 1."""
    ids = tokenizer.encode(answer)
    if options.max_tokens != NO_LIMIT:
        ids = ids[: options.max_tokens]
    characters = codecs.getincrementaldecoder("utf-8")("ignore")
    tokens: list[Token] = []
    for token in ids:
        piece = tokenizer.piece(token)
        text = characters.decode(piece)
        if not tokens and not answer.startswith(" "):
            text = text.removeprefix(" ")  # which some tokenizers put before every text
        likeliest = [(text, 1.0)] if options.n_probs else []
        tokens.append(Token(token, text, 1.0, likeliest, piece, (piece,) if likeliest else ()))
    return tokens
