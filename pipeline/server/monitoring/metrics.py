"""The metrics that Prometheus reads at /metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from reellama.pipeline.llm.batching.generation_job import GenerationStats
from reellama.pipeline.server.admission.admission_controller import AdmissionController

BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)  # seconds


class Metrics:
    """The server's metrics, in a registry of their own: several servers may share a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry: Any = {"registry": self.registry}
        self._requests = Counter(
            "reellama_requests", "Requests by route and status.", ["route", "status"], **registry
        )
        self._seconds = Histogram(
            "reellama_request_seconds",
            "Seconds until a response began.",
            ["route"],
            buckets=BUCKETS,
            **registry,
        )
        self._prompt = Counter(
            "reellama_prompt_tokens", "Positions of prompts.", ["from_cache"], **registry
        )
        self._generated = Counter("reellama_generated_tokens", "Tokens generated.", **registry)
        self._videos = Counter(
            "reellama_videos",
            "Pictures and videos by where they were found.",
            ["found"],
            **registry,
        )
        self._active = Gauge("reellama_active_requests", "Answers that run or wait.", **registry)
        self._waiting = Gauge("reellama_queue_requests", "Those that wait.", **registry)
        self._queue = Counter("reellama_queue_seconds", "Seconds that answers waited.", **registry)
        self._prefill = Counter(
            "reellama_prefill_seconds", "Seconds of reading prompts.", **registry
        )
        self._decode = Counter("reellama_decode_seconds", "Seconds of writing answers.", **registry)
        self._dropped = Counter(
            "reellama_dropped_requests",
            "Requests without an answer, or the whole of it, by reason.",
            ["reason"],
            **registry,
        )

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request, and the seconds until its response began."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_lookup(self, result: str) -> None:
        """Count a lookup in the cache of soft tokens: "memory", "disk" or "miss"."""
        self._videos.labels(result).inc()

    def count_answer(self, stats: GenerationStats) -> None:
        """Count an answer's tokens and seconds."""
        self._prompt.labels("yes").inc(stats.reused_tokens)
        self._prompt.labels("no").inc(stats.prompt_tokens - stats.reused_tokens)
        self._generated.inc(stats.generated_tokens)
        self._queue.inc(stats.queue_seconds)
        self._prefill.inc(stats.prompt_seconds)
        self._decode.inc(stats.generate_seconds)

    def count_dropped(self, reason: str) -> None:
        """Count a request without a whole answer: "busy", "client" or "unfinished"."""
        self._dropped.labels(reason).inc()

    def watch_admission(self, admission: AdmissionController) -> None:
        """Read from `admission` how many answers run or wait."""
        self._active.set_function(lambda: admission.n_admitted)
        self._waiting.set_function(lambda: admission.n_waiting)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
