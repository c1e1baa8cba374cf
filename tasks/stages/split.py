"""Split feature rows into the tables train, valid, test and `left_out`: every row is in one of the four.

`split.by` decides the slice:

- time: each slice is strictly later than the one before. Rows with one timestamp stay together, so the shares are met
  as nearly as the data allows.
- user: a hash of the user's name and `split.seed` puts each user into one slice; the slices overlap in time.
- both: by time, and later slices leave out users with a review in an earlier one. Not the other way round: the training
  reviews must not depend on who writes again.

A text that repeats a training text is easier to predict than a new one. So with `split.repeats: leave_out` a review of
valid or test is left out if its text is in an earlier slice: exactly, except for letter case and white space, or nearly
(`tasks.stages.near_duplicates`). With `keep`, near repeats stay and are listed in the table near_duplicates
(`review_id`, `slice`, `group`).

`left_out` has `review_id`, `reason` (REASONS) and the `slice` it would be in. Only evaluation reads the test slice.

    raymill run --until split
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from tasks.core.errors import InputError
from tasks.core.part_files import read_part
from tasks.core.sections import Positive, Section
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.engines import cluster
from tasks.parallel import time_borders as timeline
from tasks.parallel.exchange import by_block, hash_partition, keyed_exchange, stacked
from tasks.parallel.key_hash import key_hash

SLICES = ("train", "valid", "test")
# Why a row is in no slice: the first of these that holds.
REASONS = {
    "without_label": "the target says nothing of it",
    "known_user": "its user has a review in an earlier slice",
    "repeat": "its text is that of a review in an earlier slice",
    "near_repeat": "its text is nearly that of a review in an earlier slice",
}
KINDS = ("known_user", "repeat", "near_repeat")
LEFT_OUT = pa.schema([("review_id", pa.string()), ("reason", pa.string()), ("slice", pa.string())])
NEAR_DUPLICATES = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("review_id", "slice", "group")])
BUCKETS = 8  # buckets of the exchange; no result depends on their number
BUCKET_ROWS = 1_000_000


class SplitConfig(Section):
    by: Literal["time", "user", "both"]
    train: Annotated[float, Field(gt=0, lt=1)]
    valid: Annotated[float, Field(gt=0, lt=1)]
    seed: int
    repeats: Literal["leave_out", "keep"]
    repeats_min_chars: Positive
    min_rows: Positive

    @model_validator(mode="after")
    def _leaves_a_test_slice(self) -> SplitConfig:
        if self.train + self.valid >= 1:
            raise ValueError("train + valid must leave a test slice: their sum must be below 1")
        return self


Shared = tuple[SplitConfig, list[int], Sequence[Path]]  # borders in ms, and the files of near-duplicates


def sliced_rows(splits: Snapshot) -> int:
    return sum(splits.rows(name) for name in SLICES)


@stage(version=2, config=SplitConfig, size=sliced_rows, libraries=("pyarrow", "polars"))
def split(table: Snapshot, alike: Snapshot, config: SplitConfig, out: SnapshotWriter) -> None:
    import ray

    files = table.files()
    cuts = time_borders(files, table.facts["target"], config) if config.by != "user" else []
    shared = (config, cuts, alike.files())
    buckets = max(BUCKETS, -(-table.rows() // BUCKET_ROWS))
    earlier_rows = keyed_exchange(files, partial(split_by_key, shared=shared), find_earlier, buckets)
    write = ray.remote(write_parts)
    written = cluster.gather(
        write.remote(out.sink, i, file, shared, *earlier)
        for i, (file, earlier) in enumerate(zip(files, earlier_rows, strict=True))
    )
    out.add(entry for entries, _ in written for entry in entries)
    out.side_table("near_duplicates")
    out.count(rows_in=table.rows())
    report(out, table.facts, config, cuts, [summary for _, summary in written], alike)


def time_borders(files: Sequence[Path], target: str, config: SplitConfig) -> list[int]:
    cuts = timeline.borders(files, [config.train, config.train + config.valid], labelled_ms)
    if not cuts:
        raise InputError(f"no review has a label for the target {target}", where="split", fix=NO_LABELS)
    return cuts


NO_LABELS = "choose another features.target, or lower features.min_votes"


def labelled_ms(file: Path) -> NDArray[np.int64]:
    """Read the times of a file's rows with a label."""
    rows = read_part(file, ["timestamp", "label"])
    return rows.filter(pl.col("label").is_not_null())["timestamp"].dt.epoch("ms").to_numpy()


