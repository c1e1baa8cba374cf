"""The candidate and its numbers for the gates: losses from `evaluate`, and size and latency, measured here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from tasks.core.digests import digest_of
from tasks.core.snapshots import Snapshot
from tasks.stages.package.review_model import ReviewModel
from tasks.stages.register.gates import Measured, Proof

LATENCY_ROWS = (1, 1000)
WARM_UP, CALLS, LATENCY_S = 2, 100, 0.3  # predictions before timing; the most timed predictions and seconds


@dataclass(frozen=True)
class Candidate:
    """A model, the snapshots it was trained and scored on, its package, the proof of it, the reference that its
    reviews are watched by, and the run's other ones.

    snapshots: all of the run, by stage. about: lines for the model card, such as the data set. dataset: its name.
    origin: its input, or "" if any input with this name is the same data set.
    """

    model: Snapshot
    splits: Snapshot
    scores: Snapshot
    package: Snapshot
    proof: Snapshot
    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    dataset: str = ""
    origin: str = ""
    reference: Snapshot | None = None

    @property
    def target(self) -> str:
        return str(self.scores.facts["target"])

    @property
    def features(self) -> list[str]:
        return list(self.model.facts["features"])

    @property
    def trained_until(self) -> str:
        """The time of the last training review, ISO 8601; "" if the split is not by time."""
        return str((self.splits.facts.get("borders") or {}).get("valid_until", ""))

    @property
    def identity(self) -> str:
        """The digest of what is registered: the package, and what `prove` and `reference` add to it."""
        added = [self.proof.digest, *([self.reference.digest] if self.reference else [])]
        return digest_of([self.package.digest, *added])

    @property
    def digests(self) -> dict[str, str]:
        """The digests of a decision's inputs."""
        decided_by = ("model", "splits", "scores", "package", "proof")
        return {name: getattr(self, name).digest for name in decided_by}


def measure(candidate: Candidate) -> Measured:
    """Collect the candidate's numbers: losses from evaluation, the model's size and latency."""
    scores = candidate.scores
    metric, measures = scores.facts["metric"], scores.facts["measures"]
    losses = {m: float(of[metric]["value"]) for m, of in measures.items() if metric in of}
    slices = {row["slice"]: (row["rows"], row["loss_tuned"]) for row in scores.read("slices").to_pylist()}
    proof = candidate.proof.facts
    return Measured(
        loss=losses["tuned"],
        mean=losses.get("mean"),
        linear=losses.get("linear"),
        slices=slices,
        size_bytes=candidate.package.facts["bytes"],
        latency_ms=latencies(candidate),
        proof=Proof(proof["rows"], proof["missing"], proof["largest_difference"], proof["digests"]["packaged"]),
    )


def latencies(candidate: Candidate) -> dict[int, float]:
    """Time the packaged model on raw reviews, those of its example, over and over; empty if it has none."""
    example = candidate.proof.read("example")
    if not example.num_rows:
        return {}
    model = ReviewModel.load(candidate.package.root)
    return {n: latency_ms(model.predict, example.take(np.arange(n) % example.num_rows)) for n in LATENCY_ROWS}


def latency_ms(predict: Callable[[Any], Any], reviews: Any) -> float:
    """Time warm predictions by one thread; returns the median milliseconds of all reviews at once."""
    for _ in range(WARM_UP):
        predict(reviews)
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < CALLS and (not taken or time.perf_counter() - began < LATENCY_S):
        start = time.perf_counter()
        predict(reviews)
        taken.append(time.perf_counter() - start)
    return 1000 * median(taken)
