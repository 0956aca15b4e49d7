"""Jobs of a batcher: a prompt to be answered, and the updates that its caller gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.llm.engine import Token
from reellama.pipeline.llm.generation_options import NO_LIMIT, GenerationOptions
from reellama.pipeline.llm.prompt import TokenizedPrompt


@dataclass
class GenerationStats:
    """What an answer took; complete after its last token. Soft tokens count as the prompt's."""

    load_seconds: float = 0.0
    queue_seconds: float = 0.0  # until a sequence was free
    prompt_tokens: int = 0
    reused_tokens: int = 0  # of these, positions that were still in the KV cache
    prompt_seconds: float = 0.0
    generated_tokens: int = 0
    generate_seconds: float = 0.0
    stop_reason: str | None = None  # "stop" or "length"
    stop_text: str | None = None  # the stop text that ended it, if one did
    end_token: int | None = None  # the model's own token for the end, if that ended it


# What a job's caller gets: a token, None at the end of the answer, or what went wrong.
JobUpdate = Token | Exception | None
# Called in the batcher's thread.
UpdateCallback = Callable[[JobUpdate], None]


@dataclass(eq=False)
class GenerationJob:
    """One prompt to be answered. Setting `cancelled` ends it at the next step.

    limit: positions that prompt and answer may take. client: who asks; sequences are shared among
    clients. visible_special_tokens: texts of special tokens that are part of the answer's text;
    those that are no token of the model are ignored.
    """

    prompt: TokenizedPrompt
    on_update: UpdateCallback
    options: GenerationOptions = GenerationOptions(max_tokens=NO_LIMIT, n_probs=0)
    limit: int = 1 << 31
    client: str = ""
    visible_special_tokens: Sequence[str] = ()
    stats: GenerationStats = field(default_factory=GenerationStats)
    cancelled: bool = False


class Stopped(ReellamaError):
    """A batcher that was closed: it answers nothing any more. `status` is HTTP's."""

    status = 503

    def __init__(self) -> None:
        super().__init__("the model is stopping: it answers nothing any more")


class Failed(ReellamaError):
    """An answer that ended with an error of this program's own, its cause. `status` is HTTP's."""

    status = 500

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"this answer failed: {type(cause).__name__}: {cause}")
        self.__cause__ = cause


def deliver(job: GenerationJob, update: JobUpdate) -> None:
    """Give an update to a job's caller. A job whose caller cannot take it any more is cancelled."""
    if isinstance(update, Exception) and not isinstance(update, ReellamaError):
        update = Failed(update)
    try:
        job.on_update(update)
    except BaseException:  # noqa: BLE001  # such as an event loop that was closed
        job.cancelled = True
