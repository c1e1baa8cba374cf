"""Files that differ from their profile in several ways at once: form, encoding, packing, names, folders, dates."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import lzma
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.sources import discover
from tasks.sources.inspection import inspect
from tests.support.accounts import read_all, zipped
from tests.support.inspected_files import as_csv
from tests.support.raw_files import BASE, DAY

FOLDER = "product_category=Toys"
ROWS = [
    {("Star_Rating" if k == "star_rating" else k): v for k, v in (BASE | {"review_id": f"R{i}"}).items()}
    for i in range(40)
]
ROWS = [{k: v for k, v in row.items() if k != "product_category"} for row in ROWS]
FORMS = {
    "lines.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "python.jsonl": "".join(f"{row!r}\n" for row in ROWS),
    "array.json": json.dumps(ROWS, indent=1),
    "joined.json": "".join(json.dumps(row, indent=1) for row in ROWS),
    "wrapped.json": json.dumps({"count": len(ROWS), "page": {"reviews": ROWS}}),
    "columns.json": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}),
    "table.csv": as_csv([[*ROWS[0]], *([*row.values()] for row in ROWS)]),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_takes_names_in_another_case_and_values_of_folders(tmp_path: Path, form: str, encoding: str) -> None:
    text = FORMS[form].encode(encoding)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / f"{form}.xz").write_bytes(lzma.compress(text))
    (tmp_path / FOLDER / "twice.zip").write_bytes(zipped({f"{form}.gz": gzip.compress(text)}))
    found = read_all(tmp_path)
    assert (found.damage, found.rejected) == ({}, [])
    assert [(row["review_id"], row["rating"], row["category"]) for row in found.kept] == [
        (f"R{i}", 5, "Toys") for _ in range(2) for i in range(40)
    ]
    seen = inspect([str(tmp_path)])
    assert seen.chosen is not None
    assert (seen.chosen.name, seen.chosen.rows, seen.chosen.usable) == ("amazon-us", 80, 80)
    (layout,) = seen.layouts
    assert "Star_Rating" in [column.name for column in layout.columns]


PATHS = """
description: nested
columns: {user_id: who.id, item_id: item, rating: stars, text: said.text, timestamp: said.at, verified: who.real}
timestamp: {formats: ["%d/%m/%Y", "%m/%d/%Y"]}
"""


def nested(i: int, **more: Any) -> dict[str, Any]:
    return {"who": {"id": f"u{i}"}, "item": "i", "stars": 4, "said": {"text": f"Fine {i}", "at": "25/03/2018", **more}}


@pytest.fixture
def profile(tmp_path: Path) -> str:
    (tmp_path / "mine.yaml").write_text(PATHS)
    return str(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (dt.datetime(2018, 3, 25, tzinfo=dt.UTC), pa.timestamp("us", "+05:30")),
        (Decimal("1.5"), pa.decimal256(50, 2)),
    ],
)
def test_a_path_beside_a_value_that_no_frame_holds(tmp_path: Path, profile: str, value: Any, kind: Any) -> None:
    said = pa.struct([("text", pa.string()), ("at", pa.string()), ("odd", kind)])
    schema = pa.schema([("who", pa.struct([("id", pa.string())])), ("item", pa.string()), ("stars", pa.int8())])
    rows = [nested(i, odd=value) for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows, schema.append(pa.field("said", said))), tmp_path / "a.parquet")
    found = read_all(tmp_path / "a.parquet", profile)
    assert [(row["user_id"], row["text"], row["timestamp"].date()) for row in found.kept] == [
        (f"u{i}", f"Fine {i}", dt.date(2018, 3, 25)) for i in range(3)
    ]


@pytest.mark.parametrize(("value", "read"), [(None, True), ([1], False)])
def test_a_path_to_a_list_is_read_if_it_holds_no_value(tmp_path: Path, profile: str, value: Any, read: bool) -> None:
    who = pa.struct([("id", pa.string()), ("real", pa.list_(pa.int8()))])
    rows = [{**nested(i), "who": {"id": f"u{i}", "real": value}} for i in range(3)]
    said = pa.struct([("text", pa.string()), ("at", pa.string())])
    schema = pa.schema([("who", who), ("item", pa.string()), ("stars", pa.int8()), ("said", said)])
    folder = tmp_path / "raw"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "a.parquet")
    (folder / "b.jsonl").write_text("".join(json.dumps(nested(i)) + "\n" for i in range(3)))
    found = read_all(folder, profile)
    assert len(found.kept) == (6 if read else 3)
    assert [row["verified"] for row in found.kept] == [None] * len(found.kept)
    assert ("a.parquet" in found.damage) is not read


def dated(fmt: str) -> list[dict[str, Any]]:
    days = [dt.date(2018, 1, 1) + dt.timedelta(days=5 * i) for i in range(60)]
    return [nested(i, at=f"{day:{fmt}}") for i, day in enumerate(days)]


@pytest.mark.parametrize("form", ["lines.jsonl", "wrapped.json", "utf16.jsonl", "paths.parquet"])
def test_the_order_of_dates_is_found_behind_a_path_in_any_form(tmp_path: Path, profile: str, form: str) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for name, fmt in (("uk", "%d/%m/%Y"), ("us", "%m/%d/%Y")):
        rows, path = dated(fmt), folder / f"{name}-{form}"
        if form.endswith("parquet"):
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif form == "wrapped.json":
            path.write_text(json.dumps({"about": "x" * 100_000, "reviews": rows}))
        else:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            path.write_bytes(text.encode("utf-16" if form == "utf16.jsonl" else "utf-8"))
    found = read_all(folder, profile)
    days = [row["timestamp"].date() for row in found.kept]
    assert (found.rejected, days) == ([], [dt.date(2018, 1, 1) + dt.timedelta(days=5 * i) for i in range(60)] * 2)


def test_a_name_in_another_case_does_not_hide_dates_in_the_other_order(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(PATHS.replace('"%d/%m/%Y", ', ""))
    rows = [{("Item" if k == "item" else k): v for k, v in row.items()} for row in dated("%d/%m/%Y")]
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "good.jsonl").write_text(json.dumps(nested(1, at="03/25/2018")) + "\n")
    (folder / "reviews").write_text("".join(json.dumps(row) + "\n" for row in rows))  # no ending: it may be left out
    source = discover(str(folder), str(tmp_path / "mine.yaml"))
    assert [file.name for file in source.files] == ["good.jsonl"]
    assert [wrong.name for wrong in source.quarantined] == ["reviews"]
    assert source.left_out == ()


@pytest.mark.parametrize("array", [False, True])
def test_a_record_longer_than_the_first_look_is_read(tmp_path: Path, array: bool) -> None:
    rows = [{**ROWS[0], "product_category": "Home", "review_body": "long " * 40_000}, ROWS[1]]
    text = json.dumps(rows) if array else "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.json").write_text(text)
    found = read_all(tmp_path)
    assert [(kept["review_id"], kept["rating"], kept["timestamp"]) for kept in found.kept] == [
        ("R0", 5, DAY),
        ("R1", 5, DAY),
    ]


def test_a_python_literal_longer_than_the_first_look_is_read(tmp_path: Path) -> None:
    rows = [BASE | {"review_body": "long " * 40_000}, BASE | {"review_id": "R2"}]
    (tmp_path / "a.jsonl").write_text("".join(f"{row!r}\n" for row in rows))
    found = read_all(tmp_path)
    assert ([kept["review_id"] for kept in found.kept], found.rejected) == (["R1", "R2"], [])
