"""What ``/metrics`` shows, in Prometheus' text format; no label comes from what was sent."""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from registration.evidence.watch import Summary

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

_LOGS = {
    "logs_broken": "Tenants whose log is not what was written.",
    "logs_unwritten": "Tenants whose last checkpoint could not be written.",
    "checkpoint_failures": "Checkpoints that could not be written, ever.",
    "checkpoint_age_seconds": "Seconds since the log that was looked at the longest ago.",
}


class Metrics:
    """The measurements of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "registration_requests_total",
            "Requests answered.",
            ["operation", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "registration_request_seconds",
            "Seconds from a request's arrival to its last byte.",
            ["operation"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._mutations = Counter(
            "registration_mutations_total",
            "Queued writes that came through push, by what became of them.",
            ["operation", "status"],
            registry=self.registry,
        )
        self._queue = Gauge(
            "registration_append_queue",
            "Commands that wait for the event store.",
            registry=self.registry,
        )
        self._behind = Gauge(
            "registration_read_model_behind_events",
            "Events that a read model has not applied yet.",
            ["read_model"],
            registry=self.registry,
        )
        self._parked = Gauge(
            "registration_read_model_dead_letters",
            "Streams that a read model has set aside.",
            ["read_model"],
            registry=self.registry,
        )
        self._logs = {
            name: Gauge(f"registration_{name}", text, registry=self.registry)
            for name, text in _LOGS.items()
        }
        self._lost = Counter(
            "registration_access_log_lost_total",
            "Reads of patient data that the access log could not take.",
            registry=self.registry,
        )
        self._broken_glass = Counter(
            "registration_break_glass_total",
            "Answers with patient data to requests that said X-Break-Glass.",
            registry=self.registry,
        )
        self._reads = Gauge(
            "registration_access_log_queue",
            "Reads of patient data that are not written yet.",
            registry=self.registry,
        )
        self._children: dict[tuple[str, int], tuple[Any, Any]] = {}

    def request(self, operation: str, status: int, seconds: float) -> None:
        """Count one request."""
        children = self._children.get((operation, status))
        if children is None:
            children = self._children[(operation, status)] = (
                self._requests.labels(operation, str(status)),
                self._seconds.labels(operation),
            )
        children[0].inc()
        children[1].observe(seconds)

    def mutation(self, operation: str, status: str) -> None:
        """Count one mutation of a push."""
        self._mutations.labels(operation, status).inc()

    def lost_reads(self, count: int) -> None:
        """Count reads that were not recorded."""
        self._lost.inc(count)

    def broke_glass(self) -> None:
        """Count one answer to whoever broke the glass."""
        self._broken_glass.inc()

    def render(
        self,
        *,
        queued: int,
        unwritten: int,
        read_models: Iterable[Mapping[str, Any]],
        logs: Summary | None,
    ) -> bytes:
        """Return the page; ``read_models`` are rows with name, behind and deadLetters."""
        self._queue.set(queued)
        self._reads.set(unwritten)
        for row in read_models:
            self._behind.labels(row["name"]).set(row["behind"])
            self._parked.labels(row["name"]).set(row["deadLetters"])
        if logs is not None:
            values = (logs.broken, logs.unwritten, logs.failures, logs.age)
            for gauge, value in zip(self._logs.values(), values, strict=True):
                gauge.set(value)
        return generate_latest(self.registry)
