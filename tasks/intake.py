"""Raw files into canonical tables on Modin over Ray: what ingest and ingest-items have in common.

Each part is read, mapped and written in one Ray task, a block at a time, so that no more than a block of it is ever in
memory. What the task hands back, as a partition of a Modin frame, is the account of what it did and the rejects.
A part that an earlier snapshot has is taken over from it: of a folder that has grown, only the new files are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tasks import sources
from tasks.core.digests import digest_of
from tasks.core.errors import InputError
from tasks.core.schemas import QUARANTINE, REJECTS
from tasks.core.snapshots import FileEntry, FileSink, PartRecord, SnapshotWriter, part_name, read_tables
from tasks.core.stage import Stage
from tasks.engines import frames

# What the task that reads a part tells of it: a row for each file that it wrote, each unit that it read (`row`: the
# unit's first byte, `rows`: how many it has, `reason`: what ended it early) and each record that it rejected (`unit`:
# which unit of the part; `row` counts from that unit's first).
OUTCOME = pa.schema(
    [("kind", pa.string()), ("unit", pa.int64())]
    + [(f.name, f.type) for f in REJECTS]
    + [("name", pa.string()), ("size", pa.int64()), ("rows", pa.int64()), ("sha256", pa.string())]
)
Extras = Callable[[pa.Table], dict[str, pa.Table]]  # tables beside a block's rows, by name; uncompressed


def read(
    stage: Stage, source: sources.Source, recipe: sources.Recipe, out: SnapshotWriter, extras: Extras | None = None
) -> None:
    """Read all of the source. Writes the canonical table, `rejects/` and `quarantine/`, and counts the rows."""
    out.beside("quarantine")
    config = recipe.config.model_dump(mode="json")
    how = digest_of([stage.code, config, source.profile.model_dump(mode="json")])
    parts = sources.plan(source)
    identities = [digest_of([how, sources.identity(part)]) for part in parts]
    done = {i: record for i, name in enumerate(identities) if (record := out.carry(name, i))}
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
    numbered = [(i, parts[i]) for i in new]
    outcomes = frames.from_map(load_part, numbered, recipe=recipe, extras=extras, sink=out.sink)
    told = [table.to_pylist() for table in frames.collect(outcomes, without_rejects)]
    units = {i: [r for r in rows if r["kind"] == "unit"] for i, rows in zip(new, told, strict=True)}
    firsts = first_rows({**units, **{i: record.about for i, record in done.items()}})
    rejects = frames.collect(outcomes, write_rejects, [(i, firsts[i]) for i in new], sink=out.sink)
    for i, rows, rejected in zip(new, told, rejects, strict=True):
        files = [FileEntry(**{k: r[k] for k in FileEntry.model_fields}) for r in rows if r["kind"] == "file"]
        about = [{k: unit[k] for k in ("source", "row", "rows", "reason")} for unit in units[i]]
        out.part(identities[i], [*files, *rejected], about)
        done[i] = out.parts[identities[i]]


def load_part(
    numbered: tuple[int, sources.Part], recipe: sources.Recipe, extras: Extras | None, sink: FileSink
) -> pa.Table:
    """Read one part and write its usable rows, a block at a time; returns the OUTCOME."""
    index, part = numbered
    loaded = sources.Loaded(part, recipe)
    files: list[FileEntry] = []
    for block, rows in enumerate(loaded.blocks()):
        files.append(sink.write_table(part_name(index, block=block), rows, recipe.schema))
        for name, table in (extras(rows) if extras else {}).items():
            files.append(sink.write_table(part_name(index, name, block), table, packed=False))
    told: list[dict[str, Any]] = [{"kind": "file", **entry.model_dump()} for entry in files]
    rejects = []
    for number, account in enumerate(loaded.accounts):
        unit = account.unit
        about = {"source": unit.file.name, "row": unit.start, "rows": account.rows, "reason": account.damage}
        told.append({"kind": "unit", "unit": number, **about})
        for table in account.rejects:
            columns = {"kind": pa.repeat("reject", table.num_rows), "unit": pa.repeat(number, table.num_rows)}
            rejects.append(pa.table({**columns, **{c: table[c] for c in REJECTS.names}}))
    tables = [pa.Table.from_pylist(told, schema=OUTCOME), *rejects]
    return pa.concat_tables(tables, promote_options="permissive").cast(OUTCOME)


def without_rejects(outcome: pa.Table) -> pa.Table:
    return outcome.filter(pc.not_equal(outcome["kind"], "reject"))


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


def write_rejects(outcome: pa.Table, numbered: tuple[int, list[int]], sink: FileSink) -> list[FileEntry]:
    """The rejects of one part, with the row numbers that they have in their files."""
    index, firsts = numbered
    rejects = pl.DataFrame(pl.from_arrow(outcome.filter(pc.equal(outcome["kind"], "reject"))))
    if not len(rejects):
        return []
    first = pl.Series(firsts, dtype=pl.Int64).gather(rejects["unit"])
    ordered = rejects.with_columns(row=rejects["row"] + first).sort("unit", "row", maintain_order=True)
    return [sink.write_table(part_name(index, "rejects", 0), ordered.select(REJECTS.names).to_arrow(), REJECTS)]


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
