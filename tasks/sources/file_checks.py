"""Check that a raw file has the columns and types its profile needs, before any row is read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.domain.schemas import REVIEWS
from tasks.sources import locations
from tasks.sources.item_records import parse_literal, steps_of
from tasks.sources.json_records import blocks
from tasks.sources.json_values import DECODER, parse_json
from tasks.sources.own_profile import with_names
from tasks.sources.profiles import Profile
from tasks.sources.settings import ReadConfig

Kind = Literal["reviews", "items"]


class Unreadable(Exception):
    """One file cannot be read: what is wrong, and what to do."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


def check_json_lines(start: bytes, profile: Profile, kind: Kind, *, whole: bool) -> None:
    """Raise Unreadable if no complete record has the mandatory columns: it is another kind of file.

    `whole`: `start` is all of the file, so its last line is not cut."""
    lines = start.split(b"\n")[: None if whole else -1]
    if records := _objects(lines, parse_literal if kind == "items" else parse_json):
        check_columns(sorted(set().union(*records)), profile, kind)
    elif profile.mandatory and _objects(lines, parse_literal):
        raise Unreadable(
            "the lines are Python literals, as in product metadata, not JSON", "give product metadata as --items"
        )
    elif profile.columns and (first := _over_lines(start)) is not None:
        check_columns(sorted(first), profile, kind)
    elif not whole and profile.mandatory and not any(json.dumps(c).encode() in start for c in profile.mandatory):
        raise Unreadable(
            f"not JSON lines, and its first {len(start) >> 10} KB name none of {', '.join(profile.mandatory)}",
            "give JSON lines, or one array of objects",
        )


def _over_lines(start: bytes) -> dict[str, Any] | None:
    """Return the object that a file begins with if it takes several lines."""
    try:
        first, _ = DECODER.raw_decode(start.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return first if isinstance(first, dict) else None


def check_json_array(start: bytes, profile: Profile, kind: Kind) -> None:
    """Raise Unreadable if the first elements are no records with the mandatory columns: it is another kind of file."""
    if not profile.columns:
        return
    first = next(iter(blocks(io.BytesIO(start), array=True, max_record_bytes=len(start))))
    if first.rows:
        check_columns(sorted(set().union(*first.rows)), profile, kind)
    elif complete := [bad for bad in first.bad if bad.reason.endswith("not an object")]:
        raise Unreadable(f"the array holds no objects, but {complete[0].text[:40]}", "give one object for each review")


def json_names(start: bytes, array: bool) -> list[str]:
    """Return the keys of the records in a file's first bytes."""
    found = blocks(io.BytesIO(start), array=array, max_record_bytes=len(start), parse_line=parse_literal)
    return [*dict.fromkeys(key for block in found for row in block.rows for key in row)]


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
    check_columns(schema.names, profile, kind)
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise Unreadable(f"several columns have the name {twice[0]!r}", "write the file with a name for each")
    if kind == "items":
        return schema.names, []
    profile, empty = with_names(profile, schema.names), []
    scalar = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_decimal,
        pa.types.is_dictionary,
    )
    timely = (*scalar, pa.types.is_date, pa.types.is_timestamp)
    texty = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_dictionary)
    for canonical, source in profile.columns.items():
        if source not in schema.names:
            continue
        kind_of = schema.field(source).type
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
    if profile.votes and profile.votes.pair in schema.names:
        kind_of = schema.field(profile.votes.pair).type
        listed = pa.types.is_list(kind_of) or pa.types.is_large_list(kind_of)
        whole = listed and (pa.types.is_integer(kind_of.value_type) or pa.types.is_null(kind_of.value_type))
        if not (whole or any(is_kind(kind_of) for is_kind in (pa.types.is_null, *texty))):
            if is_empty(path, profile.votes.pair):
                return schema.names, [*empty, profile.votes.pair]
            raise Unreadable(
                f"column {profile.votes.pair!r} has type {kind_of}, not a list of two whole numbers",
                "leave votes.pair out of the dataset profile, or write the file with a plain type",
            )

    return schema.names, empty


def is_empty(path: str, column: str) -> bool:
    """Tell whether a parquet column holds nulls (or NaN) only, from the statistics where they are there."""
    with locations.open_raw(path) as raw:
        file = pq.ParquetFile(raw)
        index = file.schema_arrow.names.index(column)
        groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
        nan = pa.types.is_floating(file.schema_arrow.field(column).type)
        if not nan and len(file.schema_arrow) == file.metadata.num_columns:  # no nested columns: a leaf for each
            chunks = [(group.num_rows, group.column(index).statistics) for group in groups]
            if all(stats is not None and stats.has_null_count for _, stats in chunks):
                return all(stats.null_count == rows for rows, stats in chunks)
        try:
            values = (batch.column(0) for batch in file.iter_batches(1 << 16, columns=[column]))
            return all(v.is_null(nan_is_null=nan).true_count == len(v) for v in values)
        except (pa.ArrowException, OSError):
            return False


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
