"""Snapshots made by hand, and stages run on them without Prefect or tracking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import Stage, StageRun, run_stage
from tasks.core.storage.store import SnapshotStore
from tasks.domain.schemas import REVIEWS
from tasks.engines.expectations import Validators
from tasks.engines.suites import load_suite
from tasks.settings import Settings, load_settings
from tasks.stages.features.stage import KEPT, SLICED_BY
from tasks.stages.near_duplicates import NEAR_DUPLICATES

NOTHING_KNOWN: dict[str, Any] = {
    "inputs": (),
    "config": {},
    "config_digest": "",
    "code": {},
    "deterministic": True,
    "seconds": {},
    "committed_at": "",
}


def put(
    store: SnapshotStore,
    name: str,
    tables: Mapping[str, Sequence[pa.Table]],
    *,
    facts: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Snapshot:
    """Commit these tables (each a list of parts) and files as the output of a stage called `name`."""
    out = store.open_attempt(name, f"{name}-by-hand")
    for table, parts in tables.items():
        for i, part in enumerate(parts):
            out.write_table(part_name(i, table), part)
    for file, data in (files or {}).items():
        out.write_bytes(file, data)
    out.fact(**(facts or {}))
    return store.commit(out, **NOTHING_KNOWN)


def put_reviews(store: SnapshotStore, *parts: Sequence[Mapping[str, Any]]) -> Snapshot:
    """Clean reviews, one file per part; columns that a row leaves out get plain values."""
    plain = {"title": "", "text": "", "rating": 3.0, "user_id": "u", "item_id": "i"}
    tables, number = [], 0
    for part in parts:
        rows = [{"review_id": f"R{number + i}", **plain, **row} for i, row in enumerate(part)]
        number += len(rows)
        tables.append(pa.Table.from_pylist(rows, schema=REVIEWS))
    return put(store, "clean", {"": tables})


def put_features(store: SnapshotStore, *parts: Sequence[Mapping[str, Any]]) -> Snapshot:
    """A feature table of the column `a`, one file per part; columns that a row leaves out get plain values."""
    schema = pa.schema(
        [
            *(REVIEWS.field(name) for name in KEPT),
            ("text_digest", pa.uint64()),
            *((name, pa.float32()) for name in ("label", *SLICED_BY, "a")),
        ]
    )
    tables, number = [], 0
    for part in parts:
        plain = {"item_id": "i", "rating": 3.0, "label": 3.0, "n_chars": 100.0, "user_count": 0.0, "a": 0.0}
        rows = [{"review_id": f"R{number + i}", "user_id": f"u{number + i}", **plain, **r} for i, r in enumerate(part)]
        number += len(rows)
        tables.append(pa.Table.from_pylist(rows, schema=schema))
    facts = {"features": ["a"], "groups": {"shape": ["a"]}, "target": "rating", "linear": None}
    return put(store, "features", {"": tables}, facts=facts)


def nothing_alike(store: SnapshotStore) -> Snapshot:
    """Commit a snapshot of near-duplicates without any."""
    return put(store, "near-duplicates", {"": [NEAR_DUPLICATES.empty_table()]})


def made(store: SnapshotStore, stage: Stage, inputs: Sequence[Any], config: BaseModel) -> StageRun:
    """Run a stage without validating its output."""
    return run_stage(stage, inputs, config, store, validate=lambda _stage, _out: {})


def validated(
    store: SnapshotStore, stage: Stage, inputs: Sequence[Any], config: BaseModel, validators: Validators
) -> Snapshot:
    """Run a stage, its output validated as in a run."""

    def validate(stage: Stage, out: SnapshotWriter) -> dict[str, Any]:
        suite = load_suite(stage.name)
        results = validators.validate(suite, {table: out.files(table) for table in suite.tables})
        assert results.success, results.failures()
        return {}

    return run_stage(stage, inputs, config, store, validate=validate).snapshot


def settings(*overrides: str) -> Settings:
    return load_settings(overrides=overrides)
