"""What `raymill run` prints of its input before it starts, and what ingest lists of it in the snapshot."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from flows.cli.source_lines import SHOWN, print_source
from tasks import sources
from tasks.domain.schemas import QUARANTINE
from tasks.settings import load_settings
from tasks.stages.ingest import read_parts
from tests.support.raw_files import BASE, delimited


def folder(path: Path) -> sources.Source:
    """One good file, a damaged one, another one, and columns in another case."""
    path.mkdir()
    (path / "good.csv").write_text(delimited([BASE]).replace("star_rating", "Star_Rating"))
    (path / "bad.csv").touch()
    (path / "[n].md").write_text("words")
    return sources.discover(str(path), "amazon-us")


def printed(source: sources.Source) -> str:
    text = io.StringIO()
    print_source(Console(file=text, width=200), source, "amazon-us")
    return text.getvalue()


def test_each_file_that_is_not_read_has_a_line_with_the_reason(tmp_path: Path) -> None:
    lines = printed(folder(tmp_path / "in")).splitlines()
    assert lines == [
        "1 file(s), 0.0 MB, dataset amazon-us",
        "note: column 'Star_Rating' is taken for 'star_rating', in 1 file(s) such as good.csv",
        "not read: bad.csv: the file is empty",
        "left out: [n].md: its ending, .md, is none of those that are read; to read it anyway, name the file itself",
    ]


def test_of_many_the_first_are_printed_and_the_others_counted(tmp_path: Path) -> None:
    folder(tmp_path / "in")
    for n in range(SHOWN + 5):
        (tmp_path / "in" / f"{n:02}.md").touch()
    lines = printed(sources.discover(str(tmp_path / "in"), "amazon-us")).splitlines()
    assert len(lines) == 3 + SHOWN + 1
    assert lines[-1] == "left out: 6 more, listed in the report"


class Written:
    """A snapshot's writer that keeps what it is given."""

    def __init__(self) -> None:
        self.tables: dict[str, pa.Table] = {}
        self.facts: dict[str, Any] = {}

    def write_table(self, name: str, table: pa.Table, schema: pa.Schema) -> None:
        assert table.schema.equals(schema)
        self.tables[name] = table

    def fact(self, **facts: Any) -> None:
        self.facts |= facts


def test_ingest_lists_both_and_counts_the_damaged_ones(tmp_path: Path) -> None:
    source = folder(tmp_path / "in")
    recipe = sources.Recipe("reviews", source.profile, load_settings().ingest)
    written: Any = Written()
    read_parts._quarantine([], source, recipe, written)
    table = written.tables["quarantine/files.parquet"]
    assert table.schema.equals(QUARANTINE)
    assert [(row["source"], row["reason"][:18]) for row in table.to_pylist()] == [
        ("[n].md", "left out: its endi"),
        ("bad.csv", "the file is empty"),
    ]
    assert written.facts == {"quarantined": 1}
