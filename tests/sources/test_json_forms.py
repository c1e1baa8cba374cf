"""JSON that is not simply lines or an array: each form gives the same rows, and what is not read is named."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sources.inspection import inspect
from tasks.sources.json_objects import record_blocks, rows_by_column
from tests.support.accounts import Outcome, read_all
from tests.support.inspected_files import proposed, use

ROWS = [
    {
        "reviewerID": f"u{i}",
        "asin": "B1",
        "overall": i % 5 + 1,
        "reviewText": "a } { b",
        "unixReviewTime": 1_400_000_000,
    }
    for i in range(60)
]
WRITTEN = [json.dumps(row) for row in ROWS]


def by_column(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {str(i): row[name] for i, row in enumerate(rows)} for name in rows[0]}


FORMS = {
    "no line breaks": "".join(WRITTEN),
    "no line breaks but the last": "".join(WRITTEN) + "\n",
    "several lines each": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "several lines each, nothing between": "".join(json.dumps(row, indent=2) for row in ROWS),
    "files joined without their last line break": "\n".join(WRITTEN[:20]) + "\n".join(WRITTEN[20:]),
    "first two joined": "".join(WRITTEN[:2]) + "\n" + "\n".join(WRITTEN[2:]),
    "commas at the ends of lines": ",\n".join(WRITTEN) + ",\n",
    "wrapped": json.dumps({"count": 60, "reviews": ROWS}, indent=1),
    "wrapped on one line": json.dumps({"reviews": ROWS, "next": None}) + "\n",
    "wrapped deeper": json.dumps({"errors": [], "result": {"a": {"b": 1}, "reviews": ROWS, "z": [1]}, "n": "}"}),
    "wrapped in pages": json.dumps({"first": ROWS[:20], "second": ROWS[20:]}),
    "by column": json.dumps(by_column(ROWS)),
    "by index": json.dumps({str(i): row for i, row in enumerate(ROWS)}, indent=1),
    "by key": json.dumps({f"-Kx{i}": {**row, **({"extra": 1} if i % 3 else {})} for i, row in enumerate(ROWS)}),
    "split": json.dumps({"columns": [*ROWS[0]], "index": [*range(60)], "data": [[*row.values()] for row in ROWS]}),
    "lists": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}),
    "table": json.dumps({"schema": {"fields": [{"name": name} for name in ROWS[0]]}, "data": ROWS}),
}


def users(found: Outcome) -> list[str]:
    return [row["user_id"] for row in found.kept]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_all_rows_in_order(tmp_path: Path, form: str) -> None:
    (tmp_path / "a.json").write_text(FORMS[form])
    found = read_all(tmp_path, "amazon-2014")
    assert users(found) == [row["reviewerID"] for row in ROWS]
    assert (found.rejected, found.damage) == ([], {})
    judged = inspect([str(tmp_path)]).chosen
    assert judged is not None
    assert (judged.name, judged.rows, judged.usable) == ("amazon-2014", 60, 60)


def test_a_profile_is_proposed_for_wrapped_rows_and_arrays_of_other_columns_are_named(tmp_path: Path) -> None:
    rows = [{"who": f"u{i}", "product": f"p{i % 3}", "stars": i % 5 + 1, "text": f"Text {i}"} for i in range(30)]
    (tmp_path / "a.json").write_text(json.dumps({"reviews": rows, "stores": [{"city": "Bonn"}, {"city": "Ulm"}]}))
    found = proposed(tmp_path / "a.json")
    assert found.layouts[0].first.rows_at == (("reviews",),)
    assert found.layouts[0].first.beside == (("stores",),)
    kept, rejected = use(found, tmp_path / "a.json", tmp_path)
    assert ([row["text"] for row in kept], rejected) == ([row["text"] for row in rows], [])


def test_a_side_file_of_another_shape_is_named_and_its_rows_are_no_rejects(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(WRITTEN))
    (tmp_path / "info.json").write_text(json.dumps({"tool": "export", "files": ["f0", "f1"]}, indent=2))
    found = read_all(tmp_path, "amazon-2014")
    assert (len(found.kept), found.rejected) == (60, [])
    assert [*found.damage] == ["info.json"]
    assert "mandatory column(s) missing" in found.damage["info.json"]


@pytest.mark.parametrize("form", ["no line breaks", "several lines each", "wrapped", "wrapped deeper", "by column"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_is_cut_off_gives_what_is_whole_and_is_named(tmp_path: Path, form: str, share: float) -> None:
    (tmp_path / "a.json").write_text(FORMS[form][: int(share * len(FORMS[form]))].rstrip("}\n"))
    (tmp_path / "b.json").write_text("\n".join(WRITTEN))
    found = read_all(tmp_path, "amazon-2014")
    whole = len(found.kept) - 60
    assert users(found)[:whole] == [row["reviewerID"] for row in ROWS[:whole]]
    assert (whole > 10) == (form != "by column")
    assert [*found.damage] == ["a.json"] or (form, len(found.rejected)) == ("by column", 1)


def test_records_without_breaks_that_are_too_long_in_all_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(WRITTEN[0] + "\n" + "".join(WRITTEN) * 300)
    found = read_all(tmp_path, "amazon-2014", "ingest.max_record_mb=1")
    assert "several records without a line break" in found.damage["a.json"]
    assert len(found.kept) == 1


def test_a_broken_record_on_a_line_of_several_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("\n".join([WRITTEN[0], WRITTEN[1] + WRITTEN[2] + '{"asin": ', WRITTEN[3]]))
    found = read_all(tmp_path, "amazon-2014")
    assert users(found) == ["u0", "u1", "u2", "u3"]
    assert [row for row, _ in found.reasons] == [3]


ELEMENTS = st.sampled_from(
    ['{"a": "é★"}', '{"b": "\\"}{"}', '{"c": [1, {"d": 2}]}', "12", "[]", '{"e": NaN}', '{"f" 1}']
)


@given(
    elements=st.lists(ELEMENTS, max_size=9),
    glue=st.sampled_from(["", "\n", " , "]),
    form=st.sampled_from(["json-joined", "json-wrapped"]),
    size=st.integers(1, 200),
    limit=st.integers(1, 80),
)
def test_block_sizes_never_change_what_is_read(
    elements: list[str], glue: str, form: str, size: int, limit: int
) -> None:
    text = glue.join(elements)
    if form == "json-wrapped":
        text = f'{{"x": {{"y": "}}"}}, "rows": [{text}], "z": [[1], {{}}]}}'

    def read(block_bytes: int) -> Any:
        found = [
            *record_blocks(
                io.BytesIO(text.encode()), form, [("rows",)], block_bytes=block_bytes, max_record_bytes=limit
            )
        ]
        pairs = [pair for block in found for pair in zip(block.numbers, block.rows, strict=True)]
        return repr((pairs, [bad for block in found for bad in block.bad], found[-1].broken if found else None))

    assert read(size) == read(1 << 20)


@given(st.binary(max_size=100), st.sampled_from(["json-joined", "json-wrapped", "json-columns"]))
def test_no_bytes_raise(data: bytes, form: str) -> None:
    list(record_blocks(io.BytesIO(b'{"a":' + data), form, [("a",)], max_record_bytes=50))


@pytest.mark.parametrize(
    "value",
    [[], {}, {"a": 1}, {"a": [1], "b": [1, 2]}, {"a": {"x": 1}}, {"a": {"x": 1, "y": 2}, "b": {"z": 1, "y": 2}}],
)
def test_objects_that_are_no_table(value: Any) -> None:
    assert rows_by_column(value) is None
