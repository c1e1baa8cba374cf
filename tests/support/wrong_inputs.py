"""Files and folders that are wrong in one way each, made in a folder given; each returns its path."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("customer_id", "review_id", "product_id", "star_rating", "review_headline", "review_body", "review_date")


def rows(n: int = 5, **changes: str) -> list[dict[str, str]]:
    made = []
    for i in range(n):
        values = (
            f"c{i % 7}",
            f"R{i}",
            f"p{i % 3}",
            str(1 + i % 5),
            "Head",
            f"Text {i}",
            f"2015-{1 + i % 12:02}-{1 + i % 28:02}",
        )
        made.append({**dict(zip(COLUMNS, values, strict=True)), **changes})
    return made


def as_csv(records: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, records[0].keys())
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def as_parquet(path: Path, records: list[dict[str, str]]) -> Path:
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


def text_file(name: str, text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder / name

    return make


def empty_folder(folder: Path) -> Path:
    (folder / "nothing").mkdir()
    return folder / "nothing"


def folder_of_other_files(folder: Path) -> Path:
    (folder / "other").mkdir()
    (folder / "other" / "notes.docx").write_text("x")
    return folder / "other"


def word_document(folder: Path) -> Path:
    with ZipFile(folder / "reviews.docx", "w") as file:
        file.writestr("word/document.xml", "<w:document/>")
    return folder / "reviews.docx"


def parquet_cut_off(folder: Path) -> Path:
    path = as_parquet(folder / "a.parquet", rows(500))
    path.write_bytes(path.read_bytes()[:-100])
    return path


def parquet_cut_off_among_good_ones(folder: Path) -> Path:
    (folder / "several").mkdir()
    as_parquet(folder / "several" / "a.parquet", rows())
    parquet_cut_off(folder / "several").rename(folder / "several" / "b.parquet")
    as_parquet(folder / "several" / "a.parquet", rows())
    return folder / "several"


def zip_of(**members: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with ZipFile(folder / "a.zip", "w") as file:
            for name, text in members.items():
                file.writestr(name.replace("__", "/").replace("_", "."), text)
        return folder / "a.zip"

    return make


def zip_that_leads_out(folder: Path) -> Path:
    with ZipFile(folder / "a.zip", "w") as file:
        file.writestr("../a.csv", as_csv(rows()))
    return folder / "a.zip"


def zip_cut_off(folder: Path) -> Path:
    path = zip_of(a_csv=as_csv(rows()))(folder)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def parquet_in_gzip(folder: Path) -> Path:
    path = as_parquet(folder / "a.parquet", rows())
    (folder / "a.parquet.gz").write_bytes(gzip.compress(path.read_bytes()))
    return folder / "a.parquet.gz"


def only_a_link_out(folder: Path) -> Path:
    text_file("a.csv", as_csv(rows()))(folder)
    (folder / "in").mkdir()
    (folder / "in" / "a.csv").symlink_to(folder / "a.csv")
    return folder / "in"


def parquet_without(column: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        return as_parquet(folder / "a.parquet", [{k: v for k, v in r.items() if k != column} for r in rows()])

    return make


def lists_as_text(folder: Path) -> Path:
    table = pa.Table.from_pylist(rows()).drop_columns("review_body")
    pq.write_table(table.append_column("review_body", pa.array([["a", "b"]] * 5)), folder / "a.parquet")
    return folder / "a.parquet"
