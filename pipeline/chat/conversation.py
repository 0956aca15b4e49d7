"""A conversation about videos, which turns questions into prompts and stores the turns.

The videos are in the first user message. When the context is full, the oldest turns are dropped
from the prompt (not from `turns`), so that the videos always stay in the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.text.prompt_parts import count_soft_tokens
from reellama.models import prompt_format
from reellama.models.prompt_format import AFTER_VIDEO
from reellama.pipeline.chat.question_text import videos_in_question
from reellama.pipeline.llm.engine import ContextOverflow, Engine, Prompt, Text, Token
from reellama.pipeline.video.clip import Clip

# Share of the context that a prompt may take after turns were dropped. As all tokens after the
# video must then be decoded again, several turns are dropped at once.
ROOM_AFTER_DROPPING = 0.75
# Turns are dropped until n_ctx / ANSWER_DIVISOR positions are left for the answer.
ANSWER_DIVISOR = 4


# The tokens of an answer. Closing the generator stops the answer; the turn keeps the tokens so far.
TokenStream = Generator[Token, None, None]


@dataclass(frozen=True)
class Video:
    """A video in a conversation.

    Attributes:
        parts: the video in a prompt.
        clip: the frames.
        footage_caveat: a remark for the user on what the bundle cannot tell of the video, or "".
    """

    path: Path
    parts: Prompt
    clip: Clip
    footage_caveat: str = ""

    @property
    def n_soft_tokens(self) -> int:
        """The number of soft tokens."""
        return count_soft_tokens(self.parts)


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    question: str
    answer: str


class Chat:
    """Questions about `videos` to the LLM of `engine`, which sees the earlier turns as well.

    `on_drop(n)` is called when `n` more of the oldest turns had to leave the prompt; `dropped`
    counts them all.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        system: str | None = None,
        videos: Sequence[Video] = (),
        on_drop: Callable[[int], None] | None = None,
    ) -> None:
        self.engine = engine
        self.system = system
        self.videos = list(videos)
        self.turns: list[Turn] = []
        self.dropped = 0
        self.on_drop = on_drop

    def ask(self, question: str, **generation: Any) -> TokenStream:
        """Answer `question`; the turn is kept when the answer ends, also when it is cut short.

        `generation` goes to `Engine.generate`. Raises ReellamaError when the videos and the
        question alone are more than the context holds.
        """
        return self._answer(len(self.turns), question, generation)

    def answer_turn(
        self, index: int, question: str, *, request: str | None = None, **generation: Any
    ) -> TokenStream:
        """Answer `question` as turn `index`, in place of those from there on.

        request: what the LLM is asked instead, without the turns before.
        """
        return self._answer(index, question, generation, request)

    def add_known_answer(self, index: int, question: str, answer: str) -> TokenStream:
        """Add a turn whose answer is known without the LLM; the answer is one token.

        index: as in `answer_turn`.
        """
        self.turns[index:] = [Turn(question, answer)]
        yield Token(-1, answer, 1.0, [])

    def edit(self, index: int, question: str, **generation: Any) -> TokenStream:
        """Ask `question` in place of turn `index`; that turn and all after it are dropped."""
        if not 0 <= index < len(self.turns):
            raise ReellamaError(f"there is no turn {index + 1}: there are {len(self.turns)}")
        return self._answer(index, question, generation)

    def retry(self, **generation: Any) -> TokenStream:
        """Ask the last question again."""
        if not self.turns:
            raise ReellamaError("nothing was asked yet")
        return self.edit(len(self.turns) - 1, self.turns[-1].question, **generation)

    def undo(self) -> Turn:
        """Take the last turn back and return it."""
        if not self.turns:
            raise ReellamaError("nothing was asked yet")
        return self.turns.pop()

    def clear(self) -> None:
        """Forget all turns; the videos stay."""
        self.turns.clear()
        self.dropped = 0

    def add(self, video: Video) -> None:
        """Put one more video before the questions."""
        self.videos.append(video)

    def to_json(self) -> dict[str, Any]:
        """The system prompt, the videos' paths and the turns, for `from_json`."""
        return {
            "system": self.system,
            "videos": [str(video.path.absolute()) for video in self.videos],
            "turns": [asdict(turn) for turn in self.turns],
        }

    @classmethod
    def from_json(
        cls,
        data: dict[str, Any],
        engine: Engine,
        encode_videos: Callable[[Sequence[Path]], list[Video]],
        on_drop: Callable[[int], None] | None = None,
    ) -> Chat:
        """Rebuild a conversation from `to_json`; `encode_videos` reads its videos again."""
        try:
            paths = [Path(path) for path in data["videos"]]
            turns = [Turn(str(turn["question"]), str(turn["answer"])) for turn in data["turns"]]
            system = data["system"]
        except (KeyError, TypeError) as error:
            raise ReellamaError(f"not a saved conversation: {error!r}") from error
        chat = cls(engine, system=system, videos=encode_videos(paths), on_drop=on_drop)
        chat.turns = turns
        return chat

    def prompt(
        self, question: str, turns: Sequence[Turn] = (), request: str | None = None
    ) -> Prompt:
        """The prompt that asks `question` after `turns`; the first user message has the videos.

        request: asked in place of `question`, of the videos that `question` means.
        """
        before, after = self._around_question(question, turns, request)
        return before + after

    def _around_question(
        self, question: str, turns: Sequence[Turn], request: str | None = None
    ) -> tuple[Prompt, Prompt]:
        """The prompt before the words of `question`, and the prompt from these words on."""
        meant, question = videos_in_question(question, self.videos)
        messages = prompt_format.messages(
            self.system, [(turn.question, turn.answer) for turn in turns], request or question
        )
        first = next(i for i, message in enumerate(messages) if message["role"] == "user")
        videos = [part for v in meant for part in (*v.parts, Text(AFTER_VIDEO))]
        before: Prompt = []
        after: Prompt = []
        for segment in self.engine.template.render(messages):
            if segment.content == first:  # a template may place a content twice: videos once
                before += videos
                videos = []
            asking = segment.content == len(messages) - 1
            (after if after or asking else before).append(Text(segment.text, segment.special))
        return before, after

    def read_ahead(self) -> None:
        """Read the prompt before the next question while the person still thinks about it.

        The KV cache then holds the videos, the turns and the template's words around them, so that
        only the question is left to read. Does nothing where the context has no room for that.
        """
        before, _ = self._around_question("?", self.turns[self.dropped :])
        with suppress(ContextOverflow):
            self.engine.prefill(before)

    def _answer(
        self, index: int, question: str, generation: dict[str, Any], request: str | None = None
    ) -> TokenStream:
        """Answer `question` as turn `index`; it replaces that turn when the answer begins."""
        if not question.strip():
            raise ReellamaError("the question is empty")
        max_tokens = generation.pop("max_tokens", 256)
        prompt, n_left = self._fit(index, question, max_tokens, request)
        pieces: list[str] = []
        complete = False
        try:
            tokens = self.engine.generate(prompt, max_tokens=min(max_tokens, n_left), **generation)
            for token in tokens:
                pieces.append(token.text)
                yield token
            complete = True
        finally:
            if complete or pieces:
                self.turns[index:] = [Turn(question, "".join(pieces))]

    def _fit(
        self, index: int, question: str, max_tokens: int, request: str | None
    ) -> tuple[Prompt, int]:
        """The prompt for turn `index` without the turns that do not fit, and the positions left."""
        n_ctx = self.engine.n_ctx
        reserve = min(max_tokens, n_ctx // ANSWER_DIVISOR)
        limit = n_ctx
        before = self.dropped = min(self.dropped, index)
        while True:
            turns = () if request else self.turns[self.dropped : index]
            prompt = self.prompt(question, turns, request)
            size = self.engine.count(prompt)
            if size + reserve <= limit or self.dropped == index or request:
                break
            self.dropped += 1
            limit = int(n_ctx * ROOM_AFTER_DROPPING)
        if size >= n_ctx:
            parts = "the videos and the question" if self.videos else "the question"
            raise ReellamaError(
                f"{parts} take {size} positions and the context holds {n_ctx}: "
                f"ask less at once, or start with --n-ctx {2 * size}"
            )
        if self.dropped > before and self.on_drop:
            self.on_drop(self.dropped - before)
        return prompt, n_ctx - size
