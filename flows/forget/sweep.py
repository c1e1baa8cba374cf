"""Search files that are no snapshots for what betrays the users, and take it out.

Tables lose the users' rows, logs the lines, records of runs the words, databases the words in their columns; any page
is removed whole. What was taken out of a SQLite database is overwritten in its file, too.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from flows.forget.sought import Sought
from tasks.core.part_files import read_part
from tasks.core.whole_files import write_whole

SQLITE = b"SQLite format 3\x00"
PAGES = {".html", ".md", ".png"}
BESIDE = ("-wal", "-shm", "-journal")  # files of a database
LINES = {".jsonl", ".log", ".txt", ".out", ".err", ".1"}
CHUNK, OVERLAP = 16 << 20, 1 << 12
VALUES = 10_000  # of a column, looked at at once
WAIT_S = 10.0  # for a database that another process writes to


def swept(places: Iterable[Path], without: Iterable[Path], sought: Sought) -> Iterator[tuple[Path, str, bool]]:
    """Clean all files below these places, but for those below others; yield (file, what was done, whether it helped).

    May be repeated: a file that is clean is not touched.
    """
    for file in _files(places, [path.resolve() for path in without]):
        try:
            if done := clean_file(file, sought):
                yield file, done, True
        except (OSError, ValueError, sqlite3.Error, pa.ArrowException) as error:
            yield file, str(error).partition("\n")[0], False


def _files(places: Iterable[Path], without: list[Path]) -> Iterator[Path]:
    for place in places:
        for file in [place] if place.is_file() else sorted(place.rglob("*")):
            if file.is_symlink() or not file.is_file() or file.name.endswith(BESIDE):
                continue
            if not any(file.resolve().is_relative_to(other) for other in without):
                yield file


def clean_file(file: Path, sought: Sought) -> str:
    """Take the users out of one file; return what was done, "" if nothing had to be."""
    with file.open("rb") as opened:
        start = opened.read(16)
    if start == SQLITE:
        return _clean_database(file, sought)
    if start[:4] == b"PAR1":
        return _clean_table(file, sought)
    if not betrays(file, sought):
        return ""
    if file.suffix in LINES:
        return _clean_lines(file, sought)
    if file.suffix == ".json" and file.parent.name == "runs":
        return _clean_record(file, sought)
    if file.suffix not in PAGES:
        raise ValueError("it names them, and is no file that is known here: look at it yourself")
    file.unlink()
    return "removed"


def betrays(file: Path, sought: Sought) -> bool:
    with file.open("rb") as opened:
        before = b""
        while chunk := opened.read(CHUNK):
            if sought.pattern_in((before + chunk).decode("utf-8", "replace")):
                return True
            before = chunk[-OVERLAP:]
    return False


def _clean_table(file: Path, sought: Sought) -> str:
    test = sought.of_rows(pq.read_schema(file).names)
    if test is None:
        return ""
    rows = read_part(file)
    theirs = rows.select(test.alias("theirs"))["theirs"]
    if not theirs.any():
        return ""
    schema = pq.read_schema(file)
    draft = file.with_name(f"{file.name}.draft")
    pq.write_table(rows.filter(~theirs).to_arrow().cast(schema), draft, compression="zstd")
    os.replace(draft, file)
    return f"{int(theirs.sum()):,} rows removed"


def _clean_lines(file: Path, sought: Sought) -> str:
    lines = file.read_bytes().splitlines(keepends=True)
    theirs = sought.in_each(pl.Series([line.decode("utf-8", "replace") for line in lines], dtype=pl.String))
    kept = [line for line, their in zip(lines, theirs, strict=True) if not their]
    write_whole(file, b"".join(kept), synced=True)
    return f"{len(lines) - len(kept):,} lines removed"


def _clean_record(file: Path, sought: Sought) -> str:
    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {sought.cleaned(name): cleaned(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [cleaned(inner) for inner in value]
        return sought.cleaned(value) if isinstance(value, str) else value

    write_whole(file, json.dumps(cleaned(json.loads(file.read_text())), indent=1), synced=True)
    return "words replaced"


def _clean_database(file: Path, sought: Sought) -> str:
    """Replace what betrays the users in all columns, then rewrite the file: what was deleted stays in it otherwise.

    Raises sqlite3.Error if another process keeps it busy.
    """
    with closing(sqlite3.connect(file, timeout=WAIT_S, isolation_level=None)) as database:
        database.execute("PRAGMA secure_delete=ON")
        database.execute("BEGIN IMMEDIATE")
        changed = sum(_clean_column(database, table, column, sought) for table, column in _columns(database))
        database.execute("COMMIT")
        beside = [file.with_name(f"{file.name}-wal")]
        left = any(betrays(path, sought) for path in [file, *beside] if path.exists())
        if not changed and not left:
            return ""
        database.execute("VACUUM")
        (busy, *_) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy or any(betrays(path, sought) for path in [file, *beside] if path.exists()):
            raise sqlite3.OperationalError("another process reads it, so old pages of it stay: stop raymill up first")
    return f"{changed:,} values replaced" if changed else "old pages overwritten"


def _clean_column(database: sqlite3.Connection, table: str, column: str, sought: Sought) -> int:
    """Replace values of one column; returns how many rows had them."""
    query = f"SELECT DISTINCT {column} FROM {table} WHERE typeof({column}) IN ('text', 'blob')"
    cursor, theirs = database.execute(query), []
    while rows := cursor.fetchmany(VALUES):
        texts = [v.decode("utf-8", "surrogateescape") if isinstance(v, bytes) else v for (v,) in rows]
        shown = pl.Series([text.encode("utf-8", "replace").decode() for text in texts], dtype=pl.String)
        found = sought.in_each(shown)
        theirs += [(v, text) for (v,), text, their in zip(rows, texts, found, strict=True) if their]
    changed = 0
    for value, text in theirs:
        cleaned = sought.cleaned(text)
        new = cleaned.encode("utf-8", "surrogateescape") if isinstance(value, bytes) else cleaned
        changed += database.execute(f"UPDATE {table} SET {column} = ? WHERE {column} IS ?", (new, value)).rowcount
    return changed


def _columns(database: sqlite3.Connection) -> list[tuple[str, str]]:
    """List the tables and columns that can be written to, quoted."""
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'")
    found = []
    for (table,) in tables.fetchall():
        if not re.match("sqlite_", table):
            columns = database.execute(f"PRAGMA table_xinfo({_quoted(table)})").fetchall()
            found += [(_quoted(table), _quoted(name)) for _, name, *_, hidden in columns if not hidden]
    return found


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
