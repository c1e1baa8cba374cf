"""Batch scoring in one process: the same registered model, Polars to read and write, XGBoost on all threads.

In: the folder of a registered model's package and a folder of parquet files with the columns of the US customer
reviews. Out: `predictions.parquet`. No validation, no accounts of rejected rows, no resume, one process.

    python -m benchmarks.peers.score PACKAGE INPUT OUT --threads 2 --json FILE
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

STARTED = time.perf_counter()


def score(package: Path, input: Path, out: Path, threads: int) -> int:
    """Score all usable rows; returns their number."""
    import polars as pl

    from tasks.sources.profiles import load_profile
    from tasks.stages.package.review_model import ReviewModel

    model = ReviewModel.load(package)
    model.booster.set_param({"nthread": threads})
    columns = {source: name for name, source in load_profile("amazon-us").columns.items()}
    raw = pl.concat([pl.read_parquet(file) for file in sorted(input.rglob("*.parquet"))]).rename(columns)
    stars, day = pl.col("rating").cast(pl.Float32, strict=False), pl.col("timestamp")
    usable = (stars.is_between(1, 5) | stars.is_null()) & day.is_not_null() & pl.col("user_id").is_not_null()
    reviews = raw.filter(usable).select(
        *(pl.col(name).cast(pl.String) for name in ("review_id", "user_id", "item_id", "title", "text", "category")),
        day.cast(pl.Datetime("ms", "UTC")) if raw.schema["timestamp"] != pl.String else day,
        verified=pl.col("verified").cast(pl.String).str.to_lowercase().is_in(["y", "yes", "true", "1"]),
    )
    predicted = model.predict(reviews)
    pl.DataFrame({"review_id": reviews["review_id"], "prediction": predicted}).write_parquet(
        out / "predictions.parquet"
    )
    return len(predicted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("package", "input", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    os.environ["POLARS_MAX_THREADS"] = str(given.threads)
    rows = score(given.package, given.input, given.out, given.threads)
    given.json.write_text(json.dumps({"rows": rows, "wall_s": time.perf_counter() - STARTED}))


if __name__ == "__main__":
    main()
