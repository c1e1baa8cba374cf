"""Raw files into canonical tables on Modin over Ray: what ingest and ingest-items have in common.

Each part is read, mapped and written in one Ray task, a block at a time, so that no more than a block of it is ever in
memory. What the task hands back, as a partition of a Modin frame, is the account of what it did.
A part that an earlier snapshot has is taken over from it: of a folder that has grown, only the new files are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from tasks import sources
from tasks.core.digests import digest_of
from tasks.core.errors import InputError
from tasks.core.part_files import read_part
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import PartRecord, SnapshotWriter, read_tables
from tasks.core.stage import Stage
from tasks.domain.schemas import FEW_VALUES, QUARANTINE, REJECTS
from tasks.engines import cluster, frames

# What the task that reads a part tells of it: a row for each file that it wrote, and for each unit that it read (`row`:
# the unit's first byte, `rows`: how many it has, `reason`: what ended it early).
OUTCOME = pa.schema(
    {"kind": pa.string(), "source": pa.string(), "row": pa.int64(), "reason": pa.string()}
    | {"name": pa.string(), "size": pa.int64(), "rows": pa.int64(), "sha256": pa.string()}
)
Extras = Callable[[pa.Table], dict[str, pa.Table]]  # tables beside a block's rows, by name; uncompressed


def read(
    stage: Stage, source: sources.Source, recipe: sources.Recipe, out: SnapshotWriter, extras: Extras | None = None
) -> None:
    """Read all of the source. Writes the canonical table, `rejects/` and `quarantine/`, and counts the rows."""
    out.side_table("quarantine")
    config = recipe.config.model_dump(mode="json")
    how = digest_of([stage.code, config, source.profile.model_dump(mode="json")])
    parts = sources.plan(source)
    identities = [digest_of([how, sources.identity(part)]) for part in parts]
    done = {i: record for i, name in enumerate(identities) if (record := out.reuse_part(name, i))}
    new = [i for i in range(len(parts)) if i not in done]
    out.note(parts=len(parts), parts_taken_over=len(done))
    if new:
        _read_parts(new, parts, identities, recipe, extras, out, done)
    units = [unit for i in range(len(parts)) for unit in done[i].about]
    out.count(rows_in=sum(unit["rows"] for unit in units))
    _quarantine(units, source, recipe, out)


def first_reject(out: SnapshotWriter) -> str:
    """The first rejected record, for a message."""
    files = out.files("rejects")
    if not files:
        return ""
    first = read_tables(files[:1]).slice(0, 1).to_pylist()[0]
    return f", the first: {first['source']} row {first['row']}: {first['reason']}"


def _read_parts(
    new: Sequence[int],
    parts: Sequence[sources.Part],
    identities: Sequence[str],
    recipe: sources.Recipe,
    extras: Extras | None,
    out: SnapshotWriter,
    done: dict[int, PartRecord],
) -> None:
    import ray

    numbered = [(i, parts[i]) for i in new]
    # The frame is let go at once: parts of one that is held are read again, and written, where their node is lost.
    outcomes = frames.to_driver(frames.from_map(load_part, numbered, recipe=recipe, extras=extras, sink=out.sink))
    told = dict(zip(new, (outcome.to_pylist() for outcome in outcomes), strict=True))
    units = {i: [r for r in told[i] if r["kind"] == "unit"] for i in new}
    files = {
        i: [FileEntry(**{k: r[k] for k in FileEntry.model_fields}) for r in told[i] if r["kind"] == "file"] for i in new
    }
    firsts = first_rows({**units, **{i: record.about for i, record in done.items()}})
    renumber = ray.remote(renumber_rejects)
    moved = [i for i in new if any(firsts[i]) and any(e.table == "rejects" for e in files[i])]
    renumbered = dict(zip(moved, cluster.gather(renumber.remote(out.sink, i, firsts[i]) for i in moved), strict=True))
    for i in moved:
        (out.root / part_name(i, "renumber")).unlink()  # not by the task: it begins again where its node is lost
    for i in new:
        entries = [renumbered[i] if i in renumbered and e.table == "rejects" else e for e in files[i]]
        out.part(
            identities[i], entries, [{k: unit[k] for k in ("source", "row", "rows", "reason")} for unit in units[i]]
        )
        done[i] = out.parts[identities[i]]


def load_part(
    numbered: tuple[int, sources.Part], recipe: sources.Recipe, extras: Extras | None, sink: FileSink
) -> pa.Table:
    """Read one part and write its usable rows, a block at a time; returns the OUTCOME."""
    index, part = numbered
    loaded = sources.Loaded(part, recipe)
    files: list[FileEntry] = []
    for block, rows in enumerate(loaded.blocks()):
        files.append(sink.write_table(part_name(index, block=block), rows, recipe.schema, dictionary=FEW_VALUES))
        for name, table in (extras(rows) if extras else {}).items():
            files.append(sink.write_table(part_name(index, name, block), table, packed=False))
    told: list[dict[str, Any]] = []
    rejects = []
    for number, account in enumerate(loaded.accounts):
        unit = account.unit
        about = {"source": unit.file.name, "row": unit.start, "rows": account.rows, "reason": account.damage}
        told.append({"kind": "unit", **about})
        rejects += [table.append_column("unit", pa.repeat(number, table.num_rows)) for table in account.rejects]
    if rejects:
        ordered = pa.concat_tables(rejects).sort_by([("unit", "ascending"), ("row", "ascending")])
        if any(account.unit.start for account in loaded.accounts):
            # Rows are counted from the units' first bytes; `renumber_rejects` knows how many came before.
            sink.write_table(part_name(index, "renumber"), ordered)
        files.append(sink.write_table(part_name(index, "rejects", 0), ordered, REJECTS))
    told += [{"kind": "file", **entry.model_dump()} for entry in files]
    return pa.Table.from_pylist(told, schema=OUTCOME)


def first_rows(units: dict[int, list[dict[str, Any]]]) -> dict[int, list[int]]:
    """For each part, the number that the first row of each of its units has in its file."""
    before: dict[str, int] = defaultdict(int)
    firsts: dict[int, list[int]] = {}
    for i in sorted(units):
        firsts[i] = []
        for unit in units[i]:
            # Only a unit that begins within a text file has rows before it; parquet's reader knows its own.
            firsts[i].append(before[unit["source"]] if unit["row"] else 0)
            before[unit["source"]] += unit["rows"]
    return firsts


def renumber_rejects(sink: FileSink, index: int, firsts: list[int]) -> FileEntry:
    """Write the rejects of one part again, with the row numbers that they have in their files."""
    counted = Path(sink.root) / part_name(index, "renumber")
    rejects = read_part(counted)
    first = pl.Series(firsts, dtype=pl.Int64).gather(rejects["unit"])
    table = rejects.with_columns(row=rejects["row"] + first).select(REJECTS.names).to_arrow()
    return sink.write_table(part_name(index, "rejects", 0), table, REJECTS)


def _quarantine(
    units: Sequence[dict[str, Any]], source: sources.Source, recipe: sources.Recipe, out: SnapshotWriter
) -> None:
    """List the files that were not read, or not to their end."""
    rows: dict[str, int] = defaultdict(int)
    for unit in units:
        rows[unit["source"]] += unit["rows"]
    damaged = [{"source": u["source"], "reason": u["reason"], "rows": rows[u["source"]]} for u in units if u["reason"]]
    unread = [{"source": q.name, "reason": q.reason, "rows": 0} for q in source.quarantined]
    if damaged and recipe.config.damaged_files == "refuse":
        raise InputError(
            str(damaged[0]["reason"]),
            where=str(damaged[0]["source"]),
            fix="write or copy it again, or set damaged_files to quarantine to go on with the readable rows",
        )
    if damaged or unread:
        table = pa.Table.from_pylist(sorted([*damaged, *unread], key=lambda q: str(q["source"])), schema=QUARANTINE)
        out.write_table("quarantine/files.parquet", table, QUARANTINE)
        out.fact(quarantined=len({q["source"] for q in [*damaged, *unread]}))
