"""A model of an Ollama server: messages in, generated tokens out, and a clear line when it fails.

    model = OllamaModel("llama3.2")
    for token in model.generate([{"role": "user", "content": "What is a reel?"}]):
        print(token.text, end="")

The server is the one that OLLAMA_HOST names, else the one on this machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from typing import Any

import httpx
import ollama

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.llm.engine import EngineStats, StopReason, Token
from reellama.pipeline.llm.generation_options import SAMPLING_OPTIONS, GenerationOptions, Sampling

DEFAULT_HOST = "127.0.0.1:11434"
# The server may have to load a large model from a slow disk before it says its first word.
TIMEOUT = httpx.Timeout(600, connect=5)
NANO = 1e-9  # the server counts nanoseconds

Message = Mapping[str, Any]  # "role", "content", and perhaps "images": JPEG or PNG, as bytes


class OllamaError(ReellamaError):
    """The server is absent, has no such model, or did not finish its answer."""


@contextmanager
def ollama_client(host: str | None = None) -> Iterator[ollama.Client]:
    """A client of the server; what goes wrong with it becomes an OllamaError."""
    host = host or os.environ.get("OLLAMA_HOST") or DEFAULT_HOST
    shown = host.rpartition("@")[2]  # without a password
    try:
        with ollama.Client(host, timeout=TIMEOUT) as client:
            yield client
    except (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise OllamaError(
            f"no Ollama server answers at {shown}: start it with `ollama serve`, "
            "or say in OLLAMA_HOST where it is"
        ) from error
    except httpx.TimeoutException as error:
        raise OllamaError(f"the Ollama server at {shown} stopped answering: ask again") from error
    except (httpx.TransportError, httpx.StreamError) as error:
        raise OllamaError(
            f"the Ollama server at {shown} went away in the middle: start it, then ask again"
        ) from error
    except ollama.ResponseError as error:
        if error.error.lstrip().startswith("<"):  # a page for a browser
            raise _not_ollama_error(shown) from error
        raise OllamaError(f"the Ollama server at {shown} says: {error.error}") from error
    # A host that is no address, a reply that is not JSON, or not of Ollama's shape.
    except (httpx.InvalidURL, ValueError) as error:
        raise _not_ollama_error(shown) from error


def _not_ollama_error(shown: str) -> OllamaError:
    return OllamaError(
        f"what answers at {shown} is no Ollama server: say in OLLAMA_HOST where it is"
    )


class OllamaModel:
    """The model `name` of the Ollama server at `host`. Nothing is asked of it before it is needed.

    `last` tells about the last answer.
    """

    def __init__(self, name: str, host: str | None = None) -> None:
        self.name = name
        self.host = host
        self.last = EngineStats()

    @cached_property
    def capabilities(self) -> frozenset[str]:
        """What the model can do, in Ollama's words: "completion", "vision", "thinking", ...

        Raises OllamaError when the server or the model is absent.
        """
        with ollama_client(self.host) as client, self._missing_model_error():
            return frozenset(client.show(self.name).capabilities or ())

    def generate(
        self,
        messages: Sequence[Message],
        sampling: Sampling = Sampling(),
        *,
        max_tokens: int = GenerationOptions.max_tokens,
        stop: str | Sequence[str] = GenerationOptions.stop,
        n_probs: int = GenerationOptions.n_probs,
        n_ctx: int = 4096,
    ) -> Iterator[Token]:
        """Answer the last of `messages`, token by token, as `Engine.generate` does.

        `p` is nan where the server gives no probabilities, and ids are -1. Closing the iterator
        ends the answer on the server too. Raises OllamaError, also in the middle.
        """
        self.last = EngineStats()
        options = GenerationOptions(sampling, max_tokens, stop, n_probs)
        if sampling.grammar is not None:
            raise OllamaError("an Ollama server takes no GBNF grammar: give it a JSON schema")
        request: dict[str, Any] = {
            "model": self.name,
            "messages": list(messages),
            "format": sampling.json_schema,
            # A model that thinks aloud would spend max_tokens before the first word of its answer.
            "think": False if "thinking" in self.capabilities else None,
            "logprobs": n_probs > 0 or None,
            "top_logprobs": n_probs or None,
            "options": {
                **_options(sampling),
                "num_ctx": n_ctx,
                "num_predict": options.max_tokens,
                "stop": list(options.stop),
            },
        }
        return self._generate(request)

    def _generate(self, request: dict[str, Any]) -> Iterator[Token]:
        with ollama_client(self.host) as client, self._missing_model_error():
            with closing(client.chat(**request, stream=True)) as parts:  # type: ignore[type-var]
                for part in parts:
                    yield from _tokens(part)
                    self.last.n_generated += 1
                    if part.done:
                        self.last = _stats(part)
                        return
            raise httpx.RemoteProtocolError("the reply ended before the answer did")

    @contextmanager
    def _missing_model_error(self) -> Iterator[None]:
        try:
            yield
        except ollama.ResponseError as error:
            if error.status_code != 404:
                raise
            raise OllamaError(
                f"Ollama has no model {self.name}: get it with `ollama pull {self.name}`"
            ) from error


def _options(sampling: Sampling) -> dict[str, Any]:
    """Sampling options under the server's names, which are llama.cpp's too."""
    values = {name: getattr(sampling, name) for name in SAMPLING_OPTIONS}
    return {name: value for name, value in values.items() if value is not None}


def _tokens(part: ollama.ChatResponse) -> Iterator[Token]:
    """The tokens of one line of the reply, which may hold several, or none."""
    text = part.message.content or ""
    given = part.logprobs or []
    if len(given) > 1 and "".join(entry.token for entry in given) == text:
        texts = [entry.token for entry in given]
    else:
        texts, given = [text] if text else [], given if len(given) == 1 else []
    for i, piece in enumerate(texts):
        if not given:
            yield Token(-1, piece, math.nan, [])
            continue
        others = given[i].top_logprobs or ()
        alternatives = [(other.token, math.exp(other.logprob)) for other in others]
        yield Token(-1, piece, math.exp(given[i].logprob), alternatives)


def _stats(end: ollama.ChatResponse) -> EngineStats:
    """What the last line of a reply counts."""
    reason: StopReason = "length" if end.done_reason == "length" else "stop"
    return EngineStats(
        n_read=end.prompt_eval_count or 0,
        prefill_seconds=((end.load_duration or 0) + (end.prompt_eval_duration or 0)) * NANO,
        n_generated=end.eval_count or 0,
        generate_seconds=(end.eval_duration or 0) * NANO,
        stop_reason=reason,
    )
