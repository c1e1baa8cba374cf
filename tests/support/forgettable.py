"""Snapshots of parts by hand, some with reviews of a user to forget."""

from __future__ import annotations

import pyarrow as pa

from tasks.core.storage.store import SnapshotStore
from tests.support.stage_runs import NOTHING_KNOWN

HER = "A1NELLIE-X"


def reviews(*users: str) -> pa.Table:
    return pa.table({"user_id": users, "review_id": [f"R-{user}" for user in users], "text": ["words"] * len(users)})


def put(store: SnapshotStore, stage: str, parts: list[pa.Table], inputs: tuple[object, ...]) -> str:
    """Commit a snapshot of parts with rejects; returns its key."""
    out = store.open_attempt(stage, f"{stage}-key")
    for i, part in enumerate(parts):
        entry = out.sink.write_table(f"part-{i:05d}.parquet", part)
        rejects = pa.table({"record": [f'{{"customer_id": "reject-{i}"}}']})
        also = out.sink.write_table(f"rejects/part-{i:05d}.parquet", rejects)
        out.part(f"{stage} part {i}", [entry, also], [{"source": f"file-{i}.csv"}])
    return store.commit(out, **{**NOTHING_KNOWN, "inputs": inputs}).key


def raw(stage: str) -> dict[str, str]:
    return {"name": "source", "stage": stage, "key": "" if stage == "source" else f"{stage}-key", "digest": "d"}
