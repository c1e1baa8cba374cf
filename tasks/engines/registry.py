"""The model registry: aliases, rollback, and an audit record of every decision.

    challenger   the newest version that was registered
    champion     the version in use: `models:/NAME@champion`
    previous     the version that `rollback` makes champion again

A tag of the registered model (CHAMPIONS) lists the versions that have been champion, in order: promoting adds one,
rolling back removes one, so rolling back twice goes two steps back. Other programs read the aliases.

Each decision is an MLflow run of its own, tagged with who, when, what and why, with all details in its `audit.json`.
The run starts before the aliases change and ends after: one that has not ended means that the change may not have
happened. Runs are added and never changed, and outlive the version and the registered model.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.core import locks
from tasks.core.errors import InputError, RegistryError
from tasks.engines.model_versions import all_versions, version_by_alias

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
CHAMPIONS = "raymill.champions"  # tag of the registered model: JSON list of versions, the champion last
KEPT_CHAMPIONS = 100
LOCK = "register.lock"  # below storage.root, for `one_at_a_time`
AUDIT = "raymill.audit"  # tag of an audit run: the registered model's name
DIGEST = "raymill.digest."  # prefix of the tags with the digests of a decision's inputs
PROMOTED = "raymill.promoted"  # tag of a version: true, false, "by hand" or "rolled back"
TOLD = ("action", "version", "from_version", "to_version", "who", "when", "reason")  # fields that are tags
# What can be decided.
PROMOTE, BLOCK, BY_HAND, ROLLBACK = "promote", "block", "promote by hand", "rollback"


@dataclass(frozen=True)
class Audit:
    """One decision. A missing version is ""; `finished` is False if the process died before its end."""

    action: str
    version: str
    from_version: str
    to_version: str
    who: str = ""
    when: str = ""
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    gates: Sequence[Mapping[str, Any]] = ()
    finished: bool = True
    run_id: str = ""

    def tags(self, name: str) -> dict[str, str]:
        return {
            AUDIT: name,
            "mlflow.user": self.who.partition("@")[0],
            "mlflow.note.content": self.reason,  # what MLflow's page shows as the run's description
            **{f"raymill.{k}": getattr(self, k) for k in TOLD},
            **{f"{DIGEST}{k}": v for k, v in self.digests.items()},
        }


def who() -> str:
    """Return user@host of this process."""
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a name for the user's number
        user = f"uid {os.getuid()}"
    return f"{user}@{platform.node()}"


def when(ms: float | None = None) -> str:
    """Format milliseconds since 1970, or the current time, as ISO 8601 in UTC."""
    moment = datetime.now(UTC) if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="seconds")


@contextmanager
def one_at_a_time(lock: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file while the block runs; call `waiting` if another process holds it.

    Two decisions at once would both compare with the old champion.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        if not locks.take(file, wait=False):
            waiting()
            locks.take(file)
        yield


@contextmanager
def audited(client: Any, experiment_id: str, name: str, decision: Audit, run_id: str | None = None) -> Iterator[str]:
    """Record a decision, run the block that makes it, mark it as done. `run_id`: the run for the record, else a new."""
    from mlflow.entities import Metric, RunTag

    tags = decision.tags(name)
    if run_id is None:
        title = f"{decision.action}: {name} version {decision.version}"
        run_id = str(client.create_run(experiment_id, run_name=title, tags=tags).info.run_id)
    else:
        client.log_batch(run_id, tags=[RunTag(k, v[:5000]) for k, v in tags.items()])
    if decision.metrics:
        at = int(datetime.now(UTC).timestamp() * 1000)
        client.log_batch(run_id, metrics=[Metric(k, v, at, 0) for k, v in decision.metrics.items()])
    record = {k: getattr(decision, k) for k in ("metrics", "digests", "gates")}
    client.log_dict(run_id, {"model": name, **tags, **record}, "audit.json")
    yield run_id
    client.set_terminated(run_id)


def history(client: Any, name: str) -> list[Audit]:
    """List all decisions on a registered model, the oldest first, from every experiment."""
    experiments = [e.experiment_id for e in client.search_experiments()]
    audits: list[Audit] = []
    token = None
    while True:
        query = f"tags.`{AUDIT}` = '{name}'"
        page = client.search_runs(experiments, query, max_results=1000, order_by=["start_time ASC"], page_token=token)
        audits += [_audit_of(run) for run in page]
        token = page.token
        if not token:
            return sorted(audits, key=lambda audit: audit.when)


def _audit_of(run: Any) -> Audit:
    tags = run.data.tags
    return Audit(
        **{k: tags.get(f"raymill.{k}", "") for k in TOLD},
        metrics=dict(run.data.metrics),
        digests=_digests(tags),
        finished=run.info.status == "FINISHED",
        run_id=run.info.run_id,
    )


def existing(client: Any, name: str) -> list[Any]:
    """List all versions in order. Raises RegistryError if there are none."""
    if versions := sorted(all_versions(client, name), key=lambda v: int(v.version)):
        return versions
    others = ", ".join(model.name for model in client.search_registered_models(max_results=20))
    raise RegistryError(
        f"no model {name} is registered yet" + (f"; there are {others}" if others else ""),
        fix="raymill run registers one; of another data set or target: --set data.name=NAME, features.target=NAME",
    )


def aliases(client: Any, name: str) -> dict[str, str]:
    """Return the versions by alias, for the three aliases above."""
    pairs = ((a, version_by_alias(client, name, a)) for a in (CHAMPION, CHALLENGER, PREVIOUS))
    return {alias: str(v.version) for alias, v in pairs if v is not None}


def make_champion(client: Any, name: str, version: str) -> None:
    """Move the aliases, the champion's first: if the process dies after it, `_champions` repairs the list."""
    line = _champions(client, name)
    client.set_registered_model_alias(name, CHAMPION, version)
    _keep(client, name, [*line, version])


