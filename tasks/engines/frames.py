"""Modin over Ray: frames whose partitions are made, mapped and written in Ray tasks.

Modin holds the partitions; each one's work is a single Polars or Arrow pass over Arrow-backed columns. Written as a
pandas user would, the same steps took four to six times as long, because object-dtype strings are pickled between
processes while Arrow buffers travel through the object store without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from tasks.core.snapshots import FileEntry, FileSink, part_name
from tasks.engines import cluster

Frame = Any  # modin.pandas.DataFrame, which must not be imported before Ray is up


def from_map(load: Callable[..., pa.Table], parts: Sequence[Any], **kwargs: Any) -> Frame:
    """A Modin frame with one row partition per part; `load(part, **kwargs)` runs in a Ray task."""
    import modin.pandas.io as modin_io

    return modin_io.from_map(_load, parts, load, kwargs)


def partitions(frame: Frame) -> list[Any]:
    """References to the row partitions (pandas frames), in row order."""
    from modin.distributed.dataframe.pandas import unwrap_partitions

    return list(unwrap_partitions(frame, axis=0))


def from_partitions(refs: Sequence[Any]) -> Frame:
    """A Modin frame from references to row partitions."""
    from modin.distributed.dataframe.pandas import from_partitions as modin_from_partitions

    return modin_from_partitions(list(refs), axis=0)


def map_partitions(frame: Frame, function: Callable[..., pa.Table], *per_partition: Sequence[Any]) -> Frame:
    """Apply `function(table, *arguments)` to each partition; the arguments are taken partition by partition."""
    import ray

    apply = ray.remote(_apply)
    refs = partitions(frame)
    arguments = zip(*per_partition, strict=True) if per_partition else [()] * len(refs)
    return from_partitions([apply.remote(function, ref, *given) for ref, given in zip(refs, arguments, strict=True)])


def write(
    frame: Frame, sink: FileSink, write_part: Callable[[FileSink, int, pa.Table], list[FileEntry]] | None = None
) -> list[FileEntry]:
    """Write each partition in a Ray task; returns the entries of all files, in row order."""
    import ray

    task = ray.remote(_write)
    refs = [task.remote(write_part or write_main_part, sink, i, ref) for i, ref in enumerate(partitions(frame))]
    return [entry for entries in cluster.gather(refs) for entry in entries]


def write_main_part(sink: FileSink, index: int, table: pa.Table) -> list[FileEntry]:
    return [sink.write_table(part_name(index), table)] if table.num_rows else []


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Arrow-backed pandas columns, sharing the table's buffers."""
    return table.to_pandas(types_mapper=pd.ArrowDtype)


def to_arrow(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def _load(part: Any, load: Callable[..., pa.Table], kwargs: dict[str, Any]) -> pd.DataFrame:
    return to_pandas(load(part, **kwargs))


def _apply(function: Callable[..., pa.Table], frame: pd.DataFrame, *arguments: Any) -> pd.DataFrame:
    return to_pandas(function(to_arrow(frame), *arguments))


def _write(
    write_part: Callable[..., list[FileEntry]], sink: FileSink, index: int, frame: pd.DataFrame
) -> list[FileEntry]:
    return write_part(sink, index, to_arrow(frame))
