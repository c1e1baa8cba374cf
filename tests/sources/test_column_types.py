"""Types of parquet and JSON columns that need care: days as whole numbers, zones, times no date can show, odd types."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.settings import CONF
from tasks.sources.inspection import inspect
from tests.support.accounts import read_all
from tests.support.inspected_files import as_csv, json_lines, proposed, use
from tests.support.raw_files import DAY, review

NOON = dt.datetime(2018, 1, 5, 12)


def one_column(path: Path, name: str, values: pa.Array) -> Path:
    """A parquet file of reviews in which one column has these values."""
    table = pa.Table.from_pylist([review(review_id=f"R{i}") for i in range(len(values))])
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, values), path)
    return path


class TestDaysAsWholeNumbers:
    @pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "float.parquet"])
    def test_are_found_and_read_alike_in_every_format(self, tmp_path: Path, ending: str) -> None:
        rows = [
            {"user_id": f"U{i}", "item_id": f"B{i % 7}", "rating": i % 5 + 1, "text": f"Text {i} of some length"}
            | {"date_key": 20180101 + i % 28}
            for i in range(60)
        ]
        folder = tmp_path / "in"
        folder.mkdir()
        path = folder / f"a.{ending}"
        if ending == "csv":
            path.write_text(as_csv([[*rows[0]], *([*row.values()] for row in rows)]))
        elif ending == "jsonl":
            path.write_text(json_lines(*rows))
        else:
            table = pa.Table.from_pylist(rows)
            kind = pa.float64() if ending == "float.parquet" else pa.int32()
            pq.write_table(table.set_column(4, "date_key", table["date_key"].cast(kind)), path)
        found = proposed(folder)
        assert 'timestamp: {formats: ["%Y%m%d"]}' in (found.yaml or "")
        kept, rejected = use(found, folder, tmp_path)
        assert rejected == []
        assert [row["timestamp"] for row in kept[:2]] == [dt.datetime(2018, 1, day, tzinfo=dt.UTC) for day in (1, 2)]

    def test_milliseconds_stay_milliseconds_and_a_unit_decides(self, tmp_path: Path) -> None:
        moments = [int(DAY.timestamp() * 1000), 20150831]
        (tmp_path / "a.jsonl").write_text(json_lines(*(review(review_date=m) for m in moments)))
        profile = tmp_path / "mine.yaml"
        shipped = (CONF / "datasets" / "amazon-us.yaml").read_text(encoding="utf-8")
        whole = shipped.replace('["%Y-%m-%d", "%m/%d/%Y"]', '["%Y%m%d"]')
        profile.write_text(whole)
        assert [row["timestamp"] for row in read_all(tmp_path / "a.jsonl", str(profile)).kept] == [DAY, DAY]
        profile.write_text(whole.replace("formats:", "unit: s\n  formats:"))
        assert read_all(tmp_path / "a.jsonl", str(profile)).reasons == [
            (0, "timestamp in the future"),
            (1, "timestamp before 1990-01-01"),
        ]


class TestZones:
    @pytest.mark.parametrize("zone", ["+05:30", "-08:00", "+00:00", "Etc/GMT+5", "America/New_York", "UTC"])
    @pytest.mark.parametrize("unit", ["ms", "us", "ns"])
    def test_a_moment_is_the_same_in_any_zone(self, tmp_path: Path, zone: str, unit: str) -> None:
        one_column(tmp_path / "a.parquet", "review_date", pa.array([NOON, None], pa.timestamp(unit, zone)))
        found = read_all(tmp_path)
        assert [row["timestamp"] for row in found.kept] == [NOON.replace(tzinfo=dt.UTC)]
        assert found.reasons == [(1, "no timestamp")]
        judged = inspect([str(tmp_path)], "amazon-us").chosen
        assert judged is not None
        assert judged.usable == 1

    def test_nor_does_one_in_a_column_that_is_not_read_matter(self, tmp_path: Path) -> None:
        inside = pa.list_(pa.struct([("at", pa.timestamp("us", "+05:30"))]))
        one_column(tmp_path / "a.parquet", "vine", pa.array([[{"at": NOON}], None], inside))
        assert len(read_all(tmp_path).kept) == 2
        assert inspect([str(tmp_path)]).layouts[0].rows == 2


@pytest.mark.parametrize(
    ("column", "values", "usable"),
    [
        ("review_date", pa.array([2**60, 0], pa.timestamp("us")), 0),
        ("review_date", pa.array([2**50, 0], pa.timestamp("s")), 0),
        ("review_date", pa.array([-(2**63) + 1, 0], pa.timestamp("ns")), 0),
        ("star_rating", pa.array([Decimal(4)] * 2, pa.decimal256(50, 2)), 2),
        ("star_rating", pa.array([4.0, 3.0], pa.float32()).cast(pa.float16()), 2),
        ("vine", pa.array([Decimal(4)] * 2, pa.decimal256(50, 2)), 2),
        ("vine", pa.array([b"\xff", b"a"]), 2),
        ("vine", pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())), 2),
        ("vine", pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}", None])), 2),
    ],
    ids=str,
)
def test_no_type_of_a_column_ends_in_a_traceback(tmp_path: Path, column: str, values: pa.Array, usable: int) -> None:
    one_column(tmp_path / "a.parquet", column, values)
    found = read_all(tmp_path)
    assert (len(found.kept), len(found.rejected), found.damage) == (usable, 2 - usable, {})
    assert inspect([str(tmp_path)], "amazon-us").layouts[0].rows == 2


OTHERS: list[Any] = [["a", "b"], [1, 2], [[1], [2]], [{"a": 1}, {"a": 2}], [NOON, NOON], [True, False], [b"\xff", b"b"]]


@pytest.mark.parametrize("other", [*OTHERS, pa.array([NOON, NOON], pa.timestamp("us", "UTC"))], ids=str)
def test_a_column_may_have_another_type_in_each_file(tmp_path: Path, other: Any) -> None:
    for n, values in enumerate([*OTHERS, other]):
        one_column(tmp_path / f"{n}.parquet", "vine", pa.array(values))
    judged = inspect([str(tmp_path)]).chosen
    assert judged is not None
    assert judged.usable == 2 * len(OTHERS) + 2
