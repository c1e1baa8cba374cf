"""Our side of the parity check: the stages that Spark repeats, run as in a flow but without validation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.sides import run_unvalidated
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.settings import Settings, load_settings

# Of the features, those that Spark repeats: votes too, which are off by default. No row is too few or too dirty.
GROUPS = {"helpful": True} | dict.fromkeys(("shape", "context", "text", "language"), False)
OVERRIDES = (
    "ingest.min_rows=1",
    "ingest.max_reject_fraction=1.0",
    "ingest_items.max_reject_fraction=1.0",
    "language_model.enabled=false",
    *(f"features.groups.{group}={str(on).lower()}" for group, on in GROUPS.items()),
)


@dataclass(frozen=True)
class Ours:
    """What the stages gave. catalogue, items: None without product metadata."""

    raw: Snapshot
    reviews: Snapshot
    described: Snapshot
    counts: Snapshot
    table: Snapshot
    catalogue: Snapshot | None
    items: Snapshot | None


def settings(*more: str) -> Settings:
    """Return the settings of our side. more: others, as `--set` takes them."""
    return load_settings(overrides=[*OVERRIDES, *more])


def run_stages(source: Any, metadata: Any | None, store: SnapshotStore, config: Settings) -> Ours:
    """Run our stages on raw reviews and product metadata: discovered files, or snapshots of ingest. Ray must be up."""
    from tasks.stages.clean.stage import clean
    from tasks.stages.count_words import count_words
    from tasks.stages.describe import describe
    from tasks.stages.features.stage import features
    from tasks.stages.ingest.stage import ingest
    from tasks.stages.ingest_items import ingest_items
    from tasks.stages.items import items
    from tasks.stages.language_model.stage import language_model
    from tasks.stages.tokenize import tokenize

    def run(stage: Any, inputs: list[Any], section: Any) -> Snapshot:
        return partial(run_unvalidated, store=store)(stage, inputs, section).snapshot

    raw = source if isinstance(source, Snapshot) else run(ingest, [source], config.ingest)
    reviews = run(clean, [raw], config.clean)
    counts = run(count_words, [reviews], config.count_words)
    tokens = run(tokenize, [reviews], config.tokenize)
    language = run(language_model, [reviews, tokens], config.language_model)
    catalogue = metadata
    if metadata and not isinstance(metadata, Snapshot):
        catalogue = run(ingest_items, [metadata], config.ingest_items)
    products = run(items, [catalogue], config.items) if catalogue else None
    table = run(features, [reviews, counts, tokens, language, None, products, None], config.features)
    described = run(describe, [reviews], config.describe)
    return Ours(raw, reviews, described, counts, table, catalogue, products)
