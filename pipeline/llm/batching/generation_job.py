"""Jobs of a batcher: a prompt, its options, and the updates that the caller gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.llm.engine import Token
from reellama.pipeline.llm.generation_options import NO_LIMIT, GenerationOptions
from reellama.pipeline.llm.prompt import TokenizedPrompt


@dataclass
class GenerationStats:
    """Counts and times of an answer, complete after its last token. Prompts include soft tokens."""

    load_seconds: float = 0.0
    queue_seconds: float = 0.0  # until a sequence was free
    prompt_tokens: int = 0
    reused_tokens: int = 0  # of prompt_tokens, those reused from the KV cache
    prompt_seconds: float = 0.0
    generated_tokens: int = 0
    generate_seconds: float = 0.0
    stop_reason: str | None = None  # "stop" or "length"
    stop_text: str | None = None  # the stop text that ended the answer, if any
    end_token: int | None = None  # the end-of-generation token, if that ended the answer


# A token, None at the end of the answer, or the error that ended it.
JobUpdate = Token | Exception | None
# Called in the batcher's thread.
UpdateCallback = Callable[[JobUpdate], None]


@dataclass(eq=False)
class GenerationJob:
    """A prompt to answer. Set `cancelled` to end the job at the next step.

    limit: positions that prompt and answer may take. client: sequences are shared fairly among
    clients. visible_special_tokens: special tokens that are part of the answer's text; texts that
    are not a token of the model are ignored.
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
    """The batcher was closed. `status` is HTTP's."""

    status = 503

    def __init__(self) -> None:
        super().__init__("the model is stopping: it answers nothing any more")


class Failed(ReellamaError):
    """An answer that ended with an internal error, its cause. `status` is HTTP's."""

    status = 500

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"this answer failed: {type(cause).__name__}: {cause}")
        self.__cause__ = cause


def deliver(job: GenerationJob, update: JobUpdate) -> None:
    """Call a job's `on_update`. If that fails, the job is cancelled."""
    if isinstance(update, Exception) and not isinstance(update, ReellamaError):
        update = Failed(update)
    try:
        job.on_update(update)
    except BaseException:  # noqa: BLE001  # such as an event loop that was closed
        job.cancelled = True
