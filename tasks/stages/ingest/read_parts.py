"""Read raw files into canonical tables on Modin over Ray, for `ingest` and `ingest-items`.

Each part is read, mapped and written in one Ray task, block by block, so that only one block of it is in memory. The
task returns an account of what it did, as a partition of a Modin frame. A part that an earlier snapshot has is linked
from it: when a folder has grown, only the new files are read.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
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
from tasks.domain.schemas import FEW_VALUES, LEFT_OUT, QUARANTINE, REJECTS
from tasks.engines import cluster, frames
from tasks.sources.settings import ReadConfig

# The account of a part: a row for each file written and for each unit read (`row`: the unit's first byte, `rows`: its
# number of rows, `reason`: why it ended early, `lost`: counts of lost values by column, as JSON, `forgotten`: rows of
# users to forget).
OUTCOME = pa.schema(
    {"kind": pa.string(), "source": pa.string(), "row": pa.int64(), "reason": pa.string()}
    | {"name": pa.string(), "size": pa.int64(), "rows": pa.int64(), "sha256": pa.string()}
    | {"lost": pa.string(), "forgotten": pa.int64()}
)
Extras = Callable[[pa.Table], dict[str, pa.Table]]  # tables beside a block's rows, by name; uncompressed


def read(
    stage: Stage, source: sources.Source, recipe: sources.Recipe, out: SnapshotWriter, extras: Extras | None = None
) -> None:
    """Read the whole source; write the canonical table, `rejects/` and `quarantine/`, and count the rows."""
    out.side_table("quarantine")
    parts = sources.plan(source)
    identities = identify(parts, stage, source, recipe.config)
    done = {i: record for i, name in enumerate(identities) if (record := out.reuse_part(name, i))}
    new = [i for i in range(len(parts)) if i not in done]
    out.note(parts=len(parts), parts_taken_over=len(done))
    if new:
        _read_parts(new, parts, identities, recipe, extras, out, done)
    units = [unit for i in range(len(parts)) for unit in done[i].about]
    out.count(rows_in=sum(unit["rows"] for unit in units))
    if gone := sum(unit.get("forgotten", 0) for unit in units):
        out.count(forgotten=gone)
    lost = sum((Counter(json.loads(unit["lost"])) for unit in units), Counter[str]())
    if lost:
        out.fact(lost_values=dict(sorted(lost.items())))
    _quarantine(units, source, recipe, out)


def identify(parts: Sequence[sources.Part], stage: Stage, source: sources.Source, config: ReadConfig) -> list[str]:
    """Return a digest for each part of all that decides its output, by which a later snapshot reuses it."""
    how = digest_of([stage.code, config.model_dump(mode="json"), source.profile.model_dump(mode="json")])
    known = source.forgotten or sources.Forgotten()
    return [known.renamed(digest_of([how, sources.identity(part)])) for part in parts]


def part_identities(stage: Stage, source: sources.Source, config: ReadConfig) -> list[str]:
    return identify(sources.plan(source), stage, source, config)


def first_reject(out: SnapshotWriter) -> str:
    """Describe the first rejected record, for an error message."""
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
    # The frame is not kept: Ray would read and write parts of a kept frame again if their node is lost.
    outcomes = frames.to_driver(frames.from_map(load_part, numbered, recipe=recipe, extras=extras, sink=out.sink))
    rows = dict(zip(new, (outcome.to_pylist() for outcome in outcomes), strict=True))
    units = {i: [r for r in rows[i] if r["kind"] == "unit"] for i in new}
    files = {
        i: [FileEntry(**{k: r[k] for k in FileEntry.model_fields}) for r in rows[i] if r["kind"] == "file"] for i in new
    }
    firsts = first_rows({**units, **{i: record.about for i, record in done.items()}})
    renumber = ray.remote(renumber_rejects)
    moved = [i for i in new if any(firsts[i]) and any(e.table == "rejects" for e in files[i])]
    renumbered = dict(zip(moved, cluster.gather(renumber.remote(out.sink, i, firsts[i]) for i in moved), strict=True))
    for i in moved:
        (out.root / part_name(i, "renumber")).unlink()  # not in the task, which Ray runs again if its node is lost
    for i in new:
        entries = [renumbered[i] if i in renumbered and e.table == "rejects" else e for e in files[i]]
        out.part(
            identities[i],
            entries,
            [about_unit(unit) for unit in units[i]],
        )
        done[i] = out.parts[identities[i]]


def about_unit(unit: dict[str, Any]) -> dict[str, Any]:
    """Return what the manifest keeps of a unit's row in OUTCOME."""
    about = {name: unit[name] for name in ("source", "row", "rows", "reason", "lost")}
    return {**about, "forgotten": unit["forgotten"]} if unit["forgotten"] else about