def homes(rows: pl.DataFrame, config: SplitConfig, cuts: Sequence[int]) -> NDArray[np.int64]:
    """Return the number of each row's slice."""
    if config.by != "user":
        return np.searchsorted(cuts, rows["timestamp"].dt.epoch("ms").to_numpy(), side="right")
    seeds = np.full(len(rows), config.seed, np.int64)
    users = pa.table({"user": rows["user_id"].to_arrow(compat_level=pl.CompatLevel.oldest()), "seed": seeds})
    place = key_hash(users, ("user", "seed")) / 2.0**64
    return np.searchsorted([config.train, config.train + config.valid], place, side="right")


def split_by_key(file: Path, buckets: int, shared: Shared) -> list[pa.Table]:
    """Hash-partition the keys that a file's rows must not share with an earlier slice: `kind`, `key`, `row`, `home`."""
    config, cuts, alike = shared
    rows = read_part(file, KEY_COLUMNS)
    rows = rows.with_row_index("row").with_columns(home=pl.Series(homes(rows, config, cuts), dtype=pl.Int8))
    rows = rows.filter(pl.col("label").is_not_null())
    keys = {"known_user": pl.col("user_id").hash(7), "repeat": pl.col("text_digest"), "near_repeat": pl.col("group")}
    long_enough = pl.col("text_digest").is_not_null() & (pl.col("n_chars") >= config.repeats_min_chars)
    rows_by_kind = {
        "known_user": rows if config.by == "both" else rows.clear(),
        "repeat": rows.filter(long_enough) if config.repeats == "leave_out" else rows.clear(),
        "near_repeat": rows.join(groups_of(alike), on="review_id"),
    }
    keyed = pl.concat(
        rows_by_kind[kind].select(pl.lit(i, dtype=pl.Int8).alias("kind"), keys[kind].alias("key"), "row", "home")
        for i, kind in enumerate(KINDS)
    )
    return hash_partition(keyed, pl.col("key"), buckets)


KEY_COLUMNS = ["review_id", "user_id", "timestamp", "label", "text_digest", "n_chars"]


def groups_of(alike: Sequence[Path]) -> pl.DataFrame:
    """Read `review_id`, the `name` of its group of near-duplicates, and a hash of that as `group`."""
    members = pl.concat([read_part(f, ["review_id", "group"]) for f in alike])
    return members.select("review_id", name="group", group=pl.col("group").hash(7))


def find_earlier(slices: list[pa.Table]) -> list[pa.Table]:
    """Return, for each block, its rows that share a key with one of an earlier slice: `row`, `kind`."""
    repeats = stacked(slices).filter(pl.col("home") > pl.col("home").min().over("kind", "key"))
    return by_block(repeats.select("block", "row", "kind"), len(slices))


