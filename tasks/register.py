"""A scored model into the MLflow registry, and the decision whether it becomes the champion.

Every new model becomes `challenger`. It becomes `champion` only if it beats predict-the-mean by the margin in conf and
the champion of the day by the margin in conf, both on this run's test slice. The decision and its numbers are kept as
tags of the model version. A model that is registered already (same snapshot digest) is not registered again.

The registry is the state here, not a snapshot: what is right depends on who is champion tonight.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.core.settings import RegistryConfig
from tasks.core.snapshots import Snapshot
from tasks.engines import boosting, cluster, tracking
from tasks.evaluate import model_bytes

DIGEST_TAG = "raymill.model_digest"


@dataclass(frozen=True)
class Decision:
    """What became of a model, and why."""

    version: str
    promoted: bool
    reasons: tuple[str, ...]
    reused: bool = False

    def __str__(self) -> str:
        role = "champion" if self.promoted else "challenger"
        return f"version {self.version} is {role}: {'; '.join(self.reasons)}"


def decide(
    candidate_rmse: float, mean_rmse: float, champion_rmse: float | None, champion_problem: str, config: RegistryConfig
) -> tuple[bool, tuple[str, ...]]:
    """Apply the gates. Lower RMSE is better; a margin is a share of the rival's RMSE."""
    gates = [_gate("predict-the-mean", candidate_rmse, mean_rmse, config.min_gain_over_mean)]
    if champion_rmse is not None:
        gates.append(_gate("the champion", candidate_rmse, champion_rmse, config.min_gain_over_champion))
    elif champion_problem:
        gates.append((False, f"the champion cannot be compared: {champion_problem}"))
    return all(passed for passed, _ in gates), tuple(text for _, text in gates)


def _gate(rival: str, candidate: float, other: float, margin: float) -> tuple[bool, str]:
    limit = other * (1 - margin)
    passed = candidate < limit
    verdict = "beats" if passed else "does not beat"
    return passed, f"RMSE {candidate:.4f} {verdict} {rival} ({other:.4f}) by the margin of {margin:.1%}"


def register(
    splits: Snapshot,
    model: Snapshot,
    scores: Snapshot,
    config: RegistryConfig,
    tracker: tracking.Tracker,
    keys: list[str],
) -> Decision:
    """Register `model` and set the aliases. `keys` are the run's snapshot keys, kept so that `gc` spares them."""
    client, name = tracker.client, config.model_name
    if found := tracking.version_with_tag(client, name, DIGEST_TAG, model.digest):
        champion = tracking.version_by_alias(client, name, "champion")
        promoted = champion is not None and champion.version == found.version
        reasons = tuple(json.loads(found.tags.get("raymill.decision", "[]")))
        return Decision(str(found.version), promoted, reasons, reused=True)

    features = list(model.facts["features"])
    child = tracker.child("register", tags={DIGEST_TAG: model.digest})
    example = pd.DataFrame(_first_rows(splits, features), columns=features)
    booster = boosting.load_model(model_bytes(model))
    version = tracking.save_model(tracker, child, name, booster, example, {DIGEST_TAG: model.digest}).version
    client.set_registered_model_alias(name, "challenger", version)

    rmse = scores.facts["rmse"]
    champion_rmse, problem = champion_score(splits, config, tracker)
    promoted, reasons = decide(rmse["tuned"], rmse["mean"], champion_rmse, problem, config)
    tags = {
        DIGEST_TAG: model.digest,
        "raymill.snapshot_keys": json.dumps(keys),
        "raymill.test_digest": scores.digest,
        "raymill.decision": json.dumps(reasons),
        "raymill.promoted": str(promoted).lower(),
    }
    for tag, value in tags.items():
        client.set_model_version_tag(name, version, tag, value)
    # The alias last: whoever loads `champion` finds a version with its records complete.
    if promoted:
        client.set_registered_model_alias(name, "champion", version)
    gained = {
        "rmse": rmse["tuned"],
        "rmse_mean": rmse["mean"],
        **({"rmse_champion": champion_rmse} if champion_rmse else {}),
    }
    tracker.log(child, metrics=gained, tags=tags)
    tracker.end(child)
    return Decision(str(version), promoted, reasons)


def champion_score(splits: Snapshot, config: RegistryConfig, tracker: tracking.Tracker) -> tuple[float | None, str]:
    """The champion's RMSE on this test slice, or None and why there is none ("" where there is no champion)."""
    champion = tracking.version_by_alias(tracker.client, config.model_name, "champion")
    if champion is None:
        return None, ""
    booster = tracking.load_version(tracker.uri, config.model_name, champion.version)
    features = list(splits.facts["features"])
    if booster.feature_names != features:
        return None, (
            f"version {champion.version} was trained on other features; "
            f"to promote by hand: raymill models promote VERSION"
        )
    import ray

    data = ray.put(bytes(booster.save_raw("ubj")))
    squared = ray.remote(_squared_error)
    sums = cluster.gather(squared.remote(f, data, features) for f in splits.files("test"))
    return float((sum(s for s, _ in sums) / sum(n for _, n in sums)) ** 0.5), ""


def _squared_error(file: Any, model: bytes, features: list[str]) -> tuple[float, int]:
    ((x, y),) = boosting.batches([file], features)
    error = boosting.predict(boosting.load_model(model), x, features).astype(np.float64) - y
    return float(error @ error), len(y)


def _first_rows(splits: Snapshot, features: list[str]) -> Any:
    x, _ = next(boosting.batches(splits.files("test")[:1], features))
    return x[:5]
