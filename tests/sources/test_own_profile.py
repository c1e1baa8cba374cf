"""What one file has otherwise than its profile says: class labels, values in folders' names, columns in another case or
without a value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import sources
from tasks.core.settings import CONF
from tasks.sources.inspection import inspect
from tasks.sources.own_profile import folder_values
from tests.support.accounts import read_all, zipped
from tests.support.inspected_files import as_csv, json_lines
from tests.support.raw_files import BASE, DAY, delimited, review, write_parquet

HIVE = "product_category"


def labelled(path: Path, column: str, names: list[str], values: list[int | None], **labels: Any) -> None:
    """A parquet file whose `column` holds class labels as Hugging Face's `datasets` writes them."""
    rows = [review(review_id=f"R{i}", **{column: value}) for i, value in enumerate(values)]
    features = {column: {"names": names, "_type": "ClassLabel"}, "review_body": {"dtype": "string", "_type": "Value"}}
    table = pa.Table.from_pylist(rows).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {**features, **labels}}})}
    )
    pq.write_table(table, path)


class TestClassLabels:
    @pytest.mark.parametrize("names", [["Y", "N"], ["N", "Y"]])
    def test_the_names_in_the_metadata_decide_and_not_the_numbers(self, tmp_path: Path, names: list[str]) -> None:
        labelled(tmp_path / "a.parquet", "verified_purchase", names, [0, 1, 1, None, -1])
        found = read_all(tmp_path)
        first = names[0] == "Y"
        assert [row["verified"] for row in found.kept] == [first, not first, not first, None, None]

    def test_inspect_shows_the_names(self, tmp_path: Path) -> None:
        labelled(tmp_path / "a.parquet", "verified_purchase", ["Y", "N"], [0, 1])
        found = inspect([str(tmp_path)])
        assert found.chosen is not None
        (column,) = [c for c in found.layouts[0].columns if c.name == "verified_purchase"]
        assert (column.kind, list(column.texts)) == ("yes/no", ["Y", "N"])
        assert [row["verified"] for row in found.chosen.examples] == [True, False]

    def test_stars_as_labels_are_not_shifted_by_one(self, tmp_path: Path) -> None:
        labelled(tmp_path / "a.parquet", "star_rating", ["1", "2", "3", "4", "5"], [0, 3, 4, 7])
        found = read_all(tmp_path)
        assert [row["rating"] for row in found.kept] == [1, 4, 5]
        assert found.reasons == [(3, "rating is not a number")]

    @pytest.mark.parametrize(
        "metadata", [b"no json", b"[]", b'{"info": {"features": {"vine": {"_type": "ClassLabel"}}}}']
    )
    def test_metadata_of_another_kind_change_nothing(self, tmp_path: Path, metadata: bytes) -> None:
        table = pa.Table.from_pylist([review(verified_purchase=1)]).replace_schema_metadata({"huggingface": metadata})
        pq.write_table(table, tmp_path / "a.parquet")
        assert [row["verified"] for row in read_all(tmp_path).kept] == [True]


def folders(root: Path, **rows: dict[str, Any]) -> Path:
    """Parquet files without the column `product_category`, one in a folder for each of its values."""
    for n, (value, row) in enumerate(rows.items()):
        folder = root / f"{HIVE}={value}"
        folder.mkdir(parents=True)
        row = {k: v for k, v in row.items() if k != HIVE}
        write_parquet(folder / f"{n}.parquet", [row])
    return root


