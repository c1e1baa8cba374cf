"""Turn tables of a parquet file into frames that Polars can hold, with valid texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import polars as pl
import pyarrow as pa

from tasks.sources import class_labels


def is_foreign(schema: Iterable[pa.Field]) -> bool:
    """Tell whether a column has a type that makes Polars panic: a zone that is a fixed offset, 256-bit decimals."""
    return any(re.search(r"tz=(?!UTC\])|decimal256", str(column.type)) for column in schema)


def of(table: pa.Table, labels: class_labels.Names) -> pl.DataFrame:
    """Return a table as a frame, its texts valid UTF-8. Raises ArrowInvalid where the data are damaged."""
    for index, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            table = table.set_column(index, column.name, table.column(index).cast(column.type.value_type))
            column = table.schema.field(index)
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):  # texts, as Impala writes them
            texts = table.column(index).cast(pa.large_string(), safe=False)  # validated below
            table = table.set_column(index, column.name, texts)
        if pa.types.is_timestamp(column.type) and column.type.tz:
            utc = table.column(index).cast(pa.timestamp(column.type.unit, "UTC"))  # the same moments
            table = table.set_column(index, column.name, utc)
        elif pa.types.is_decimal(column.type) and is_foreign([column]):
            table = table.set_column(index, column.name, table.column(index).cast(pa.string()))
        elif is_foreign([column]):
            values = [None if v is None else json.dumps(v, default=str) for v in table.column(index).to_pylist()]
            table = table.set_column(index, column.name, pa.array(values, pa.large_string()))
        try:
            table.column(index).validate(full=True)
        except pa.ArrowInvalid:
            # pyarrow does not check texts. Polars assumes that they are UTF-8.
            values = table.column(index).cast(pa.binary()).to_pylist()
            decoded = [None if v is None else v.decode(errors="replace") for v in values]
            table = table.set_column(index, column.name, pa.array(decoded, pa.large_string()))
    return class_labels.by_name(pl.DataFrame(pl.from_arrow(table)), labels)
