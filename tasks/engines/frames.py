"""Modin over Ray: make, map and write a frame's partitions in Ray tasks.

Modin holds the partitions; the work on each is a single Polars or Arrow pass over Arrow-backed columns. In the usual
pandas style the same steps took four to six times as long, as object-dtype strings are pickled between processes while
Arrow buffers pass through the object store without a copy.
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
    """Make a Modin frame with one row partition per part; `load(part, **kwargs)` runs in a Ray task."""
    import modin.pandas.io as modin_io

    return modin_io.from_map(_load, parts, load, kwargs)


def partitions(frame: Frame) -> list[Any]:
    """Return references to the row partitions (pandas frames), in row order."""
    from modin.distributed.dataframe.pandas import unwrap_partitions

    return list(unwrap_partitions(frame, axis=0))


def collect(frame: Frame, function: Callable[..., Any], *per_partition: Sequence[Any], **kwargs: Any) -> list[Any]:
    """Call `function(table, *arguments, **kwargs)` on each partition in a Ray task, with each partition's arguments.

    Returns the results in row order; they come to the driver, so they must be small.
    """
    import ray

    call = ray.remote(_call)
    refs = partitions(frame)
    arguments = zip(*per_partition, strict=True) if per_partition else [()] * len(refs)
    return cluster.gather(call.remote(function, kwargs, ref, *g) for ref, g in zip(refs, arguments, strict=True))


def to_driver(frame: Frame) -> list[pa.Table]:
    """Fetch the partitions to the driver, in row order, for frames with small partitions, such as accounts of parts."""
    return [to_arrow(partition) for partition in cluster.gather(partitions(frame))]


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Convert to Arrow-backed pandas columns that share the table's buffers."""
    import pandas as pd  # imported late: it takes half a second, which a flow's first stage would wait for

    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def to_arrow(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def _load(part: Any, load: Callable[..., pa.Table], kwargs: dict[str, Any]) -> pd.DataFrame:
    return to_pandas(load(part, **kwargs))


def _call(function: Callable[..., Any], kwargs: dict[str, Any], frame: pd.DataFrame, *arguments: Any) -> Any:
    return function(to_arrow(frame), *arguments, **kwargs)
