"""Register a scored model in MLflow, and decide whether it becomes the champion.

Every new model becomes `challenger`. It becomes `champion` only through the gates (`tasks.stages.register.gates`),
which compare it with the current champion on this run's test slice. The version keeps the decision, its numbers and the
model card (`tasks.stages.register.model_card`); an audit record says who decided what, when and on which data
(`tasks.engines.registry`).

A model that is registered already (same package, same proof) is not registered again. The decision is repeated only
if its scores or the gates have changed. A version that a person rolled back becomes champion again only by a person's
hand.

The state is the registry, not a snapshot, as the result depends on the current champion. If the process dies here, the
stage is simply run again: the tag DECIDED is written last.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.core import faults
from tasks.core.digests import digest_of
from tasks.core.errors import RegistryError
from tasks.core.sections import RegistryConfig
from tasks.engines import model_versions, registry, tracking
from tasks.stages.package import mlflow_model
from tasks.stages.register import model_card
from tasks.stages.register.candidate import Candidate, measure
from tasks.stages.register.champion_comparison import (
    DATASET_TAG,
    ORIGIN_TAG,
    TARGET_TAG,
    UNTIL_TAG,
    Judge,
    JudgePackage,
    champion_score,
)
from tasks.stages.register.gates import Champion, Gate, Measured, all_passed, judge_gates

DIGEST_TAG, IDENTITY_TAG = "raymill.model_digest", "raymill.identity"
KEYS_TAG = "raymill.snapshot_keys"  # JSON list of the snapshots that a version rests on
DECIDED = "raymill.decided"  # digest of the decision's inputs; set when all is done
DECISION_RUN = "raymill.decision_run"  # the MLflow run with the latest card
CARD = "model_card.md"
DESCRIPTION_CHARS = 5000  # the limit of MLflow's database


@dataclass(frozen=True)
class Decision:
    """The decision on a model, and why. `card` is the model card, in markdown; `audit` None for an earlier decision."""

    version: str
    promoted: bool
    gates: tuple[Gate, ...]
    reused: bool = False
    card: str = ""
    audit: registry.Audit | None = field(default=None, compare=False)

    def __str__(self) -> str:
        role = "champion" if self.promoted else "challenger"
        return f"version {self.version} is {role}: {self.reason}"

    @property
    def reason(self) -> str:
        if failed := [str(gate) for gate in self.gates if gate.passed is False]:
            return "; ".join(failed)
        return "passed " + (", ".join(gate.name for gate in self.gates if gate.passed) or "no gate, all are off")


def register(
    candidate: Candidate,
    config: RegistryConfig,
    tracker: tracking.Tracker,
    judge: Judge,
    judge_package: JudgePackage | None = None,
) -> Decision:
    """Register the model, decide, set the aliases.

    `judge` scores the champion, if there is one; `judge_package` one with other features. `gc` keeps
    `candidate.snapshots` for as long as the version exists. Raises RegistryError if MLflow is down; the next call
    continues from there.
    """
    try:
        with tracking.reaching(tracker.uri):
            return _register(candidate, config, tracker, judge, judge_package)
    except RegistryError as error:
        fix = f"{error.fix}; every stage is kept: start the run again, and it goes on here"
        raise RegistryError(error.what, where=error.where, fix=fix) from error


def _register(
    candidate: Candidate,
    config: RegistryConfig,
    tracker: tracking.Tracker,
    judge: Judge,
    judge_package: JudgePackage | None,
) -> Decision:
    client = tracker.client
    name = config.name_for(candidate.target, candidate.dataset)
    rests_on = digest_of({"scores": candidate.scores.digest, "gates": config.gates.model_dump(mode="json")})
    registered = model_versions.version_with_tag(client, name, IDENTITY_TAG, candidate.identity)
    champion = model_versions.version_by_alias(client, name, registry.CHAMPION)
    if registered is not None and _is_settled(registered, champion, rests_on):
        return _earlier(tracker, registered, champion)

    child = tracker.child("register", tags={DIGEST_TAG: candidate.model.digest})
    try:
        version = str(registered.version) if registered else _save(tracker, child, name, candidate)
        faults.point("register", "saved")
        client.set_registered_model_alias(name, registry.CHALLENGER, version)
        rival = champion_score(candidate, tracker, name, champion, judge, judge_package)
        measured = measure(candidate)
        gates = judge_gates(measured, rival, config.gates)
        decision = Decision(version, all_passed(gates), gates)
        decision = replace(decision, card=model_card.render(decision, name, candidate, measured, rival))
        audit = _record(tracker, child, name, decision, candidate, measured, rival)
        decision = replace(decision, audit=audit)
    except BaseException:
        with suppress(Exception):
            tracker.end(child, "FAILED")
        raise
    faults.point("register", "recorded")
    client.set_model_version_tag(name, version, DECIDED, rests_on)
    return decision


def _is_settled(version: Any, champion: Any, rests_on: str) -> bool:
    is_champion = champion is not None and champion.version == version.version
    by_hand = version.tags.get(registry.PROMOTED) in ("by hand", "rolled back")
    return is_champion or by_hand or version.tags.get(DECIDED) == rests_on


def _earlier(tracker: tracking.Tracker, version: Any, champion: Any) -> Decision:
    """Return the earlier decision on a registered version."""
    gates = tuple(Gate.from_json(values) for values in json.loads(version.tags.get("raymill.gates", "[]")))
    promoted = champion is not None and champion.version == version.version
    card = tracking.read_text(tracker.client, version.tags.get(DECISION_RUN, version.run_id), CARD)
    return Decision(str(version.version), promoted, gates, reused=True, card=card)


def _save(tracker: tracking.Tracker, run_id: str, name: str, candidate: Candidate) -> str:
    """Save the packaged model as a new version, tagged in the same request; returns the version."""
    tags = {
        DIGEST_TAG: candidate.model.digest,
        IDENTITY_TAG: candidate.identity,
        TARGET_TAG: candidate.target,
        UNTIL_TAG: candidate.trained_until,
        DATASET_TAG: candidate.dataset,
        ORIGIN_TAG: candidate.origin,
        KEYS_TAG: _keys(candidate),
        **{f"{registry.DIGEST}{k}": v for k, v in candidate.digests.items()},
    }
    with TemporaryDirectory() as folder:
        model = mlflow_model.gather(candidate.package, candidate.proof, Path(folder), candidate.reference)
        return str(model_versions.save_model(tracker, run_id, name, model, tags).version)


def _keys(candidate: Candidate) -> str:
    return json.dumps([snapshot.key for snapshot in candidate.snapshots.values()])


def _tags(decision: Decision, candidate: Candidate, measured: Measured, rival: Champion) -> dict[str, str]:
    """Return the version's tags about the decision."""
    losses = {"tuned": measured.loss, "mean": measured.mean, "linear": measured.linear, "champion": rival.loss}
    metrics = {f"{candidate.scores.facts['metric']}_{m}": v for m, v in losses.items() if v is not None}
    metrics |= {f"latency_ms_{rows}": v for rows, v in measured.latency_ms.items()}
    metrics["model_bytes"] = float(measured.size_bytes)
    return {
        KEYS_TAG: _keys(candidate),
        "raymill.metrics": json.dumps(metrics),
        "raymill.gates": json.dumps([gate.as_json() for gate in decision.gates]),
        "raymill.decision": decision.reason,
        registry.PROMOTED: str(decision.promoted).lower(),
    }


def _record(
    tracker: tracking.Tracker,
    run_id: str,
    name: str,
    decision: Decision,
    candidate: Candidate,
    measured: Measured,
    rival: Champion,
) -> registry.Audit:
    """Write card, tags and audit record, and the alias last: whoever loads `champion` finds all of them."""
    client, version = tracker.client, decision.version
    tags = {**_tags(decision, candidate, measured, rival), DECISION_RUN: run_id}
    client.log_text(run_id, decision.card, CARD)
    client.update_model_version(name, version, model_card.shortened(decision.card, DESCRIPTION_CHARS, CARD))
    audit = registry.Audit(
        registry.PROMOTE if decision.promoted else registry.BLOCK,
        version,
        from_version=rival.version,
        to_version=version if decision.promoted else rival.version,
        who=registry.who(),
        when=registry.when(),
        reason=str(decision),
        metrics=json.loads(tags["raymill.metrics"]),
        digests=candidate.digests,
        gates=[gate.as_json() for gate in decision.gates],
    )
    with registry.audited(client, tracker.experiment_id, name, audit, run_id):
        for tag, value in tags.items():
            client.set_model_version_tag(name, version, tag, value)
        if decision.promoted:
            registry.make_champion(client, name, version)
    return audit