def load_part(
    numbered: tuple[int, sources.Part], recipe: sources.Recipe, extras: Extras | None, sink: FileSink
) -> pa.Table:
    """Read one part and write its usable rows, block by block; return its account (OUTCOME)."""
    index, part = numbered
    loaded = sources.Loaded(part, recipe)
    files: list[FileEntry] = []
    for block, rows in enumerate(loaded.blocks()):
        files.append(sink.write_table(part_name(index, block=block), rows, recipe.schema, dictionary=FEW_VALUES))
        for name, table in (extras(rows) if extras else {}).items():
            files.append(sink.write_table(part_name(index, name, block), table, packed=False))
    outcome: list[dict[str, Any]] = []
    rejects = []
    for number, account in enumerate(loaded.accounts):
        unit = account.unit
        about = {"source": unit.file.name, "row": unit.start, "rows": account.rows, "reason": account.damage}
        about |= {"lost": json.dumps(account.lost, sort_keys=True), "forgotten": account.forgotten}
        outcome.append({"kind": "unit", **about})
        rejects += [table.append_column("unit", pa.repeat(number, table.num_rows)) for table in account.rejects]
    if rejects:
        ordered = pa.concat_tables(rejects).sort_by([("unit", "ascending"), ("row", "ascending")])
        if any(account.unit.start for account in loaded.accounts):
            # Rows are counted from the units' first bytes; `renumber_rejects` adds the number of rows before them.
            sink.write_table(part_name(index, "renumber"), ordered)
        files.append(sink.write_table(part_name(index, "rejects", 0), ordered, REJECTS))
    outcome += [{"kind": "file", **entry.model_dump()} for entry in files]
    return pa.Table.from_pylist(outcome, schema=OUTCOME)


def first_rows(units: dict[int, list[dict[str, Any]]]) -> dict[int, list[int]]:
    """Return, for each part, the row number in its file of each unit's first row."""
    before: dict[str, int] = defaultdict(int)
    firsts: dict[int, list[int]] = {}
    for i in sorted(units):
        firsts[i] = []
        for unit in units[i]:
            # Only a unit that begins within a text file needs an offset; parquet's reader knows the row numbers.
            firsts[i].append(before[unit["source"]] if unit["row"] else 0)
            before[unit["source"]] += unit["rows"]
    return firsts


def renumber_rejects(sink: FileSink, index: int, firsts: list[int]) -> FileEntry:
    """Write the rejects of one part again, with their row numbers in the files."""
    rejects = read_part(Path(sink.root) / part_name(index, "renumber"))
    first = pl.Series(firsts, dtype=pl.Int64).gather(rejects["unit"])
    table = rejects.with_columns(row=rejects["row"] + first).select(REJECTS.names).to_arrow()
    return sink.write_table(part_name(index, "rejects", 0), table, REJECTS)


def _quarantine(
    units: Sequence[dict[str, Any]], source: sources.Source, recipe: sources.Recipe, out: SnapshotWriter
) -> None:
    """List the files that were not read, or not to their end. Raises InputError if the settings refuse damaged ones."""
    rows: dict[str, int] = defaultdict(int)
    for unit in units:
        rows[unit["source"]] += unit["rows"]
    damaged = [{"source": u["source"], "reason": u["reason"], "rows": rows[u["source"]]} for u in units if u["reason"]]
    unread = [{"source": q.name, "reason": q.reason, "rows": 0} for q in source.quarantined]
    aside = [{"source": q.name, "reason": f"{LEFT_OUT}{q.reason}", "rows": 0} for q in source.left_out]
    if damaged and recipe.config.damaged_files == "refuse":
        raise InputError(
            str(damaged[0]["reason"]),
            where=str(damaged[0]["source"]),
            fix="write or copy it again, or set damaged_files to quarantine to use the readable rows",
        )
    if listed := [*damaged, *unread, *aside]:
        table = pa.Table.from_pylist(sorted(listed, key=lambda q: str(q["source"])), schema=QUARANTINE)
        out.write_table("quarantine/files.parquet", table, QUARANTINE)
    if damaged or unread:
        out.fact(quarantined=len({q["source"] for q in [*damaged, *unread]}))
