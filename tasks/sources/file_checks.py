"""Check that a raw file has the columns and types its profile needs, before any row is read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.domain.schemas import REVIEWS
from tasks.sources import locations, parquet_frames
from tasks.sources.item_records import parse_literal, steps_of
from tasks.sources.json_records import blocks
from tasks.sources.json_values import parse_json
from tasks.sources.own_profile import with_names
from tasks.sources.paths import columns_of, columns_to_read, opened, path_of, type_at
from tasks.sources.profiles import Profile
from tasks.sources.python_lines import parse_record
from tasks.sources.settings import ReadConfig

Kind = Literal["reviews", "items"]
LINES = 1_000  # that are looked at


class Unreadable(Exception):
    """One file cannot be read: what is wrong, and what to do."""

    def __init__(self, what: str, fix: str, *, of_reviews: bool = False) -> None:
        super().__init__(what)
        self.what, self.fix, self.of_reviews = what, fix, of_reviews


def check_json_lines(
    start: bytes, profile: Profile, kind: Kind, *, whole: bool
) -> tuple[Literal["json-lines", "python-lines"], list[dict[str, Any]]]:
    """Return whether the lines are JSON or Python literals, and the first records.

    Raises Unreadable if no complete record has the mandatory columns: it is another kind of file. `whole`: `start` is
    all of the file, so its last line is not cut."""
    lines = start.split(b"\n")[: None if whole or b"\n" not in start else -1][:LINES]
    if records := _objects(lines, parse_literal if kind == "items" else parse_json):
        check_records(records, profile, kind)
        return "json-lines", records
    if kind == "reviews" and (records := _objects(lines, parse_record)):
        if profile.mandatory and not fit(records, profile, kind):
            raise Unreadable(
                "the lines are Python literals, as in product metadata, without the columns of reviews",
                "give product metadata as --items",
            )
        return "python-lines", records
    if not whole and profile.mandatory and not any(_names(start, column) for column in profile.mandatory):
        raise Unreadable(
            f"not JSON lines, and its first {len(start) >> 10} KB name none of {', '.join(profile.mandatory)}",
            "give JSON lines, or one array of objects",
        )
    return ("python-lines" if kind == "reviews" and start[1:].lstrip()[:1] == b"'" else "json-lines"), []


def _names(start: bytes, column: str) -> bool:
    """Tell whether a text holds the key of a column, in quotes, in any case."""
    key = str((path_of(column) or (column,))[0])
    text = start.decode("utf-8", "replace").casefold()
    return any(quoted.casefold() in text for quoted in (json.dumps(key), repr(key)))


def check_json_array(start: bytes, profile: Profile, kind: Kind) -> list[dict[str, Any]]:
    """Return the first elements.

    Raises Unreadable if they are no records with the mandatory columns: it is another kind of file."""
    first = next(iter(blocks(io.BytesIO(start), array=True, max_record_bytes=len(start))))
    if profile.columns and first.rows:
        check_records(first.rows, profile, kind)
    elif profile.columns and (complete := [bad for bad in first.bad if bad.reason.endswith("not an object")]):
        raise Unreadable(f"the array holds no objects, but {complete[0].text[:40]}", "give one object for each review")
    return first.rows


def check_records(records: Sequence[dict[str, Any]], profile: Profile, kind: Kind) -> None:
    """Raise Unreadable if none of these records has a mandatory column."""
    check_columns(columns_of(records, profile.mandatory if kind == "reviews" else ()), profile, kind)


def fit(records: Iterable[dict[str, Any]], profile: Profile, kind: Kind) -> bool:
    """Whether some of these records have the mandatory columns; no record fits a profile that needs none."""
    if kind == "items":
        needed = {str(steps_of(item_id_path(profile))[0])}
        return needed <= set(columns_of(records, needed))
    names = columns_of(records, profile.mandatory)
    mandatory = with_names(profile, names).mandatory
    return bool(mandatory) and set(mandatory) <= set(names)


def _objects(lines: Sequence[bytes], parse: Callable[[bytes], Any]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        with suppress(ValueError):
            if isinstance(record := parse(line), dict):
                found.append(record)
    return found


def item_id_path(profile: Profile) -> str:
    assert profile.items is not None
    return profile.items.item_id


def item_columns(profile: Profile, kind: Kind) -> set[str]:
    """Return the columns of the file that its `items:` section names, where product metadata is read."""
    if kind == "reviews" or profile.items is None:
        return set()
    return {str(steps_of(path)[0]) for path in profile.items.model_dump(exclude_none=True).values()}


def check_parquet(path: str, profile: Profile, config: ReadConfig, kind: Kind) -> tuple[list[str], list[str]]:
    """Return the names of the columns, and of those that have another type than needed but hold no value.

    Raises Unreadable."""
    try:
        with locations.open_raw(path) as raw:
            schema = pq.read_schema(raw)
    except (pa.ArrowException, OSError) as error:
        what = f"the parquet file is cut off or damaged ({str(error).splitlines()[0]})"
        raise Unreadable(what, "write or copy it again") from None
    if len(schema) > config.max_columns:
        raise Unreadable(
            f"{len(schema):,} columns; the limit is {config.max_columns:,}",
            "raise ingest.max_columns if the file is right",
        )
    names = [*schema.names, *(p for p in profile.wanted if p not in schema.names and type_at(schema, p) is not None)]
    check_columns(names, profile, kind)
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise Unreadable(f"several columns have the name {twice[0]!r}", "write the file with a name for each")
    if kind == "items":
        return names, []
    profile, empty = with_names(profile, names), []
    scalar = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        *(binary := (pa.types.is_binary, pa.types.is_large_binary)),
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_decimal,
        pa.types.is_dictionary,
    )
    timely = (*scalar, pa.types.is_date, pa.types.is_timestamp)
    texty = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_dictionary, *binary)
    for canonical, source in profile.columns.items():
        if (kind_of := type_at(schema, source)) is None:
            continue
        allowed = {"timestamp": timely, "text": texty, "title": texty, "verified": (*scalar, pa.types.is_boolean)}
        if not (pa.types.is_null(kind_of) or any(is_kind(kind_of) for is_kind in allowed.get(canonical, scalar))):
            if is_empty(path, source):
                empty.append(source)
                continue
            raise Unreadable(
                f"column {source!r} has type {kind_of}, which cannot become {canonical} "
                f"({REVIEWS.field(canonical).type})",
                "map another column in the dataset profile, or write the file with a plain type",
            )
    if profile.votes and (kind_of := type_at(schema, profile.votes.pair)) is not None:
        listed = pa.types.is_list(kind_of) or pa.types.is_large_list(kind_of)
        whole = listed and (pa.types.is_integer(kind_of.value_type) or pa.types.is_null(kind_of.value_type))
        if not (whole or any(is_kind(kind_of) for is_kind in (pa.types.is_null, *texty))):
            if is_empty(path, profile.votes.pair):
                return names, [*empty, profile.votes.pair]
            raise Unreadable(
                f"column {profile.votes.pair!r} has type {kind_of}, not a list of two whole numbers",
                "leave votes.pair out of the dataset profile, or write the file with a plain type",
            )

    return names, empty


def is_empty(path: str, column: str) -> bool:
    """Tell whether a parquet column, or a path in one, holds nulls (or NaN) only, from the statistics where they are
    there."""
    with locations.open_raw(path) as raw:
        file = pq.ParquetFile(raw)
        schema = file.schema_arrow
        groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
        if column not in schema.names:
            return _is_empty_inside(file, column)
        nan = pa.types.is_floating(schema.field(column).type)
        if not nan and len(schema) == file.metadata.num_columns:  # no nested columns: a leaf for each
            index = schema.names.index(column)
            chunks = [(group.num_rows, group.column(index).statistics) for group in groups]
            if all(stats is not None and stats.has_null_count for _, stats in chunks):
                return all(stats.null_count == rows for rows, stats in chunks)
        try:
            values = (batch.column(0) for batch in file.iter_batches(1 << 16, columns=[column]))
            return all(v.is_null(nan_is_null=nan).true_count == len(v) for v in values)
        except (pa.ArrowException, OSError):
            return False


def _is_empty_inside(file: pq.ParquetFile, path: str) -> bool:
    """Tell whether a path into a parquet column leads to nulls (or NaN) only."""
    schema = file.schema_arrow
    try:
        for batch in file.iter_batches(1 << 16, columns=columns_to_read(schema, [path])):
            values = opened(parquet_frames.of(pa.Table.from_batches([batch]), {}), schema, [path]).to_series()
            if not (values.fill_nan(None) if values.dtype.is_float() else values).is_null().all():
                return False
    except (pa.ArrowException, OSError):
        return False
    return True


def check_columns(names: Sequence[str], profile: Profile, kind: Kind) -> None:
    """Raise Unreadable if a mandatory column is missing."""
    profile = with_names(profile, names)
    mandatory = profile.mandatory if kind == "reviews" else [item_id_path(profile)]
    missing = [column for column in mandatory if column not in names]
    if missing:
        lower = {name.casefold(): name for name in names}
        near = {m: [lower[n] for n in get_close_matches(m.casefold(), lower, n=1)] for m in missing}
        hints = [f"{m} (did you mean {close[0]}?)" if close else m for m, close in near.items()]
        raise Unreadable(
            f"mandatory column(s) missing: {', '.join(hints)}",
            f"choose or write the dataset profile for these columns: {', '.join(names[:20])}",
        )
    if kind == "items" and profile.items is not None:
        about = {p: steps_of(p)[0] for c, p in profile.items.model_dump(exclude_none=True).items() if c != "item_id"}
        if about and not {*about, *about.values()} & set(names):
            raise Unreadable("no product column but the id is there", "give reviews as --input")