class TestFolders:
    def test_the_folders_value_is_the_column_decoded(self, tmp_path: Path) -> None:
        root = folders(
            tmp_path / "in", **{"Kitchen": BASE, "Toys%20%26%20Games": BASE, "__HIVE_DEFAULT_PARTITION__": BASE}
        )
        found = read_all(root)
        assert {row["category"] for row in found.kept} == {"Kitchen", "Toys & Games", None}
        for one in (root / f"{HIVE}=Kitchen", root / f"{HIVE}=Kitchen" / "0.parquet"):
            assert [row["category"] for row in read_all(one).kept] == ["Kitchen"]

    @pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
    def test_in_files_of_every_format(self, tmp_path: Path, ending: str) -> None:
        row = {k: v for k, v in BASE.items() if k not in (HIVE, "review_date")}
        folder = tmp_path / "Product_Category=Books" / "review_date=2015-08-31"
        folder.mkdir(parents=True)
        path = folder / f"a.{ending}"
        if ending == "parquet":
            write_parquet(path, [row])
        else:
            lines = {"csv": as_csv([[*row], [*row.values()]]), "jsonl": json_lines(row), "json": json.dumps([row])}
            path.write_text(lines[ending])
        (kept,) = read_all(tmp_path).kept
        assert (kept["category"], kept["timestamp"]) == ("Books", DAY)

    def test_in_a_zip_and_for_a_year(self, tmp_path: Path) -> None:
        row = {k: v for k, v in BASE.items() if k not in (HIVE, "review_date")}
        text = as_csv([[*row], [*row.values()]]).encode()
        (tmp_path / "a.zip").write_bytes(zipped({f"{HIVE}=Books/year=2015/a.csv": text}))
        profile = tmp_path / "mine.yaml"
        shipped = (CONF / "datasets" / "amazon-us.yaml").read_text(encoding="utf-8")
        profile.write_text(shipped.replace("timestamp: review_date", "timestamp: year").replace('"%m/%d/%Y"', '"%Y"'))
        (kept,) = read_all(tmp_path / "a.zip", str(profile)).kept
        assert (kept["category"], kept["timestamp"]) == ("Books", DAY.replace(month=1, day=1))

    def test_a_value_in_the_file_comes_first(self, tmp_path: Path) -> None:
        folder = tmp_path / f"{HIVE}=Kitchen"
        folder.mkdir()
        (folder / "a.csv").write_text(delimited([review(), review(review_id="R2", product_category="")]))
        assert [row["category"] for row in read_all(tmp_path).kept] == ["Home", "Kitchen"]

    def test_a_day_in_the_folders_name_that_is_none_rejects_its_rows(self, tmp_path: Path) -> None:
        folder = tmp_path / "review_date=soon"
        folder.mkdir()
        write_parquet(folder / "a.parquet", [{k: v for k, v in BASE.items() if k != "review_date"}])
        found = read_all(tmp_path)
        assert (found.kept, found.reasons) == ([], [(0, "timestamp not understood")])

    def test_inspect_shows_the_column_and_proposes_it(self, tmp_path: Path) -> None:
        for category in ("Books", "Home"):
            folder = tmp_path / f"category={category}"
            folder.mkdir()
            rows = [[f"U{i}", f"B{i % 3}", i % 5 + 1, f"A long enough text of number {i}"] for i in range(40)]
            (folder / "a.csv").write_text(as_csv([["who", "sku", "stars", "text"], *rows]))
        found = inspect([str(tmp_path)])
        assert found.proposed
        assert "category: category" in (found.yaml or "")
        assert found.chosen is not None
        assert found.chosen.nulls["category"] == 0
        (line,) = found.chosen.adaptations
        assert line.startswith("category is taken from the names of folders ('Books', 'Home'), in 2 file(s) such as ")

    def test_product_metadata_get_it_too(self, tmp_path: Path) -> None:
        folder = tmp_path / "brand=Lumo"
        folder.mkdir()
        (folder / "a.jsonl").write_text(json_lines({"asin": "B1", "title": "Lamp"}))
        assert [item["brand"] for item in read_all(tmp_path, "amazon-2014", kind="items").kept] == ["Lumo"]

    def test_another_folder_is_another_input_and_unused_ones_are_not(self, tmp_path: Path) -> None:
        one, other = (folders(tmp_path / name, **{name: BASE}) for name in ("Books", "Home"))
        paths = [next(folder.rglob("*.parquet")) for folder in (one, other)]
        assert paths[0].read_bytes() == paths[1].read_bytes()
        digests = {sources.discover(str(path), "amazon-us").digest for path in paths}
        assert len(digests) == 2
        (tmp_path / "colour=red").mkdir()
        unused = [tmp_path / "a.parquet", tmp_path / "colour=red" / "a.parquet"]
        for path in unused:
            path.write_bytes(write_parquet(tmp_path / "whole.parquet", [BASE]).read_bytes())
        assert len({sources.discover(str(path), "amazon-us").digest for path in unused}) == 1

    def test_names_are_taken_apart(self) -> None:
        path = "s/a=1/b=x%2Fy=z/c=__HIVE_DEFAULT_PARTITION__/=v/a=2/d=3.csv"
        assert folder_values(path) == {"a": "2", "b": "x/y=z", "c": ""}


