"""Compare two snapshots of a stage: rows, columns, distributions, facts, and what they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tasks.algorithms.column_shifts import Shift, shifts
from tasks.core.changes import Change, changes
from tasks.core.errors import UserError
from tasks.core.secrets import masked_within
from tasks.core.snapshots import Manifest, Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.stages import declared_stages


@dataclass(frozen=True)
class Value:
    """A count or fact that differs; None where one side has none."""

    name: str
    a: Any
    b: Any

    @property
    def apart(self) -> float:
        """How far numbers are apart, as a share of the larger; 1 for anything else."""
        if not (_is_number(self.a) and _is_number(self.b)):
            return 1.0
        return float(abs(self.b - self.a) / max(abs(self.a), abs(self.b)))


@dataclass(frozen=True)
class TableDiff:
    """How one table differs; None as rows: the snapshot has no such table. `retyped`: column: (type, type)."""

    name: str
    rows: tuple[int | None, int | None]
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    retyped: Mapping[str, tuple[str, str]] | None = None
    shifts: tuple[Shift, ...] = ()
    same: bool = False


@dataclass(frozen=True)
class SnapshotDiff:
    """How two snapshots of a stage differ; values, shifts and facts the most different first."""

    a: Manifest
    b: Manifest
    changes: tuple[Change, ...]
    tables: tuple[TableDiff, ...] = ()
    values: tuple[Value, ...] = ()
    files: tuple[str, ...] = ()  # that are no tables

    def as_json(self) -> dict[str, Any]:
        about = {
            side: {n: getattr(of, n) for n in ("stage", "digest", "key", "committed_at", "seconds")}
            for side, of in (("a", self.a), ("b", self.b))
        }
        return {
            **about,
            "same": self.a.digest == self.b.digest,
            "changes": [change.as_json() for change in self.changes],
            "tables": [asdict(table) for table in self.tables],
            "values": masked_within([asdict(value) for value in self.values]),
            "files": list(self.files),
        }


def compare_snapshots(store: SnapshotStore, a: Manifest, b: Manifest) -> SnapshotDiff:
    """Compare two snapshots; a bucket's are fetched. Raises UserError if they are of different stages."""
    if a.stage != b.stage:
        raise UserError(
            "snapshots of different stages have different columns, and are not compared",
            where=f"{a.stage}@{a.digest[:12]}, {b.stage}@{b.digest[:12]}",
            fix="give two of one stage",
        )
    stage = declared_stages().get(a.stage)
    made = tuple(changes(a, b, stage.section if stage else ""))
    if a.digest == b.digest:
        return SnapshotDiff(a, b, made)
    before, after = (_found(store, manifest) for manifest in (a, b))
    tables = dict.fromkeys([*a.schemas, *b.schemas])
    return SnapshotDiff(
        a,
        b,
        made,
        tuple(_table(name, before, after) for name in tables),
        tuple(sorted(_values(a, b), key=lambda value: (-value.apart, value.name))),
        tuple(sorted(_differing_files(a, b))),
    )


def _found(store: SnapshotStore, manifest: Manifest) -> Snapshot:
    found = store.find(manifest.stage, manifest.key)
    if found is None:
        raise UserError("it was removed a moment ago", where=f"{manifest.stage}@{manifest.digest[:12]}")
    return found


def _table(name: str, a: Snapshot, b: Snapshot) -> TableDiff:
    before, after = ([(e.name, e.sha256) for e in side.entries(name)] for side in (a, b))
    rows = (a.rows(name) if before else None, b.rows(name) if after else None)
    if before == after:
        return TableDiff(name, rows, same=True)
    if None in rows:
        return TableDiff(name, rows)
    types = [dict(line.split(": ", 1) for line in side.manifest.schemas[name]) for side in (a, b)]
    common = [column for column in types[0] if column in types[1]]
    retyped = {c: (types[0][c], types[1][c]) for c in common if types[0][c] != types[1][c]}
    return TableDiff(
        name,
        rows,
        added=tuple(c for c in types[1] if c not in types[0]),
        dropped=tuple(c for c in types[0] if c not in types[1]),
        retyped=retyped,
        shifts=tuple(shifts(a.files(name), b.files(name), common)),
    )


def _differing_files(a: Manifest, b: Manifest) -> Iterator[str]:
    before, after = ({e.name: e.sha256 for e in side.files if e.rows is None} for side in (a, b))
    yield from (name for name in {*before, *after} if before.get(name) != after.get(name))


def _values(a: Manifest, b: Manifest) -> Iterator[Value]:
    before, after = ({**side.counts, **dict(_flat(side.facts))} for side in (a, b))
    for name in {*before, *after}:
        if before.get(name) != after.get(name):
            yield Value(name, before.get(name), after.get(name))


def _flat(facts: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
