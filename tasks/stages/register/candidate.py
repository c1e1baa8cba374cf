"""The candidate and its numbers for the gates: losses from `evaluate`, and size and latency, measured here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tasks.core.digests import digest_of
from tasks.core.snapshots import Snapshot
from tasks.engines import boosting
from tasks.stages.evaluate.stage import model_bytes
from tasks.stages.register.gates import Measured, Proof

LATENCY_ROWS = (1, 1000)
WARM_UP, CALLS, LATENCY_S = 5, 200, 0.5  # predictions before timing; the most timed predictions and seconds


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
    scores, features = candidate.scores, candidate.features
    metric, measures = scores.facts["metric"], scores.facts["measures"]
    losses = {m: float(of[metric]["value"]) for m, of in measures.items() if metric in of}
    slices = {row["slice"]: (row["rows"], row["loss_tuned"]) for row in scores.read("slices").to_pylist()}
    booster = boosting.load_model(model_bytes(candidate.model))
    proof = candidate.proof.facts
    return Measured(
        loss=losses["tuned"],
        mean=losses.get("mean"),
        linear=losses.get("linear"),
        slices=slices,
        size_bytes=candidate.package.facts["bytes"],
        latency_ms={n: latency_ms(booster, first_rows(candidate, n), features) for n in LATENCY_ROWS},
        proof=Proof(proof["rows"], proof["missing"], proof["largest_difference"], proof["digests"]["packaged"]),
    )


def latency_ms(booster: Any, x: Any, features: Sequence[str]) -> float:
    """Time a warm prediction of (n, f) float32 rows by one thread; returns the median milliseconds."""
    # By default XGBoost wakes a thread per core for a single row: 60 ms and more if the cores are busy.
    booster.set_param({"nthread": 1})
    for _ in range(WARM_UP):
        boosting.predict(booster, x, features)
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < CALLS and (not taken or time.perf_counter() - began < LATENCY_S):
        start = time.perf_counter()
        boosting.predict(booster, x, features)
        taken.append(time.perf_counter() - start)
    return 1000 * median(taken)


def first_rows(candidate: Candidate, n: int) -> Any:
    """Return the first n rows of the test slice, (n, f) float32 with NaN for null, repeated if it has fewer."""
    parts: list[Any] = []
    features = candidate.features
    for file in candidate.splits.files("test"):
        for batch in pq.ParquetFile(file).iter_batches(n, columns=features):
            parts.append(np.column_stack([batch[name].to_numpy(zero_copy_only=False) for name in features]))
            if sum(map(len, parts)) >= n:
                break
        if sum(map(len, parts)) >= n:
            break
    rows = np.concatenate(parts).astype(np.float32)
    return rows[np.arange(n) % len(rows)]
