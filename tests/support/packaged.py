"""A package and its proof as the stages leave them, by hand: of a model of `n_chars` and `user_mean` that scores."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer, models

from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.settings import load_settings
from tasks.stages.features.past_state import STATE
from tasks.stages.package.layout import ABOUT, MODEL, TOKENIZER, About, past_table
from tasks.stages.prove import EXAMPLE
from tests.support.stage_runs import put

REVIEW: dict[str, Any] = {
    "review_id": "R1", "user_id": "U1", "item_id": "I1", "rating": 5.0, "title": "Fine", "text": "Works.",
    "timestamp": 1_400_000_000_000, "prediction": 4.5,
}  # fmt: skip


def about(features: list[str], target: str = "rating", since: int = 0) -> About:
    return About(
        target=target,
        features=features,
        groups={"shape": ["n_chars"], "user": ["user_mean"]},
        past={"user": ["count", "mean"]},
        since=since,
        until=since,
        clean=load_settings().clean,
        splitting="words",
        max_tokens=None,
        language=None,
        reviews=400,
    )


def packaged(
    store: SnapshotStore, booster: bytes, features: list[str], target: str = "rating", **proof: Any
) -> tuple[Snapshot, Snapshot]:
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?")).to_str().encode()
    files = {ABOUT: about(features, target).model_dump_json().encode(), MODEL: booster, TOKENIZER: tokenizer}
    tables = {past_table("user"): [STATE.empty_table()]}
    package = put(store, "package", tables, files=files, facts={"bytes": sum(map(len, files.values()))})
    facts = {"rows": 400, "earlier": 0, "missing": 0, "largest_difference": 0.0, "intervals": None}
    facts |= {"digests": {"evaluated": "0123", "packaged": "0123"}, **proof}
    return package, put(store, "prove", {"example": [pa.Table.from_pylist([REVIEW], schema=EXAMPLE)]}, facts=facts)