class TestNames:
    @pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet"])
    def test_columns_in_another_case_are_taken_and_told(self, tmp_path: Path, ending: str) -> None:
        (tmp_path / "a.csv").write_text(delimited([BASE]))
        row = {name.title(): value for name, value in review(review_id="R2").items()}
        path = tmp_path / f"b.{ending}"
        if ending == "parquet":
            write_parquet(path, [row])
        else:
            lines = {"csv": as_csv([[*row], [*row.values()]]), "jsonl": json_lines(row), "json": json.dumps([row])}
            path.write_text(lines.get(ending) or as_csv([[*row], [*row.values()]], "\t"))
        found = read_all(tmp_path)
        assert [row["review_id"] for row in found.kept] == ["R1", "R2"]
        assert {**found.kept[0], "review_id": ""} == {**found.kept[1], "review_id": ""}
        judged = inspect([str(tmp_path)], "amazon-us").chosen
        assert judged is not None
        assert f"column 'Star_Rating' is taken for 'star_rating', in 1 file(s) such as b.{ending}" in judged.adaptations

    def test_the_exact_name_comes_first_and_two_others_are_none(self, tmp_path: Path) -> None:
        row = review(STAR_RATING="1")
        (tmp_path / "a.csv").write_text(as_csv([[*row], [*row.values()]]))
        assert [row["rating"] for row in read_all(tmp_path).kept] == [5]
        row = {k: v for k, v in review(STAR_RATING="1", Star_Rating="2").items() if k != "star_rating"}
        (tmp_path / "b.csv").write_text(as_csv([[*row], [*row.values()]]))
        assert "mandatory column(s) missing: star_rating (did you mean " in read_all(tmp_path).damage["b.csv"]


class TestColumnsWithoutValues:
    @pytest.mark.parametrize(
        "kind", [pa.float64(), pa.int32(), pa.bool_(), pa.list_(pa.string()), pa.struct([("a", pa.int64())]), pa.null()]
    )
    @pytest.mark.parametrize("statistics", [True, False])
    def test_such_a_column_may_have_any_type(self, tmp_path: Path, kind: pa.DataType, statistics: bool) -> None:
        table = pa.Table.from_pylist([review(review_id=f"R{i}") for i in range(4)])
        for name in ("review_headline", "product_category", "total_votes"):
            table = table.set_column(table.schema.get_field_index(name), name, pa.nulls(4, kind))
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=2, write_statistics=statistics)
        write_parquet(tmp_path / "b.parquet", [BASE])
        found = read_all(tmp_path)
        assert (len(found.kept), found.rejected, found.damage) == (5, [], {})
        empty = [(row["title"], row["category"], row["total_votes"]) for row in found.kept[:4]]
        assert empty == [("", None, None)] * 4
        assert found.kept[4]["title"] == "Good"
        judged = inspect([str(tmp_path)]).chosen
        assert judged is not None
        assert (judged.usable, judged.quarantined) == (5, [])

    def test_nan_is_no_value(self, tmp_path: Path) -> None:
        nan = float("nan")
        table = pa.Table.from_pylist([review(review_headline=value) for value in (nan, None, nan)])
        pq.write_table(table, tmp_path / "a.parquet")
        assert [row["title"] for row in read_all(tmp_path).kept] == ["", "", ""]

    @pytest.mark.parametrize("statistics", [True, False])
    def test_a_single_value_of_the_wrong_type_is_refused(self, tmp_path: Path, statistics: bool) -> None:
        table = pa.Table.from_pylist([BASE] * 4)
        index = table.schema.get_field_index("review_headline")
        table = table.set_column(index, "review_headline", pa.array([None, None, None, 2.5]))
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=2, write_statistics=statistics)
        write_parquet(tmp_path / "b.parquet", [BASE])
        assert "has type double, which cannot become title" in read_all(tmp_path).damage["a.parquet"]

    def test_a_mandatory_column_without_a_value_rejects_its_rows(self, tmp_path: Path) -> None:
        table = pa.Table.from_pylist([BASE]).drop_columns("star_rating")
        pq.write_table(table.append_column("star_rating", pa.nulls(1, pa.bool_())), tmp_path / "a.parquet")
        assert read_all(tmp_path).reasons == [(0, "no rating")]

    def test_so_may_a_pair_of_votes(self, tmp_path: Path) -> None:
        row = {"reviewerID": "u", "asin": "B", "overall": 5, "unixReviewTime": 1_400_000_000, "reviewText": "x"}
        table = pa.Table.from_pylist([row]).append_column("helpful", pa.nulls(1, pa.float64()))
        pq.write_table(table, tmp_path / "a.parquet")
        (kept,) = read_all(tmp_path, "amazon-2014").kept
        assert (kept["helpful_votes"], kept["total_votes"]) == (None, None)
