"""Rows assigned to slices, in process: which go where, which are left out and why."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import InputError
from tasks.core.snapshot_files import FileSink
from tasks.parallel.exchange import exchange_in_process
from tasks.settings import load_settings
from tasks.stages.near_duplicates import NEAR_DUPLICATES
from tasks.stages.split import (
    REASONS,
    SLICES,
    SplitConfig,
    check_sizes,
    find_earlier,
    labelled_ms,
    split_by_key,
    write_parts,
)

DAY = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)
CUTS = [int((DAY + dt.timedelta(days=d)).timestamp() * 1000) for d in (10, 20)]
Rows = Sequence[dict[str, Any]]


def config(*overrides: str) -> SplitConfig:
    return load_settings(overrides=[f"split.{o}" for o in overrides]).split


def dealt(folder: Path, parts: Sequence[Rows], given: SplitConfig, alike: Rows = ()) -> dict[str, list[str]]:
    """The ids of each slice, and as "id reason slice" those left out; rows say `day`, `user`, `text` and `label`."""
    files = [folder / f"in-{i}.parquet" for i in range(len(parts))]
    number = 0
    for file, part in zip(files, parts, strict=True):
        columns = {
            "review_id": [f"R{number + i}" for i in range(len(part))],
            "user_id": [r.get("user", f"u{number + i}") for i, r in enumerate(part)],
            "timestamp": pa.array([DAY + dt.timedelta(days=r["day"]) for r in part], pa.timestamp("ms", "UTC")),
            "label": pa.array([r.get("label", 3.0) for r in part], pa.float32()),
            "text_digest": pa.array([r.get("text") for r in part], pa.uint64()),
            "n_chars": pa.array([r.get("n_chars", 50.0) for r in part], pa.float32()),
        }
        number += len(part)
        pq.write_table(pa.table(columns), file)
    pairs = folder / "alike.parquet"
    pq.write_table(pa.Table.from_pylist([{"timestamp": DAY, **r} for r in alike], NEAR_DUPLICATES), pairs)
    shared = (given, CUTS, [pairs])
    earlier = exchange_in_process(files, partial(split_by_key, shared=shared), find_earlier, 3)
    found: dict[str, list[str]] = {name: [] for name in (*SLICES, "left_out")}
    for i, (file, answers) in enumerate(zip(files, earlier, strict=True)):
        entries, _ = write_parts(FileSink(str(folder)), i, file, shared, *answers)
        for entry in entries:
            rows = pl.read_parquet(folder / entry.name, hive_partitioning=False)
            if entry.table == "left_out":
                found["left_out"] += [f"{r[0]} {r[1]} {r[2]}" for r in rows.iter_rows()]
            elif entry.table in SLICES:
                found[entry.table] += rows["review_id"].to_list()
    assert sum(map(len, found.values())) == number, "a row is lost, or in two tables"
    return found


def test_a_text_of_an_earlier_slice_is_left_out_of_the_later_ones(tmp_path: Path) -> None:
    rows = [
        {"day": 1, "text": 7}, {"day": 2, "text": 7},  # both in train
        {"day": 11, "text": 7}, {"day": 12, "text": 8}, {"day": 13, "text": None},
        {"day": 21, "text": 7}, {"day": 22, "text": 8}, {"day": 23, "text": 9}, {"day": 24, "text": None},
    ]  # fmt: skip
    found = dealt(tmp_path, [rows[5:], rows[:5]], config())  # later reviews may come in earlier files
    assert found == {
        "train": ["R4", "R5"],
        "valid": ["R7", "R8"],
        "test": ["R2", "R3"],
        "left_out": ["R0 repeat test", "R1 repeat test", "R6 repeat valid"],
    }
    kept = dealt(tmp_path, [rows[5:], rows[:5]], config("repeats=keep"))
    assert kept["left_out"] == []


def test_short_texts_may_repeat_where_conf_says_so(tmp_path: Path) -> None:
    rows = [{"day": d, "text": t, "n_chars": n} for d, t, n in [(1, 7, 9), (2, 8, 10), (11, 7, 9), (12, 8, 10)]]
    assert dealt(tmp_path, [rows], config("repeats_min_chars=10"))["left_out"] == ["R3 repeat valid"]


def test_near_duplicates_of_an_earlier_slice_are_left_out(tmp_path: Path) -> None:
    rows = [{"day": d} for d in (1, 2, 11, 12, 21, 22)]
    groups = {"R0": "R0", "R1": "R0", "R2": "R0", "R5": "R0", "R3": "R3", "R4": "R3"}
    alike = [{"review_id": review, "group": group} for review, group in groups.items()]
    found = dealt(tmp_path, [rows[:3], rows[3:]], config(), alike)
    assert found["left_out"] == ["R2 near_repeat valid", "R4 near_repeat test", "R5 near_repeat test"]
    assert dealt(tmp_path, [rows[:3], rows[3:]], config("repeats=keep"), alike)["left_out"] == []


def test_a_review_without_label_is_left_out_and_takes_no_other_with_it(tmp_path: Path) -> None:
    rows = [{"day": 1, "text": 7, "user": "a", "label": None}, {"day": 11, "text": 7, "user": "a"}]
    found = dealt(tmp_path, [rows], config("by=both"))
    assert (found["valid"], found["left_out"]) == (["R1"], ["R0 without_label train"])
    file = tmp_path / "in-0.parquet"
    assert labelled_ms(file).tolist() == [int((DAY + dt.timedelta(days=11)).timestamp() * 1000)]


def test_by_both_a_user_of_an_earlier_slice_is_left_out(tmp_path: Path) -> None:
    days = [(1, "a"), (11, "a"), (12, "b"), (13, "b"), (21, "b"), (22, "c"), (23, "a")]
    rows = [{"day": d, "user": u} for d, u in days]
    found = dealt(tmp_path, [rows[:4], rows[4:]], config("by=both"))
    assert found == {
        "train": ["R0"],
        "valid": ["R2", "R3"],
        "test": ["R5"],
        "left_out": ["R1 known_user valid", "R4 known_user test", "R6 known_user test"],
    }


def test_by_user_no_user_is_in_two_slices_the_shares_are_met_and_the_seed_decides(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    users = [f"u{u}" for u in rng.integers(0, 2000, 6000)]
    rows = [{"day": int(d), "user": u} for d, u in zip(rng.integers(0, 30, 6000), users, strict=True)]
    found = dealt(tmp_path, [rows[:10], rows[10:]], config("by=user"))
    by_slice = [{users[int(i[1:])] for i in found[name]} for name in SLICES]
    assert not by_slice[0] & by_slice[1]
    assert not (by_slice[0] | by_slice[1]) & by_slice[2]
    assert [len(found[name]) / 6000 for name in SLICES] == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    assert dealt(tmp_path, [rows], config("by=user")) == found  # files do not decide
    assert dealt(tmp_path, [rows], config("by=user", "seed=8")) != found


def test_by_user_a_repeated_text_stays_in_the_first_named_slice_alone(tmp_path: Path) -> None:
    rows = [{"day": i % 30, "user": f"u{i}", "text": 7} for i in range(200)]
    found = dealt(tmp_path, [rows], config("by=user"))
    assert found["valid"] == found["test"] == []
    assert {line.split(maxsplit=1)[1] for line in found["left_out"]} == {"repeat valid", "repeat test"}


def test_a_slice_left_too_small_says_what_was_left_out() -> None:
    check_sizes({"train": 100, "valid": 20, "test": 20}, {}, config())
    left_out = {"without_label": {"train": 5000}, "repeat": {"valid": 30, "test": 4}}
    with pytest.raises(InputError) as raised:
        check_sizes({"train": 100, "valid": 3, "test": 20}, left_out, config("by=both"))
    for said in ("by time and user", "valid has 3", "without_label 5,000", "repeat 34", "split.repeats=keep"):
        assert said in str(raised.value)
    assert set(left_out) <= set(REASONS)
