"""The weekly bench with a real Prefect and MLflow: what is kept, and what one failing case does to the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.bench import bench
from tasks.core.errors import RunError, SettingsError
from tests.support.prefect_server import connected

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(900)]


@pytest.fixture
def client(server: str) -> Iterator[SyncPrefectClient]:
    with connected() as client:
        yield client


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    return [f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"]


MEASURED = {
    "case": "etl",
    "size": {"rows": 1000, "bytes": 5},
    "workers": 2,
    "checked": "equal to polars",
    "ours": {"median_s": 2.0, "min_s": 2.0, "max_s": 2.0, "runs": 3, "peak_rss_bytes": 7},
    "peers": {"polars": {"median_s": 1.0, "min_s": 1.0, "max_s": 1.0, "runs": 3, "peak_rss_bytes": 5}},
    "skipped": {},
    "ratio": {"polars": 2.0},
    "machine": {
        "cpu": "x", "cores": 2, "memory_bytes": 1, "platform": "Linux", "python": "3.11", "libraries": {},
        "load_average": 0.1,
    },
}  # fmt: skip


def test_the_weekly_bench_keeps_each_cases_numbers_and_goes_on_after_one_that_failed(
    client: SyncPrefectClient, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run_case(case: str, *, size: int | None, workers: int, runs: int, log: Any) -> dict[str, Any]:
        asked.append((case, size, workers, runs))
        if case == "train":
            raise RunError("the outputs differ", where="bench train")
        return {**MEASURED, "case": case}

    monkeypatch.setattr("benchmarks.harness.run_case", run_case)
    page = tmp_path / "measured.md"
    with pytest.raises(RunError, match=r"1 of 3 cases failed: train: bench train: the outputs differ"):
        bench(["etl", "train", "wordcount"], {"etl": 1000}, runs=2, page=str(page), overrides=overrides)
    assert asked == [("etl", 1000, 2, 2), ("train", None, 2, 2), ("wordcount", None, 2, 2)]

    mlflow = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    kept = mlflow.search_runs([mlflow.get_experiment_by_name("raymill-bench").experiment_id])
    assert {run.data.tags["raymill.bench.case"] for run in kept} == {"etl", "wordcount"}
    assert {run.info.status for run in kept} == {"FINISHED"}
    for run in kept:
        assert run.data.metrics == {
            "ours_median_s": 2.0, "ours_min_s": 2.0, "ours_max_s": 2.0, "ours_runs": 3.0, "ours_peak_rss_bytes": 7.0,
            "polars_median_s": 1.0, "polars_min_s": 1.0, "polars_max_s": 1.0, "polars_runs": 3.0,
            "polars_peak_rss_bytes": 5.0, "ratio_polars": 2.0, "load_average": 0.1,
        }  # fmt: skip
        assert run.data.params["size_rows"] == "1000"
    assert [line for line in page.read_text().splitlines() if line.startswith("## ")] == ["## etl", "## wordcount"]
    keys = ArtifactFilterKey(any_=["bench-etl"])
    # Prefect sends again what its server has not answered in time, though the server may have kept it.
    artifacts = client.read_artifacts(artifact_filter=ArtifactFilter(key=keys))
    assert artifacts
    for artifact in artifacts:
        assert json.loads(str(artifact.data).removeprefix("```json\n").removesuffix("\n```")) == MEASURED


def test_a_case_that_is_none_fails_before_any_is_measured(server: str, overrides: list[str]) -> None:
    with pytest.raises(SettingsError, match="no bench case 'elt'"):
        bench(["elt"], overrides=overrides)
