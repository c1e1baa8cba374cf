"""Check that a raw file has the columns and types its profile needs, before any row is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.domain.schemas import REVIEWS
from tasks.sources import locations
from tasks.sources.item_records import parse_literal, steps_of
from tasks.sources.json_values import parse_json
from tasks.sources.paths import columns_of, type_at
from tasks.sources.profiles import Profile
from tasks.sources.python_lines import parse_record
from tasks.sources.settings import ReadConfig

Kind = Literal["reviews", "items"]


class Unreadable(Exception):
    """One file cannot be read: what is wrong, and what to do."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


def check_json_lines(start: bytes, profile: Profile, kind: Kind) -> Literal["json-lines", "python-lines"]:
    """Return whether the lines are JSON or Python literals.

    Raises Unreadable if no complete record has the mandatory columns: it is another kind of file."""
    lines = start.split(b"\n")[: -1 if b"\n" in start else None]  # the last one may be cut
    if records := _objects(lines, parse_literal if kind == "items" else parse_json):
        check_records(records, profile, kind)
    elif kind == "reviews" and (records := _objects(lines, parse_record)):
        if profile.mandatory and not fit(records, profile, kind):
            raise Unreadable(
                "the lines are Python literals, as in product metadata, without the columns of reviews",
                "give product metadata as --items",
            )
        return "python-lines"
    return "json-lines"


def check_records(records: Sequence[dict[str, Any]], profile: Profile, kind: Kind) -> None:
    """Raise Unreadable if none of these records has a mandatory column."""
    check_columns(columns_of(records, profile.mandatory if kind == "reviews" else ()), profile, kind)


def fit(records: Iterable[dict[str, Any]], profile: Profile, kind: Kind) -> bool:
    """Whether some of these records have the mandatory columns; no record fits a profile that needs none."""
    needed = profile.mandatory if kind == "reviews" else [steps_of(item_id_path(profile))[0]]
    return bool(needed) and set(map(str, needed)) <= set(columns_of(records, map(str, needed)))


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


def check_parquet(path: str, profile: Profile, config: ReadConfig, kind: Kind) -> None:
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
    paths = [p for p in profile.wanted if p not in schema.names and type_at(schema, p) is not None]
    check_columns([*schema.names, *paths], profile, kind)
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise Unreadable(f"several columns have the name {twice[0]!r}", "write the file with a name for each")
    if kind == "items":
        return
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
        if (kind_of := type_at(schema, source)) is None:
            continue
        allowed = {"timestamp": timely, "text": texty, "title": texty, "verified": (*scalar, pa.types.is_boolean)}
        if not (pa.types.is_null(kind_of) or any(is_kind(kind_of) for is_kind in allowed.get(canonical, scalar))):
            raise Unreadable(
                f"column {source!r} has type {kind_of}, which cannot become {canonical} "
                f"({REVIEWS.field(canonical).type})",
                "map another column in the dataset profile, or write the file with a plain type",
            )
    if profile.votes and (kind_of := type_at(schema, profile.votes.pair)) is not None:
        listed = pa.types.is_list(kind_of) or pa.types.is_large_list(kind_of)
        whole = listed and (pa.types.is_integer(kind_of.value_type) or pa.types.is_null(kind_of.value_type))
        if not (whole or any(is_kind(kind_of) for is_kind in (pa.types.is_null, *texty))):
            raise Unreadable(
                f"column {profile.votes.pair!r} has type {kind_of}, not a list of two whole numbers",
                "leave votes.pair out of the dataset profile, or write the file with a plain type",
            )


def check_columns(names: Sequence[str], profile: Profile, kind: Kind) -> None:
    """Raise Unreadable if a mandatory column is missing."""
    mandatory = profile.mandatory if kind == "reviews" else [item_id_path(profile)]
    missing = [column for column in mandatory if column not in names]
    if missing:
        near = {m: get_close_matches(m, names, n=1) for m in missing}
        hints = [f"{m} (did you mean {close[0]}?)" if close else m for m, close in near.items()]
        raise Unreadable(
            f"mandatory column(s) missing: {', '.join(hints)}",
            f"choose or write the dataset profile for these columns: {', '.join(names[:20])}",
        )
    if kind == "items" and profile.items is not None:
        about = {p: steps_of(p)[0] for c, p in profile.items.model_dump(exclude_none=True).items() if c != "item_id"}
        if about and not {*about, *about.values()} & set(names):
            raise Unreadable("no product column but the id is there", "give reviews as --input")
