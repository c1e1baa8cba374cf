"""Parallel merge sort in Ray tasks, in memory and out of core.

    sample      every block sends a few of its keys; P - 1 of these become splitters
    local sort  every block is sorted in cache-sized runs, and each run cut at the splitters
    all-to-all  block b's part of partition p goes from task to task through the object store
    merge       every partition merges its parts, from all runs of all blocks at once

The result is P sorted partitions: every row of one comes before every row of the next. It is stable, and depends on the
rows and their order alone, not on the number of workers.

Cost for n rows on W workers: n/W log(run) comparisons to sort, n/W log(block) to merge, and of each worker's rows
(W - 1)/W cross to another, in P messages a block: T = a n/W + M P α + β n/W. The sample is all that is serial.

`sort_files` sorts what exceeds memory: tasks read row groups and write parquet, and one task's rows are a share of the
memory given. Between them a block's parts wait in one file, not in the object store: Ray returns objects below 100 KB
to the process that asked, which then held all the rows (in a first version, 850 MB of 400).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import InputError
from tasks.engines import cluster
from tasks.parallel.sort_order import Order
from tasks.parallel.sort_steps import Part, Spilled, cut, merged, sample, spilled
from tasks.parallel.sorted_runs import Splitters, splitters

MEMORY_PER_BYTE = 6  # a task holds its rows read, sorted, cut, merged, and Arrow's own copies
Load = Callable[[Any], pa.Table]
Store = Callable[[int, pa.Table], Any]


def sort_tables(blocks: Sequence[Any], order: Order, partitions: int, *, cpus: float = 1) -> list[Any]:
    """Sort tables that are in Ray's object store; returns references to the partitions, in order.

    blocks: references to Arrow tables of one schema. cpus: logical CPUs that each task holds. Raises InputError for a
    key that has no order, TransientError if a worker is lost again and again.
    """
    return _sort(blocks, order, partitions, _itself, _kept, cpus=cpus)


def sort_files(files: Sequence[Path], out: Path, order: Order, memory_bytes: int) -> list[Path]:
    """Sort parquet files of one schema into sorted parquet files `part-00000.parquet` ... in `out`, in order.

    memory_bytes: what the tasks that run at the same time may use together. The rows wait in `out` in between, which
    all nodes must see. Raises InputError for a key that has no order or a row group too large for that memory, RunError
    if the disk is full.
    """
    task_bytes = memory_bytes // (MEMORY_PER_BYTE * cluster.cpus())
    units = [unit for file in files for unit in _units(file, task_bytes)]
    total = sum(unit.bytes for unit in units)
    out.mkdir(parents=True, exist_ok=True)
    partitions = max(1, -(-total // task_bytes))
    with TemporaryDirectory(prefix=".sort-", dir=out) as waiting:
        return cluster.gather(_sort(units, order, partitions, _read, partial(_write, out), spill=Path(waiting)))


def sort_in_process(blocks: Sequence[pa.Table], order: Order, partitions: int) -> list[pa.Table]:
    """Run the same sort without Ray: the tests' oracle of the distribution."""
    cuts = splitters([sample(i, block, order) for i, block in enumerate(blocks)], partitions, order)
    parts = [list(cut(i, block, order, cuts, partitions)) for i, block in enumerate(blocks)]
    return [merged(order, [of_block[p] for of_block in parts]) for p in range(partitions)]


def _sort(
    blocks: Sequence[Any],
    order: Order,
    partitions: int,
    load: Load,
    store: Store,
    *,
    cpus: float = 1,
    spill: Path | None = None,
) -> list[Any]:
    import ray

    if not blocks or partitions < 1:
        raise InputError(f"{len(blocks)} blocks into {partitions} partitions", where="sort", fix="give one or more")
    # Ray's types know no arguments of other kinds than references.
    take: Any = ray.remote(num_cpus=cpus)(_sample)
    split: Any = ray.remote(num_cpus=cpus, num_returns=partitions)(_cut)
    join: Any = ray.remote(num_cpus=cpus)(_merge)
    samples = cluster.gather(take.remote(i, block, order, load) for i, block in enumerate(blocks))
    cuts = splitters(samples, partitions, order)
    returned = [split.remote(i, block, order, cuts, partitions, load, spill) for i, block in enumerate(blocks)]
    parts = [refs if partitions > 1 else [refs] for refs in returned]  # Ray returns a bare reference for one value
    return [join.remote(p, order, store, *(of_block[p] for of_block in parts)) for p in range(partitions)]


def _sample(block: int, rows: Any, order: Order, load: Load) -> Splitters:
    return sample(block, load(rows), order)


def _cut(block: int, rows: Any, order: Order, cuts: Splitters, partitions: int, load: Load, spill: Path | None) -> Any:
    parts = cut(block, load(rows), order, cuts, partitions)
    found = list(parts) if spill is None else spilled(spill / f"block-{block:05d}.arrow", parts)
    return found if partitions > 1 else found[0]


def _merge(partition: int, order: Order, store: Store, *parts: Part | Spilled) -> Any:
    return store(partition, merged(order, [part if isinstance(part, Part) else part.read() for part in parts]))


def _itself(table: pa.Table) -> pa.Table:
    return table


def _kept(_partition: int, table: pa.Table) -> pa.Table:
    return table


class Unit(NamedTuple):
    """Consecutive row groups of a file."""

    file: Path
    groups: list[int]
    bytes: int


def _units(file: Path, most_bytes: int) -> list[Unit]:
    """Cut a file into units of at most `most_bytes` in memory, by its first row group: encodings hide the size."""
    opened = pq.ParquetFile(file)
    about = opened.metadata
    units: list[Unit] = []
    for group in range(about.num_row_groups):
        part = about.row_group(group)
        if group == 0:
            bytes_per_row = opened.read_row_group(0).nbytes / max(1, part.num_rows)
        size = max(part.total_byte_size, int(part.num_rows * bytes_per_row))
        if size > most_bytes:
            raise InputError(
                f"row group {group} has {size >> 20:,} MiB, a task may hold {most_bytes >> 20:,}",
                where=str(file),
                fix="give more memory, or write the file with smaller row groups",
            )
        if units and units[-1].bytes + size <= most_bytes:
            last = units.pop()
            units.append(Unit(file, [*last.groups, group], last.bytes + size))
        else:
            units.append(Unit(file, [group], size))
    return units


def _read(unit: Unit) -> pa.Table:
    return pq.ParquetFile(unit.file).read_row_groups(unit.groups, use_threads=False)


def _write(out: Path, partition: int, table: pa.Table) -> Path:
    """Write under another name first, so that a file of the final name is whole."""
    file = out / f"part-{partition:05d}.parquet"
    begun = file.with_suffix(".begun")
    pq.write_table(table, begun, compression="zstd", row_group_size=1 << 20)
    return begun.rename(file)
