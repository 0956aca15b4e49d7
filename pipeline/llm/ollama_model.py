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
# The server may have to load a large model from a slow disk before its first token.
TIMEOUT = httpx.Timeout(600, connect=5)
NANO = 1e-9  # the server counts nanoseconds

Message = Mapping[str, Any]  # "role", "content", and perhaps "images": JPEG or PNG, as bytes


class OllamaError(ReellamaError):
    """The server does not answer, has no such model, or did not finish its answer."""


@contextmanager
def ollama_client(host: str | None = None) -> Iterator[ollama.Client]:
    """A client of the server, whose errors are raised as OllamaError."""
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
        if error.error.lstrip().startswith("<"):  # an HTML page
            raise _not_ollama_error(shown) from error
        raise OllamaError(f"the Ollama server at {shown} says: {error.error}") from error
    # An invalid host, or a reply that is not JSON or not of Ollama's shape.
    except (httpx.InvalidURL, ValueError) as error:
        raise _not_ollama_error(shown) from error


def _not_ollama_error(shown: str) -> OllamaError:
    return OllamaError(
        f"what answers at {shown} is no Ollama server: say in OLLAMA_HOST where it is"
    )


class OllamaModel:
    """The model `name` of the Ollama server at `host`, which is contacted on first use.

    `last` has the statistics of the last answer.
    """

    def __init__(self, name: str, host: str | None = None) -> None:
        self.name = name
        self.host = host
        self.last = EngineStats()

    @cached_property
    def capabilities(self) -> frozenset[str]:
        """The model's capabilities, by Ollama's names: "completion", "vision", "thinking", ...

        Raises OllamaError if the server does not answer or has no such model.
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

        `p` is nan if the server gives no probabilities, and ids are -1. Closing the iterator ends
        the answer on the server too. Raises OllamaError, also while it yields tokens.
        """
        self.last = EngineStats()
        options = GenerationOptions(sampling, max_tokens, stop, n_probs)
        if sampling.grammar is not None:
            raise OllamaError("an Ollama server takes no GBNF grammar: give it a JSON schema")
        request: dict[str, Any] = {
            "model": self.name,
            "messages": list(messages),
            "format": sampling.json_schema,
            # Reasoning would use up max_tokens before the answer begins.
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
    """The tokens of one part of the reply, which may be several or none."""
    text = part.message.content or ""
    logprobs = part.logprobs or []
    if len(logprobs) > 1 and "".join(entry.token for entry in logprobs) == text:
        texts = [entry.token for entry in logprobs]
    else:
        texts, logprobs = [text] if text else [], logprobs if len(logprobs) == 1 else []
    for i, token_text in enumerate(texts):
        if not logprobs:
            yield Token(-1, token_text, math.nan, [])
            continue
        others = logprobs[i].top_logprobs or ()
        alternatives = [(other.token, math.exp(other.logprob)) for other in others]
        yield Token(-1, token_text, math.exp(logprobs[i].logprob), alternatives)


def _stats(end: ollama.ChatResponse) -> EngineStats:
    """The statistics in the last part of a reply."""
    reason: StopReason = "length" if end.done_reason == "length" else "stop"
    return EngineStats(
        n_read=end.prompt_eval_count or 0,
        prefill_seconds=((end.load_duration or 0) + (end.prompt_eval_duration or 0)) * NANO,
        n_generated=end.eval_count or 0,
        generate_seconds=(end.eval_duration or 0) * NANO,
        stop_reason=reason,
    )