def write_parts(
    sink: FileSink, index: int, file: Path, shared: Shared, *earlier: pa.Table
) -> tuple[list[FileEntry], dict[str, Any]]:
    """Write one file's rows to their slices or to those left out; returns the entries and a summary.

    earlier: the results of `find_earlier`.
    """
    config, cuts, alike = shared
    rows = read_part(file)
    home = homes(rows, config, cuts)
    shares = pl.concat([pl.DataFrame(pl.from_arrow(e)) for e in earlier])
    reason = np.full(len(rows), "", dtype=object)
    for kind in reversed([k for k in KINDS if k != "near_repeat" or config.repeats == "leave_out"]):
        reason[shares.filter(pl.col("kind") == KINDS.index(kind))["row"].to_numpy()] = kind
    reason[rows["label"].is_null().to_numpy()] = "without_label"

    entries, periods = [], {}
    for i, name in enumerate(SLICES):
        if len(part := rows.filter((home == i) & (reason == ""))):
            entries.append(sink.write_table(part_name(index, name), part.to_arrow()))
            periods[name] = (part["timestamp"].min(), part["timestamp"].max())
    where = pl.Series("slice", np.array(SLICES)[home], dtype=pl.String)
    out = rows.select("review_id", reason=pl.Series(reason, dtype=pl.String), slice=where)
    out = out.filter(pl.col("reason") != "")
    if index == 0 or len(out):
        entries.append(sink.write_table(part_name(index, "left_out"), out.to_arrow(), LEFT_OUT))
    near = rows.select("review_id", slice=where).with_row_index("row").filter(pl.Series(reason == ""))
    near = near.join(shares.filter(pl.col("kind") == KINDS.index("near_repeat")), on="row").join(
        groups_of(alike), on="review_id"
    )
    if index == 0 or len(near):
        near = near.sort("row").select("review_id", "slice", group="name")
        entries.append(sink.write_table(part_name(index, "near_duplicates"), near.to_arrow(), NEAR_DUPLICATES))
    left_out = Counter(out.select("reason", "slice").rows())
    return entries, {"periods": periods, "left_out": left_out, "near": near["slice"].to_list()}


def report(
    out: SnapshotWriter,
    facts: dict[str, Any],
    config: SplitConfig,
    cuts: Sequence[int],
    summaries: Sequence[dict[str, Any]],
    alike: Snapshot,
) -> None:
    """Write the facts. Raises InputError for a slice that is too small to train or to test on."""
    rows = {name: out.rows(name) for name in SLICES}
    left_out: Counter[tuple[str, str]] = sum((s["left_out"] for s in summaries), Counter())
    reasons = {r: {s: left_out[r, s] for s in SLICES if left_out[r, s]} for r in REASONS}
    reasons = {reason: slices for reason, slices in reasons.items() if slices}
    check_sizes(rows, reasons, config)
    near = Counter(name for s in summaries for name in s["near"])
    groups = alike.read(columns=["group"])["group"].unique()
    out.fact(
        **{name: facts[name] for name in ("features", "groups", "target", "linear")},
        by=config.by,
        rows=rows,
        borders={"train_until": iso(cuts[0]), "valid_until": iso(cuts[1])} if cuts else None,
        periods={name: period(s["periods"][name] for s in summaries if name in s["periods"]) for name in SLICES},
        left_out=reasons,
        near_duplicates={"groups": len(groups), **{name: near[name] for name in SLICES[1:]}},
    )
    out.count(left_out=left_out.total(), without_label=sum(reasons.get("without_label", {}).values()))


def check_sizes(rows: dict[str, int], reasons: dict[str, dict[str, int]], config: SplitConfig) -> None:
    if not (small := [f"{name} has {n:,}" for name, n in rows.items() if n < config.min_rows]):
        return
    gone = ", ".join(f"{reason} {sum(slices.values()):,}" for reason, slices in reasons.items())
    left = f"; left out: {gone}" if gone else ""
    how = {"time": "by time", "user": "by user", "both": "by time and user"}[config.by]
    raise InputError(
        f"too few reviews to split {how}: {', '.join(small)} of {sum(rows.values()):,}, each needs {config.min_rows}"
        + left,
        where="split",
        fix="give more data over a longer time, or lower split.min_rows"
        + (", or keep more: split.repeats=keep, split.by=time" if "repeat" in gone or "user" in gone else ""),
    )


def period(ends: Any) -> dict[str, str]:
    """Return the first and the last time of a slice."""
    firsts, lasts = zip(*ends, strict=True)
    return {"from": min(firsts).isoformat(), "until": max(lasts).isoformat()}


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()
