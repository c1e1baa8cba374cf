"""Measure what the gates compare: the candidate's losses, size and latency, and the champion's losses.

The candidate's losses come from `evaluate`. The champion is scored anew, on this run's test slice and features, as it
would perform tonight. Latency is measured here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tasks.core.errors import RunError
from tasks.core.snapshots import Snapshot
from tasks.domain.targets import TARGETS
from tasks.engines import boosting, tracking
from tasks.stages.evaluate.stage import Judged, model_bytes
from tasks.stages.register.gates import Champion, Measured

TARGET_TAG, UNTIL_TAG = "raymill.target", "raymill.trained_until"  # tags of a version
LATENCY_ROWS = (1, 1000)
WARM_UP, CALLS, LATENCY_S = 5, 200, 0.5  # predictions before timing; the most timed predictions and seconds


Judge = Callable[[bytes], Judged]  # a model's UBJ bytes, scored on the candidate's test slice


@dataclass(frozen=True)
class Candidate:
    """A model, the snapshots it was trained and scored on, and the run's other snapshots.

    snapshots: all of the run, by stage. about: lines for the model card, such as the data set.
    """

    model: Snapshot
    splits: Snapshot
    scores: Snapshot
    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

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
    def digests(self) -> dict[str, str]:
        """The digests of a decision's inputs."""
        return {"model": self.model.digest, "splits": self.splits.digest, "scores": self.scores.digest}


def measure(candidate: Candidate) -> Measured:
    """Collect the candidate's numbers: losses from evaluation, the model's size and latency."""
    scores, features = candidate.scores, candidate.features
    metric, measures = scores.facts["metric"], scores.facts["measures"]
    losses = {m: float(of[metric]["value"]) for m, of in measures.items() if metric in of}
    slices = {row["slice"]: (row["rows"], row["loss_tuned"]) for row in scores.read("slices").to_pylist()}
    data = model_bytes(candidate.model)
    booster = boosting.load_model(data)
    return Measured(
        loss=losses["tuned"],
        mean=losses.get("mean"),
        linear=losses.get("linear"),
        slices=slices,
        size_bytes=len(data),
        latency_ms={n: latency_ms(booster, first_rows(candidate, n), features) for n in LATENCY_ROWS},
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


def champion_score(candidate: Candidate, tracker: tracking.Tracker, name: str, champion: Any, judge: Judge) -> Champion:
    """Score the current champion on this run's test slice. What prevents it is returned as `problem`, not raised."""
    if champion is None:
        return Champion()
    version, target = str(champion.version), candidate.target

    def incomparable(why: str) -> Champion:
        return Champion(version, problem=f"version {version} {why}; to promote by hand: raymill models promote VERSION")

    if (other := champion.tags.get(TARGET_TAG, target)) != target:
        return incomparable(f"was trained for the target {other}, not {target}")
    try:
        booster = tracking.load_version(tracker.uri, name, version)
    except Exception as error:
        if tracking.is_outage(error):
            raise
        return incomparable(f"cannot be loaded ({error})")
    if unknown := sorted(set(booster.feature_names or []) - set(candidate.splits.facts["features"])):
        return incomparable(f"was trained on other features, such as {', '.join(unknown[:3])}")
    try:
        scores = judge(bytes(booster.save_raw("ubj")))
    except RunError as error:
        return incomparable(f"cannot be scored: {error.what}")
    until, ours = str(champion.tags.get(UNTIL_TAG, "")), candidate.trained_until
    seen = f"it learned from reviews until {until[:10]}, some of them in this test slice" if until > ours > "" else ""
    loss = scores.measures[TARGETS[target].metric]["value"]
    if loss is None:
        return incomparable("has no loss on these rows")
    return Champion(version, loss, scores.slices, note=seen)
