"""Map source columns to canonical ones: each row goes to the reviews or, with the reason, to the rejects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.domain.ids import id_of
from tasks.domain.schemas import REJECTS, REVIEWS, UNRATED
from tasks.sources.day_order import CONTESTED, contested
from tasks.sources.json_records import BadRecord
from tasks.sources.profiles import Profile, Scalar
from tasks.sources.ratings import rating_of
from tasks.sources.time_formats import cut, moment_of, parsed

UTC_MS = pl.Datetime("ms", "UTC")
ANONYMOUS = "anonymous:"
RECORD_CHARS = 20_000
VOTES_PAIR = r"^\s*\[\s*(-?[0-9]+)\s*,\s*(-?[0-9]+)\s*\]\s*$"


@dataclass(frozen=True)
class Period:
    """The first and the last day of usable reviews."""

    earliest: date
    latest: date

    @classmethod
    def of(cls, earliest: date, latest: date | None) -> Period:
        # One day later than today, as time zones differ.
        return cls(earliest, latest or datetime.now(UTC).date() + timedelta(days=1))


def to_canonical(
    raw: pl.DataFrame, numbers: np.ndarray, profile: Profile, source: str, period: Period
) -> tuple[pa.Table, pa.Table]:
    """Map a frame of source columns to (REVIEWS, REJECTS). Every row goes to one of them, in its order.

    Under a profile that needs no rating the first are UNRATED: a rating that cannot be used is null.
    """
    schema = REVIEWS if profile.needs_rating else UNRATED
    if not len(numbers):
        return schema.empty_table(), REJECTS.empty_table()
    mapped = raw.select(
        *(_canonical(raw, name, profile).alias(name) for name in REVIEWS.names),
        _given_rating=_given(raw, "rating", profile),
        _given_time=_given(raw, "timestamp", profile),
        _contested=_contested(raw, profile),
    ).with_columns(_reason(period, profile))
    mapped = mapped.with_columns(_without_contradiction())
    if not profile.needs_rating:
        mapped = mapped.with_columns(rating=pl.when(pl.col("rating").is_between(1, 5)).then("rating"))
    usable = mapped["_reason"].is_null()
    if usable.all():
        kept, rejected = mapped, REJECTS.empty_table()
    else:
        kept = mapped.filter(usable)
        rejected = _rejects(raw.filter(~usable), mapped.filter(~usable)["_reason"], numbers[~usable.to_numpy()], source)
    kept = _with_ids(kept.select(REVIEWS.names), profile)
    return kept.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema), rejected


def user_ids(raw: pl.DataFrame, profile: Profile) -> pl.Series:
    """Return the users of a frame of source columns as `to_canonical` names them; null where none is given."""
    return raw.select(_canonical(raw, "user_id", profile).alias("user_id")).to_series()


def unparsed(bad: Sequence[BadRecord], source: str) -> pa.Table:
    """Convert records that could not be parsed to REJECTS."""
    return pa.table(
        {
            "reason": [b.reason for b in bad],
            "source": [source] * len(bad),
            "row": [b.number for b in bad],
            "record": [json.dumps(b.text, ensure_ascii=False) for b in bad],
        },
        schema=REJECTS,
    )


def _canonical(raw: pl.DataFrame, name: str, profile: Profile) -> pl.Expr:
    """Return one canonical column with its type; null where the source has no value or one that cannot be parsed."""
    kind = _POLARS_TYPES[name]
    if name in profile.constants:
        return _literal(profile.constants[name], name, profile)
    pair = {"helpful_votes": 0, "total_votes": 1}.get(name)
    if profile.votes and pair is not None:
        value = _votes_of_pair(raw, profile.votes.pair, pair)
    elif (column := profile.columns.get(name)) not in raw.columns:
        value = pl.lit(None, dtype=kind)
    else:
        value = _typed(raw, name, str(column), profile)
    if name in profile.defaults:
        value = pl.coalesce(value, _literal(profile.defaults[name], name, profile))
    return value.fill_null("") if name in ("title", "text") else value


def _typed(raw: pl.DataFrame, name: str, column: str, profile: Profile) -> pl.Expr:
    kind, value = raw.schema[column], pl.col(column)
    if kind == pl.String and profile.nulls:
        value = pl.when(value.is_in(list(profile.nulls))).then(None).otherwise(value)
    if kind == pl.Null:
        return pl.lit(None, dtype=_POLARS_TYPES[name])
    if name == "verified":
        return _flag(kind, value, profile)
    if kind == pl.Boolean:
        kind, value = pl.String(), value.cast(pl.String)  # true is not a number
    if name == "timestamp":
        return _timestamp(kind, value, profile)
    if name == "rating":
        return rating_of(kind, value, profile.rating)
    if name in ("helpful_votes", "total_votes"):
        return _count(kind, value)
    if name in ("user_id", "item_id", "review_id"):
        stripped = id_of(kind, value)
    else:
        value = pl.when(value.is_finite()).then(value) if kind.is_float() else value
        text = value if kind == pl.String else value.cast(pl.String, strict=False)
        if name in ("title", "text"):
            return text
        stripped = text.str.strip_chars()
    return stripped if name == "review_id" else pl.when(stripped != "").then(stripped)


def _count(kind: pl.DataType, value: pl.Expr) -> pl.Expr:
    """Parse votes: numbers, or texts with thousands separators."""
    if kind == pl.String:
        # 1.000 is a thousand in German
        value = value.str.strip_chars().str.replace_all(",", "", literal=True).str.replace(r"\.0{1,2}$", "")
    elif kind.is_float():
        value = pl.when(value == value.floor()).then(value)
    return value.cast(pl.Int32, strict=False)


def _without_contradiction() -> list[pl.Expr]:
    """Return both counts of votes, null where one is negative or more are helpful than there are."""
    helpful, total = pl.col("helpful_votes"), pl.col("total_votes")
    wrong = ((helpful < 0) | (total < 0) | (helpful > total)).fill_null(False)
    return [pl.when(~wrong).then(votes).alias(votes.meta.output_name()) for votes in (helpful, total)]


def _votes_of_pair(raw: pl.DataFrame, column: str, index: int) -> pl.Expr:
    if column not in raw.columns or raw.schema[column] == pl.Null:
        return pl.lit(None, dtype=pl.Int32)
    value = pl.col(column)
    if isinstance(raw.schema[column], pl.List):
        return pl.when(value.list.len() == 2).then(value.list.get(index, null_on_oob=True)).cast(pl.Int32, strict=False)
    return value.cast(pl.String).str.extract(VOTES_PAIR, index + 1).cast(pl.Int32, strict=False)


def _timestamp(kind: pl.DataType, value: pl.Expr, profile: Profile) -> pl.Expr:
    rule = profile.timestamp
    if kind == pl.String:
        value = cut(value, rule)
        ways = [parsed(value, f) for f in rule.formats]
        if (unsure := contested(value, rule.formats)) is not None:
            ways = [pl.when(~unsure).then(way) for way in ways]
        # Without a unit, a number with as many digits as milliseconds have is in milliseconds; no other is.
        number = value if rule.unit else pl.when(value.str.contains("^[0-9]{12,14}$")).then(value)
        ways.append(moment_of(number.cast(pl.Float64, strict=False), rule.unit or "ms"))
        return pl.coalesce(ways)
    if kind.is_numeric():
        moment = moment_of(value.cast(pl.Float64, strict=False), rule.unit or "ms")
        if rule.unit or not rule.formats:
            return moment
        digits = value.cast(pl.Int64, strict=False).cast(pl.String)  # 20180105, as in CSV
        digits = pl.when(value == value.floor()).then(digits) if kind.is_float() else digits
        return pl.coalesce(*(parsed(digits, f) for f in rule.formats), moment)
    if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
        return value.dt.convert_time_zone("UTC").dt.cast_time_unit("ms")
    return value.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def _contested(raw: pl.DataFrame, profile: Profile) -> pl.Expr:
    column = profile.columns.get("timestamp", "")
    if raw.schema.get(column) != pl.String:
        return pl.lit(False)
    unsure = contested(cut(pl.col(column), profile.timestamp), profile.timestamp.formats)
    return pl.lit(False) if unsure is None else unsure


def _flag(kind: pl.DataType, value: pl.Expr, profile: Profile) -> pl.Expr:
    if kind == pl.Boolean:
        return value
    word = value.cast(pl.String, strict=False).str.strip_chars().str.to_lowercase()
    yes, no = ["true", *profile.flags.get("true", ())], ["false", *profile.flags.get("false", ())]
    return pl.when(word.is_in(yes)).then(True).when(word.is_in(no)).then(False)


def _literal(value: Scalar, name: str, profile: Profile) -> pl.Expr:
    """Parse a constant as the same text in a file would be parsed."""
    frame = pl.DataFrame({name: [value if isinstance(value, (bool, int, float)) else str(value)]})
    parsed = frame.select(_typed(frame, name, name, profile)).item()
    return pl.lit(parsed, dtype=_POLARS_TYPES[name])


def _given(raw: pl.DataFrame, name: str, profile: Profile) -> pl.Expr:
    column = profile.columns.get(name)
    if name in profile.constants or name in profile.defaults:
        return pl.lit(True)
    return pl.col(column).is_not_null() if column in raw.columns else pl.lit(False)


def _reason(period: Period, profile: Profile) -> pl.Expr:
    """Return why a row is rejected; null where it is usable."""
    earliest = datetime.combine(period.earliest, time(), UTC)
    after = datetime.combine(period.latest, time(), UTC) + timedelta(days=1)
    rating, moment = pl.col("rating"), pl.col("timestamp")
    wrong_rating = [
        (~pl.col("_given_rating"), "no rating"),
        (rating.is_null() | rating.is_nan(), "rating is not a number"),
        (~rating.is_between(1, 5), "rating outside {:g}..{:g}".format(*profile.rating.scale or (1, 5))),
    ]
    checks = [
        (pl.col("user_id").is_null() & (profile.missing_user == "reject"), "no user_id"),
        (pl.col("item_id").is_null(), "no item_id"),
        *(wrong_rating if profile.needs_rating else []),
        (~pl.col("_given_time"), "no timestamp"),
        (pl.col("_contested"), CONTESTED),
        (moment.is_null(), "timestamp not understood"),
        (moment < earliest, f"timestamp before {period.earliest}"),
        (moment >= after, "timestamp in the future"),
    ]
    chain: Any = pl
    for wrong, reason in checks:
        chain = chain.when(wrong).then(pl.lit(reason))
    first_reason: pl.Expr = chain.otherwise(None).alias("_reason")
    return first_reason


def in_years(moments: pl.Series) -> pl.Series:
    """Tell which times are of the years 1 to 9999: Python has no others."""
    if isinstance(moments.dtype, pl.Datetime) and moments.dtype.time_unit == "ns":
        return moments.is_not_null()  # of 1677 to 2262
    return moments.dt.replace_time_zone(None).is_between(datetime(1, 1, 1), datetime(9999, 12, 31))


def _rejects(raw: pl.DataFrame, reasons: pl.Series, numbers: np.ndarray, source: str) -> pa.Table:
    shown = raw.with_columns(
        column.to_physical() for column in raw if isinstance(column.dtype, pl.Datetime) and not in_years(column).all()
    )
    records = [json.dumps(r, ensure_ascii=False, default=str) for r in shown.to_dicts()]
    return pa.table(
        {
            "reason": reasons.to_list(),
            "source": [source] * len(records),
            "row": numbers,
            "record": [r if len(r) <= RECORD_CHARS else json.dumps(r[:RECORD_CHARS]) for r in records],
        },
        schema=REJECTS,
    )


def _with_ids(kept: pl.DataFrame, profile: Profile) -> pl.DataFrame:
    """Fill in missing ids: for review_id, 96 bits of sha256 over the profile's `identity` columns, the same on every
    machine; then for user_id, if the profile allows it, an anonymous id per review."""
    lacking = kept["review_id"].is_null() | (kept["review_id"] == "")
    if lacking.any():
        identities = kept.filter(lacking).select(
            pl.concat_list(
                pl.concat_str(_as_text(c), pl.lit("\x1f")) for c in profile.identity if c != "review_id"
            ).list.join("")
        )
        made = [sha256(text.encode()).hexdigest()[:24] for text in identities.to_series()]
        if len(made) == len(kept):
            kept = kept.with_columns(review_id=pl.Series(made, dtype=pl.String))
        else:
            ids = kept["review_id"].to_numpy().copy()
            ids[lacking.to_numpy()] = made
            kept = kept.with_columns(review_id=pl.Series(ids, dtype=pl.String))
    if profile.missing_user == "anonymous":
        kept = kept.with_columns(pl.col("user_id").fill_null(ANONYMOUS + pl.col("review_id")))
    return kept


def _as_text(column: str) -> pl.Expr:
    value = pl.col(column)
    if column == "timestamp":
        value = value.cast(pl.Int64)
    # A missing value differs from the empty text.
    return value.cast(pl.String).fill_null("\x00")


_POLARS_TYPES: dict[str, Any] = {
    "review_id": pl.String,
    "user_id": pl.String,
    "item_id": pl.String,
    "rating": pl.Float32,
    "title": pl.String,
    "text": pl.String,
    "timestamp": UTC_MS,
    "helpful_votes": pl.Int32,
    "total_votes": pl.Int32,
    "verified": pl.Boolean,
    "category": pl.String,
}
