"""The numbers of a replica, for Prometheus to read at `/metrics`."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest

from flows.serve.reviews import Prediction

SECONDS = (0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
REVIEWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
DIFFERENCES = (1e-6, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)


class Measures:
    """Counters of its own, not the process's: Ray and Prefect fill that one."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("raymill_requests", "Requests by path and status", ["path", "status"], registry=own)
        self.seconds = Histogram(
            "raymill_predict_seconds", "From a request's head to its answer", buckets=SECONDS, registry=own
        )
        self.reviews = Counter("raymill_reviews", "Reviews, scored or not", ["outcome"], registry=own)
        self.batches = Histogram("raymill_batch_reviews", "Reviews predicted at once", buckets=REVIEWS, registry=own)
        self.waiting = Gauge("raymill_waiting_reviews", "Reviews that wait or are predicted", registry=own)
        self.champion = Gauge("raymill_champion", "1 for the version served", ["model", "version"], registry=own)
        self.swaps = Counter("raymill_swaps", "Versions that took over", registry=own)
        self.registry_up = Gauge("raymill_registry_up", "1 if the registry answered last time", registry=own)
        self.shadow = Counter("raymill_shadow_reviews", "Reviews of the shadow", ["outcome"], registry=own)
        self.shadow_gap = Histogram(
            "raymill_shadow_difference", "Between shadow and champion, absolute", buckets=DIFFERENCES, registry=own
        )
        self.shadow_signed = Summary("raymill_shadow_minus_champion", "Shadow minus champion", registry=own)

    def predicted(self, found: Sequence[Sequence[Prediction]]) -> None:
        """Count a batch."""
        rows = [row for request in found for row in request]
        failed = sum(row.problem is not None for row in rows)
        self.batches.observe(len(rows))
        self.reviews.labels("scored").inc(len(rows) - failed)
        self.reviews.labels("unscored").inc(failed)

    def serves(self, model: str, version: str) -> None:
        """Tell the version that has taken over."""
        self.champion.clear()
        self.champion.labels(model, version).set(1)
        self.swaps.inc()

    def page(self) -> bytes:
        return generate_latest(self.registry)
