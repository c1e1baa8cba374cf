"""What several modules look at."""

from __future__ import annotations

import polars as pl
import pytest

from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore


@pytest.fixture(scope="package")
def original(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, pl.DataFrame]:
    """Some reviews and their features, through all the stages before."""
    from tests.support.feature_runs import feature_table, some_reviews

    return feature_table(SnapshotStore(tmp_path_factory.mktemp("original")), some_reviews())