def promote(client: Any, experiment_id: str, name: str, version: str) -> Audit | None:
    """Make a version the champion by hand; None if it is already. Raises InputError for an unknown version."""
    versions = {str(v.version): v for v in existing(client, name)}
    if version not in versions:
        raise InputError(f"no version {version} of {name}", fix=f"versions: {', '.join(versions)}")
    champion = aliases(client, name).get(CHAMPION, "")
    if champion == version:
        return None
    decision = _by_hand(BY_HAND, versions[version], champion)
    with audited(client, experiment_id, name, decision):
        client.set_model_version_tag(name, version, PROMOTED, "by hand")
        make_champion(client, name, version)
    return decision


def rollback(client: Any, experiment_id: str, name: str) -> Audit:
    """Make the previous champion the champion again. Raises RegistryError if there is none."""
    versions = {str(v.version): v for v in existing(client, name)}
    champion = aliases(client, name).get(CHAMPION, "")
    line = _champions(client, name)
    before = line[:-1] if champion else line  # the champion's version may have been deleted
    if not before:
        only = f"version {champion} is the only champion there was" if champion else "there never was a champion"
        raise RegistryError(
            f"nothing to roll back to: {only}", where=name, fix="raymill models promote VERSION makes one champion"
        )
    decision = _by_hand(ROLLBACK, versions[before[-1]], champion)
    with audited(client, experiment_id, name, decision):
        # The list first: a process that dies after it leaves the champion where it was, and the list mends itself.
        client.set_registered_model_tag(name, CHAMPIONS, json.dumps(before))
        if champion:
            client.set_model_version_tag(name, champion, PROMOTED, "rolled back")
        client.set_registered_model_alias(name, CHAMPION, before[-1])
        _keep(client, name, before)
    return decision


def _by_hand(action: str, version: Any, champion: str) -> Audit:
    """Return a person's decision, with the measures from the version's registration."""
    tags = version.tags
    metrics, gates = json.loads(tags.get("raymill.metrics", "{}")), json.loads(tags.get("raymill.gates", "[]"))
    number = str(version.version)
    return Audit(
        action,
        number,
        from_version=champion,
        to_version=number,
        who=who(),
        when=when(),
        reason="decided by hand",
        metrics=metrics,
        digests=_digests(tags),
        gates=gates,
    )


def _digests(tags: Mapping[str, str]) -> dict[str, str]:
    return {k.removeprefix(DIGEST): v for k, v in tags.items() if k.startswith(DIGEST)}


def _champions(client: Any, name: str) -> list[str]:
    """List the versions that have been champion and still exist, the champion last, none twice in a row."""
    recorded = client.get_registered_model(name).tags.get(CHAMPIONS, "[]")
    existing_versions = {str(v.version) for v in all_versions(client, name)}
    # Somebody may have moved the alias in MLflow itself, or have deleted versions there.
    champion = aliases(client, name).get(CHAMPION)
    line: list[str] = []
    for version in [*json.loads(recorded), *([champion] if champion else [])]:
        if version in existing_versions and version not in line[-1:]:
            line.append(version)
    return line


def _keep(client: Any, name: str, line: Sequence[str]) -> None:
    client.set_registered_model_tag(name, CHAMPIONS, json.dumps(list(line)[-KEPT_CHAMPIONS:]))
    if len(line) > 1:
        client.set_registered_model_alias(name, PREVIOUS, line[-2])
    elif PREVIOUS in aliases(client, name):
        client.delete_registered_model_alias(name, PREVIOUS)
