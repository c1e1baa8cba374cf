"""Small raw files as tests need them, and how to read them back."""

from __future__ import annotations

import csv
import datetime as dt
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks import sources
from tasks.domain.schemas import REJECTS, REVIEWS
from tasks.settings import load_settings

HEADER = sources.load_profile("amazon-us").header
BASE = {
    "marketplace": "US",
    "customer_id": "12",
    "review_id": "R1",
    "product_id": "B1",
    "product_parent": "1",
    "product_title": "Lamp",
    "product_category": "Home",
    "star_rating": "5",
    "helpful_votes": "1",
    "total_votes": "2",
    "vine": "N",
    "verified_purchase": "Y",
    "review_headline": "Good",
    "review_body": "Bright lamp",
    "review_date": "2015-08-31",
}
DAY = dt.datetime(2015, 8, 31, tzinfo=dt.UTC)


def review(**changes: Any) -> dict[str, Any]:
    return {**BASE, **changes}


def delimited(rows: list[dict[str, Any]], delimiter: str = ",", *, quoted: bool = True, header: bool = True) -> str:
    """Rows as text: quoted where a value needs it, or with quotes as data."""
    lines = [list(HEADER)] * header + [[str(r[c]) for c in HEADER] for r in rows]
    if not quoted:
        return "".join(delimiter.join(line) + "\n" for line in lines)
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(lines)
    return text.getvalue()


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def read(path: Path, dataset: str = "amazon-us") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(usable rows, rejects) of everything below `path`, in plan order; nothing in it is damaged."""
    kept, rejected, damage = read_with_damage(path, dataset)
    assert damage == []
    return kept, rejected


def read_with_damage(
    path: Path, dataset: str = "amazon-us", *overrides: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """(usable rows, rejects, what ended files early) of everything below `path`, in plan order."""
    config = load_settings(overrides=overrides).ingest
    source = sources.discover(str(path), dataset, config)
    period = sources.Period.of(config.earliest, config.latest)
    recipe = sources.Recipe("reviews", source.profile, config, period)
    kept, rejected, damage = [], [], [q.reason for q in source.quarantined]
    for part in sources.plan(source):
        loaded = sources.Loaded(part, recipe)
        blocks = [REVIEWS.empty_table(), *loaded.blocks()]
        assert all(block.schema.equals(REVIEWS) for block in blocks)
        kept += [row for block in blocks for row in block.to_pylist()]
        tables = [table for account in loaded.accounts for table in account.rejects]
        assert all(table.schema.equals(REJECTS) for table in tables)
        rejected += sources.sorted_rejects(tables).to_pylist()
        damage += [account.damage for account in loaded.accounts if account.damage]
    return kept, rejected, damage
