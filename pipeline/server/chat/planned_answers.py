"""Questions about videos that `ask` would answer without its model, or ask that in other words.

The server says the same. Where an answer must have a form, or tools may be called, the model gives
all answers.
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

# Characters of a question; a longer text is none of those that are answered without the model, and
# to look through all of it would hold up everyone else.
MAX_QUESTION_CHARACTERS = 1000


def plain_question(
    request: ChatRequest, generation_options: GenerationOptions, formed: bool
) -> str:
    """What was asked last, or "" where only the model can answer. formed: by a JSON schema."""
    last = request.messages[-1] if request.messages else None
    bound = formed or request.usable_tools or generation_options.sampling.grammar is not None
    if bound or last is None or last.role != "user" or len(last.content) > MAX_QUESTION_CHARACTERS:
        return ""
    return last.content.strip()


def plan_request(
    question: str, encoded_media: Sequence[EncodedMedia], bundle: VideoBundle | None
) -> AnswerPlan:
    """How a question about the videos of all messages is answered, as `ask` answers it."""
    videos = [video for encoded in encoded_media for video in encoded.videos]
    if not question or not videos or bundle is None:
        return AnswerPlan(videos)
    return plan_answer(question, videos, bundle)


def apply_plan(conversation: EncodedConversation, plan: AnswerPlan) -> EncodedConversation:
    """The conversation as the model gets it: with a request of the plan's own, that one alone."""
    if plan.request is None:
        return conversation
    system = [(message, parts) for message, parts in conversation if message.role == "system"]
    return [*system, (ServiceMessage("user", plan.request), plan.videos[0].parts)]


def answer_tokens(answer: str, tokenizer: Tokenizer, options: GenerationOptions) -> list[Token]:
    """An answer that is known as the tokens that a sure model would have given."""
    ids = tokenizer.encode(answer)
    if options.max_tokens != NO_LIMIT:
        ids = ids[: options.max_tokens]
    characters = codecs.getincrementaldecoder("utf-8")("ignore")
    tokens: list[Token] = []
    for token in ids:
        piece = tokenizer.piece(token)
        text = characters.decode(piece)
        if not tokens and not answer.startswith(" "):
            text = text.removeprefix(" ")  # some tokenizers begin every text with one
        likeliest = [(text, 1.0)] if options.n_probs else []
        tokens.append(Token(token, text, 1.0, likeliest, piece, (piece,) if likeliest else ()))
    return tokens
