"""`raymill models`: list registered models and their history; promote and roll back by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group

from flows.cli.options import JsonOption, ProfileOption, SetOption, console, write_json
from flows.cli.tables import NotedRow, noted_table

if TYPE_CHECKING:
    from tasks.engines.registry import Audit
    from tasks.settings import Settings

models_app = typer.Typer(no_args_is_help=True, help="List, promote and roll back registered models.")


@dataclass(frozen=True)
class Registry:
    """A connection to the registry, the model's name there and the experiment of its audit records."""

    client: Any
    name: str
    experiment: str
    settings: Settings

    @property
    def experiment_id(self) -> str:
        """Return the experiment's id; create it if missing, since a registered model may come from elsewhere."""
        existing = self.client.get_experiment_by_name(self.experiment)
        return str(existing.experiment_id if existing else self.client.create_experiment(self.experiment))


@contextmanager
def _registry(overrides: list[str] | None, profile: str | None, *, changing: bool = False) -> Iterator[Registry]:
    """Connect to the registry. `changing`: keep runs from registering meanwhile.

    Raises RegistryError if MLflow is down, or has no database yet.
    """
    from tasks.core.errors import RegistryError
    from tasks.engines import registry, tracking
    from tasks.settings import load_settings

    settings = load_settings(profile=profile, overrides=overrides or [])
    uri = tracking.tracking_uri(settings.tracking)
    name = settings.registry.name_for(settings.features.target, settings.data.called)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise RegistryError(  # connecting would make an empty database
            f"no model {name} is registered yet: there is no database", where=uri, fix="raymill run registers one"
        )
    lock = settings.storage.path / registry.LOCK
    with tracking.reaching(uri), registry.one_at_a_time(lock) if changing else nullcontext():
        yield Registry(tracking.connect(uri), name, settings.tracking.experiment, settings)


def _tell(at: Registry, decision: Audit) -> None:
    from flows.run.registry_events import tell

    if problem := tell(at.settings, at.name, decision):
        console.print(f"no notification: {problem}", style="yellow", highlight=False, soft_wrap=True)


@models_app.command("list")
def models_list(overrides: SetOption = None, profile: ProfileOption = None, json_file: JsonOption = None) -> None:
    """List the registered model's versions, with aliases, losses on their test slices and the decision on each.

    It is the model of the data set and the target in the settings; for others give --set data.name=NAME or
    data.dataset=PROFILE, and --set features.target=NAME.
    """
    from tasks.engines import registry

    with _registry(overrides, profile) as at:
        found = registry.existing(at.client, at.name)
        held = registry.aliases(at.client, at.name)
    rows = []
    for version in found:
        measured = json.loads(version.tags.get("raymill.metrics", "{}"))
        losses = {k: v for k, v in measured.items() if not k.startswith(("latency_", "model_"))}
        rows.append(
            {
                "version": str(version.version),
                "aliases": [alias for alias, held_by in held.items() if held_by == str(version.version)],
                "made": registry.when(version.creation_timestamp),
                "losses": losses,
                "promoted": version.tags.get(registry.PROMOTED, ""),
                "decision": version.tags.get("raymill.decision", ""),
            }
        )
    if json_file:
        write_json(json_file, rows)
        return
    console.print(at.name, highlight=False, markup=False)
    console.print(version_table(rows))


def version_table(rows: Sequence[Mapping[str, Any]]) -> Group:
    """Return a table with a row for each version, and below it its losses and the decision on it."""
    shown = []
    for row in rows:
        losses = ", ".join(f"{name.partition('_')[2]} {value:.4f}" for name, value in row["losses"].items())
        cells = [row["version"], ", ".join(row["aliases"]), row["made"], row["promoted"]]
        shown.append(NotedRow(cells, [note for note in (losses, row["decision"]) if note]))
    return noted_table(["version", "alias", "made", "promoted"], shown)


@models_app.command("promote")
def models_promote(
    version: Annotated[str, typer.Argument(help="The version to make champion.")],
    overrides: SetOption = None,
    profile: ProfileOption = None,
) -> None:
    """Make a version the champion by hand, whatever the gates decided. The old champion gets the alias `previous`."""
    from tasks.engines import registry

    with _registry(overrides, profile, changing=True) as at:
        done = registry.promote(at.client, at.experiment_id, at.name, version)
    if done is None:
        console.print(f"version {version} of {at.name} is champion already", highlight=False, soft_wrap=True)
        return
    _tell(at, done)
    before = f", before it version {done.from_version} was" if done.from_version else ""
    console.print(f"version {version} of {at.name} is champion{before}", highlight=False, soft_wrap=True)


@models_app.command("rollback")
def models_rollback(overrides: SetOption = None, profile: ProfileOption = None) -> None:
    """Make the previous champion champion again; a second rollback goes back one more."""
    from tasks.engines import registry

    with _registry(overrides, profile, changing=True) as at:
        done = registry.rollback(at.client, at.experiment_id, at.name)
    _tell(at, done)
    gone = f", version {done.from_version} no longer" if done.from_version else ""
    console.print(f"version {done.to_version} of {at.name} is champion again{gone}", highlight=False, soft_wrap=True)


@models_app.command("history")
def models_history(overrides: SetOption = None, profile: ProfileOption = None, json_file: JsonOption = None) -> None:
    """List every decision on the registered model, oldest first: when, who, what, from and to which version, and why.

    Each is an MLflow run of its own, with metrics, digests and gates in its audit.json.
    """
    from tasks.engines import registry

    with _registry(overrides, profile) as at:
        found = registry.history(at.client, at.name)
    if json_file:
        write_json(json_file, [asdict(audit) for audit in found])
        return
    if not found:
        console.print(f"there is no decision on {at.name} yet", highlight=False)
        return
    console.print(at.name, highlight=False, markup=False)
    console.print(audit_table(found))


def audit_table(audits: Sequence[Audit]) -> Group:
    """Return a table with a row for each decision, and below it who took it and why."""
    rows = []
    for audit in audits:
        step = f"{audit.from_version or 'none'} → {audit.to_version or 'none'}"
        why = f"{audit.who}: {audit.reason}{'' if audit.finished else ' (not finished)'}"
        rows.append(NotedRow([audit.when, audit.action, audit.version, step], [why]))
    return noted_table(["when", "action", "version", "champion"], rows)
