"""Score the champion anew, on the candidate's test slice and features, as it would perform tonight."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.core.errors import InputError, RunError
from tasks.domain.targets import TARGETS
from tasks.engines import boosting, model_versions, registry, tracking
from tasks.stages.evaluate.stage import Judged
from tasks.stages.package.layout import MODEL
from tasks.stages.register.candidate import Candidate
from tasks.stages.register.gates import Champion

# Tags of a version.
TARGET_TAG, UNTIL_TAG = "raymill.target", "raymill.trained_until"
PACKAGE_TAG = f"{registry.DIGEST}package"
DATASET_TAG, ORIGIN_TAG = "raymill.dataset", "raymill.input"
Judge = Callable[[bytes], Judged]  # a model's UBJ bytes, scored on the candidate's test slice
JudgePackage = Callable[[Path], Judged]  # the same of a model with other features, by the folder of its package


def champion_score(
    candidate: Candidate,
    tracker: tracking.Tracker,
    name: str,
    champion: Any,
    judge: Judge,
    judge_package: JudgePackage | None = None,
) -> Champion:
    """Score the current champion on this run's test slice. What prevents it is returned as `problem`, not raised.

    Where the judge compares both models row by row, this champion's earlier comparisons are counted, too.
    """
    if champion is None:
        return Champion()
    version, target = str(champion.version), candidate.target

    def incomparable(why: str) -> Champion:
        return Champion(version, problem=f"version {version} {why}; to promote by hand: raymill models promote VERSION")

    if (other := champion.tags.get(TARGET_TAG, target)) != target:
        return incomparable(f"was trained for the target {other}, not {target}")
    if (other := champion.tags.get(DATASET_TAG, candidate.dataset)) != candidate.dataset:
        return incomparable(f"belongs to the data set {other}, not {candidate.dataset}")
    if not alike(other := str(champion.tags.get(ORIGIN_TAG, "")), candidate.origin):
        name_it = "a data set with a name of its own has models of its own: --set data.name=NAME"
        return incomparable(f"learned from another input, {other} ({name_it})")
    try:
        booster = load_booster(tracker.uri, name, champion)
    except Exception as error:
        if tracking.is_outage(error):
            raise
        return incomparable(f"cannot be loaded ({error})")
    unknown = sorted(set(booster.feature_names or []) - set(candidate.splits.facts["features"]))
    if unknown and (judge_package is None or PACKAGE_TAG not in champion.tags):
        return incomparable(f"was trained on other features, such as {', '.join(unknown[:3])}")
    try:
        if unknown and judge_package is not None:
            with TemporaryDirectory(dir=candidate.splits.folder) as folder:
                scores = judge_package(model_versions.fetch(tracker.uri, name, version, Path(folder)))
        else:
            scores = judge(bytes(booster.save_raw("ubj")))
    except (RunError, InputError) as error:
        return incomparable(f"cannot be scored: {error.what}")
    until, ours = str(champion.tags.get(UNTIL_TAG, "")), candidate.trained_until
    seen = f"it learned from reviews until {until[:10]}, some of them in this test slice" if until > ours > "" else ""
    if unknown:
        seen = "; ".join(filter(None, (f"by its own features, such as {unknown[0]}, which know nothing newer", seen)))
    loss = scores.measures[TARGETS[target].metric]["value"]
    if loss is None:
        return incomparable("has no loss on these rows")
    earlier = 0 if scores.difference is None else comparisons(tracker.client, name, version)
    return Champion(version, loss, scores.slices, note=seen, difference=scores.difference, earlier=earlier)


def load_booster(uri: str, name: str, version: Any) -> Any:
    """Load the trees of a version; one from before there were packages holds nothing else."""
    if PACKAGE_TAG not in version.tags:
        return model_versions.load_xgboost(uri, name, str(version.version))
    with TemporaryDirectory() as folder:
        file = model_versions.fetch(uri, name, str(version.version), Path(folder), MODEL)
        return boosting.load_model(file.read_bytes())


def alike(origin: str, other: str) -> bool:
    """Tell whether two inputs may be of one data set: one is not known, or they share a path but for its numbers."""
    paths, others = ({re.sub(r"\d+", "0", path) for path in text.split(", ")} for text in (origin, other))
    return not origin or not other or bool(paths & others)


def comparisons(client: Any, name: str, champion: str) -> int:
    """Count the decisions by gates while this version was the champion, also those that it lost before a rollback."""
    decided = (registry.BLOCK, registry.PROMOTE)
    return sum(a.action in decided and a.from_version == champion for a in registry.history(client, name))
