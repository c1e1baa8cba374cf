"""Bodies of requests for the case `serve`: synthetic reviews as JSON, one or 32 in each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.inputs import synthetic

ROWS = 2_000


def write_bodies(to: Path, reviews: int) -> Path:
    """Write JSON lines, each the body of a request for so many reviews."""
    rows = requests()
    bodies = [rows[i : i + reviews] for i in range(0, len(rows) - reviews + 1, reviews)]
    to.write_text("".join(json.dumps(body if reviews > 1 else body[0]) + "\n" for body in bodies))
    return to


def requests() -> list[dict[str, Any]]:
    """Return reviews as a client sends them, those without a needed field left out."""
    import pyarrow.parquet as pq

    needed = ("customer_id", "product_id", "review_body", "review_date")
    rows = [row for file in sorted(synthetic(ROWS).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return [
        {
            "user_id": row["customer_id"],
            "item_id": row["product_id"],
            "title": row["review_headline"],
            "text": row["review_body"],
            "timestamp": str(row["review_date"]),
            "verified": row["verified_purchase"] in ("Y", "y", True),
            "category": row["product_category"],
        }
        for row in rows
        if all(row[name] for name in needed)
    ]
