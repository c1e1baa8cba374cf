"""Write generated reviews as the files of a release, all of them or none."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.errors import InputError

SCHEMA = pa.schema(
    [(c, pa.string()) for c in ("marketplace", "customer_id", "review_id", "product_id", "product_parent")]
    + [(c, pa.string()) for c in ("product_title", "product_category")]
    + [(c, pa.int32()) for c in ("star_rating", "helpful_votes", "total_votes")]
    + [(c, pa.string()) for c in ("vine", "verified_purchase", "review_headline", "review_body")]
    + [("review_date", pa.date32())]
)


@contextmanager
def appearing(out: Path, overwrite: bool) -> Iterator[Path]:
    """Give a hidden folder beside `out`; on success rename it to `out`, on failure remove it."""
    folder = out.with_name(f".{out.name}.partial")
    _check_free(out, overwrite)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        fix = "wait for that run; or, if it was killed, remove the folder"
        raise InputError(f"another run is writing {folder.name}", where=str(out), fix=fix) from None
    except OSError as error:
        fix = "choose another --out"
        raise InputError(f"cannot write here ({error.strerror})", where=str(out.parent), fix=fix) from None
    try:
        yield folder
        _check_free(out, overwrite)
        shutil.rmtree(out, ignore_errors=True)
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_free(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError("this is a file, not a folder", where=str(out), fix="choose another --out")
    names = sorted(p.name for p in out.iterdir()) if out.exists() else []
    foreign = [name for name in names if not re.fullmatch(r"part-\d{5}\.(parquet|csv|tsv)", name)]
    if foreign or (names and not overwrite):
        fix = "choose another --out" if foreign else "choose another --out, or --overwrite"
        raise InputError(f"the folder already holds {(foreign or names)[0]}", where=str(out), fix=fix)


class TsvWriter:
    """A writer of tab-separated text as in the release: no quotes, so line breaks inside a field become spaces."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._file.write("\t".join(SCHEMA.names).encode() + b"\n")

    def write_table(self, table: pa.Table) -> None:
        for name in ("review_headline", "review_body"):  # the only columns with such characters
            table = with_columns(table, **{name: pc.replace_substring(table[name], "\n", " ")})
        fields = [pc.fill_null(column, "") for column in table.combine_chunks().columns]
        lines = pc.binary_join_element_wise(*fields, "\t").combine_chunks()
        whole = pa.ListArray.from_arrays(pa.array([0, len(lines)], pa.int32()), lines)
        self._file.write(pc.binary_join(whole, "\n")[0].as_buffer())
        self._file.write(b"\n")

    def close(self) -> None:
        self._file.close()


TEXT = pa.schema([(c, pa.string()) for c in SCHEMA.names])


def in_words(table: pa.Table) -> pa.Table:
    """Convert all columns to text, adding the dirt that only text can hold."""
    text = table.select(SCHEMA.names).cast(TEXT)
    stars = pc.if_else(table["star_in_words"], "five", text["star_rating"])
    dates = pc.if_else(table["date_in_words"], "not a date", text["review_date"])
    return with_columns(text, star_rating=stars, review_date=dates)


def with_columns(table: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table
