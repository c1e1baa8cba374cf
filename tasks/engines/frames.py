"""Modin over Ray: frames whose partitions are made, mapped and written in Ray tasks.

Modin holds the partitions; each one's work is a single Polars or Arrow pass over Arrow-backed columns. Written as a
pandas user would, the same steps took four to six times as long, because object-dtype strings are pickled between
processes while Arrow buffers travel through the object store without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tasks.engines import cluster

if TYPE_CHECKING:
    import pandas as pd

Frame = Any  # modin.pandas.DataFrame, which must not be imported before Ray is up


def from_map(load: Callable[..., pa.Table], parts: Sequence[Any], **kwargs: Any) -> Frame:
    """A Modin frame with one row partition per part; `load(part, **kwargs)` runs in a Ray task."""
    import modin.pandas.io as modin_io

    return modin_io.from_map(_load, parts, load, kwargs)


def partitions(frame: Frame) -> list[Any]:
    """References to the row partitions (pandas frames), in row order."""
    from modin.distributed.dataframe.pandas import unwrap_partitions

    return list(unwrap_partitions(frame, axis=0))


def collect(frame: Frame, function: Callable[..., Any], *per_partition: Sequence[Any], **kwargs: Any) -> list[Any]:
    """Call `function(table, *given, **kwargs)` on each partition in a Ray task, `given` taken partition by partition.

    Returns what the calls returned, in row order: small things only, for they come to the driver.
    """
    import ray

    call = ray.remote(_call)
    refs = partitions(frame)
    given = zip(*per_partition, strict=True) if per_partition else [()] * len(refs)
    return cluster.gather(call.remote(function, kwargs, ref, *g) for ref, g in zip(refs, given, strict=True))


def to_driver(frame: Frame) -> list[pa.Table]:
    """The partitions themselves, in row order: of a frame whose partitions are small, such as accounts of work done."""
    return [to_arrow(partition) for partition in cluster.gather(partitions(frame))]


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Arrow-backed pandas columns, sharing the table's buffers."""
    import pandas as pd  # half a second that a flow would wait for before its first stage

    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def to_arrow(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def _load(part: Any, load: Callable[..., pa.Table], kwargs: dict[str, Any]) -> pd.DataFrame:
    return to_pandas(load(part, **kwargs))


def _call(function: Callable[..., Any], kwargs: dict[str, Any], frame: pd.DataFrame, *given: Any) -> Any:
    return function(to_arrow(frame), *given, **kwargs)
