"""`raymill rehearse` on a few hundred reviews: by time, a night without any, on the same rows, the same after kills."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flows.rehearse.page import PAGE
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.sources.synth import synthesize
from tests.support.command import Done, raymill
from tests.support.pipeline import SMALL, Place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NIGHTS = 2
EMPTY = 1  # the night in which nothing arrives
SETTINGS = (
    *(f"{name}={value}" for name, value in SMALL.items()),
    "registry.gates.min_test_rows=10",
)


def rehearse(root: Path, *arguments: str, **variables: str) -> Done:
    own = (f"storage.root={root / 'data'}", f"tracking.uri=sqlite:///{root / 'none.db'}")
    words = [word for setting in (*SETTINGS, *own) for word in ("--set", setting)]
    given = ("--input", str(root / "reviews"), "--nights", str(NIGHTS), *arguments)
    return raymill("rehearse", *given, *words, COLUMNS="200", **variables)


def snapshots(root: Path, stage: str) -> list[Snapshot]:
    """A stage's snapshots, the oldest first."""
    found = [s for s in SnapshotStore(root / "data" / "rehearsal" / "snapshots") if s.stage == stage]
    return sorted(found, key=lambda s: (s.rows(), s.manifest.committed_at))


def with_a_gap(reviews: Path) -> None:
    """Move the earlier half of the reviews towards the first day, and the later one towards the last."""
    for file in reviews.iterdir():
        rows = pl.read_parquet(file)
        day = rows["review_date"].cast(pl.Int32)
        first, last, middle = (int(day.quantile(q, "nearest") or 0) for q in (0, 1, 0.5))
        moved = pl.select(pl.when(day <= middle).then(first + (day - first) // 4).otherwise(last - (last - day) // 4))
        rows.with_columns(review_date=moved.to_series().cast(pl.Int32).cast(pl.Date)).write_parquet(file)


@pytest.fixture(scope="module")
def root(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rehearsal that was struck after its first night, then started again."""
    root = tmp_path_factory.mktemp("rehearsed")
    synthesize(600, 7, root / "reviews")
    with_a_gap(root / "reviews")
    struck = rehearse(root, RAYMILL_KILL_AT="rehearse:night:0", RAYMILL_FAULT="EIO")
    assert struck.returncode != 0, struck.stdout
    assert json.loads((root / "data/rehearsal/rehearsal.json").read_text()) == {}
    done = rehearse(root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"night 0 of {NIGHTS}" in done.stdout
    assert (
        "0 of " in done.stdout.splitlines()[next(i for i, s in enumerate(done.stdout.splitlines()) if "night 0" in s)]
    )
    return root


@pytest.fixture(scope="module")
def result(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "data/rehearsal/rehearsal.json").read_text())
    return found


def test_each_night_reads_what_had_arrived_until_then_and_nothing_later(root: Path, result: dict[str, Any]) -> None:
    (arrived,) = snapshots(root, "arrivals")
    raw = pl.DataFrame(pl.from_arrow(snapshots(root, "ingest")[-1].read()))
    assert len(snapshots(root, "features")) == 1  # those of the last night; earlier ones are not kept
    nights = [pl.read_parquet(file) for file in arrived.files()]
    assert len(nights) == NIGHTS + 1
    assert sum(map(len, nights)) == len(raw)
    until = arrived.facts["until"]
    assert until[2] - until[1] == pytest.approx(until[1] - until[0], abs=1)  # ms
    for number, rows in enumerate(nights):
        times = rows["timestamp"].dt.epoch("ms")
        assert len(times) if number != EMPTY else not len(times)
        assert (times < until[number]).all()
        assert number == 0 or (times >= until[number - 1]).all()
    for scores in snapshots(root, "backtest"):
        number = len(scores.facts["losses"]) - 1
        times = pl.DataFrame(pl.from_arrow(scores.read("arrived")))["timestamp"].dt.epoch("ms")
        assert times.is_between(until[number - 1], until[number] - 1).all()
    assert [night["reviews"] for night in result["nights"]] == np.cumsum([len(rows) for rows in nights]).tolist()


def test_a_night_in_which_nothing_arrives_has_the_model_of_the_night_before(result: dict[str, Any]) -> None:
    nights = result["nights"]
    assert [night["arrived"] > 0 for night in nights] == [True, False, True]
    assert nights[EMPTY]["model"] == nights[EMPTY - 1]["model"] != nights[EMPTY + 1]["model"]


def test_gates_compare_models_on_the_same_rows(root: Path, result: dict[str, Any]) -> None:
    latest = snapshots(root, "backtest")
    by_nights = {len(s.facts["losses"]): s for s in latest}
    scores = by_nights[NIGHTS + 1]
    rows = pl.DataFrame(pl.from_arrow(scores.read()))
    first, last = (rows[f"night_{n:04d}"].cast(pl.Float64).to_numpy() for n in (0, NIGHTS))
    assert scores.facts["losses"]["night_0000"] == pytest.approx(np.sqrt(first.mean()), rel=1e-5)
    mean, error = scores.facts["differences"]["night_0000"]
    assert mean == pytest.approx((last - first).mean(), abs=1e-6)
    assert error == pytest.approx((last - first).std(ddof=1) / len(rows) ** 0.5, rel=1e-3)
    assert result["nights"][NIGHTS]["loss"] == scores.facts["losses"][f"night_{NIGHTS:04d}"]


def test_months_are_of_what_arrived_by_the_champions_of_the_night_before(root: Path, result: dict[str, Any]) -> None:
    found = result["gates"]["first_model"]
    sums = []
    for scores in snapshots(root, "backtest"):
        arrived = pl.DataFrame(pl.from_arrow(scores.read("arrived")))
        if "night_0000" in arrived.columns and len(scores.facts["losses"]) > 1:
            sums += arrived["night_0000"].cast(pl.Float64).to_list()
    assert found["rows"] == len(sums)
    assert found["loss"] == pytest.approx(np.mean(sums) ** 0.5, rel=1e-5)
    assert sum(month["rows"] for month in found["months"]) == found["rows"]


def test_the_page_and_the_tables_are_written_and_the_runs_store_is_untouched(root: Path) -> None:
    place = root / "data" / "rehearsal"
    assert f"Rehearsal of nights: {NIGHTS}" in (place / PAGE).read_text()
    decisions = pl.read_parquet(place / "decisions.parquet")
    assert len(decisions) == 6 * (NIGHTS + 1)
    assert set(pl.read_parquet(place / "months.parquet").columns) >= {"gates", "month", "rows", "loss"}
    assert {path.name for path in (root / "data").iterdir()} == {"rehearsal"}
    assert not (root / "none.db").exists()


def test_other_gates_are_compared_without_running_a_night(root: Path, result: dict[str, Any]) -> None:
    done = rehearse(root, "--set", "rehearse.gates.mine={max_loss: 0.001}")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("night ")]
    assert [line.rpartition("; ")[2] for line in lines] == ["finished before"] * (NIGHTS + 1)
    again = json.loads((root / "data/rehearsal/rehearsal.json").read_text())
    mine = again["gates"].pop("mine")
    assert again == result
    assert (mine["promotions"], mine["decisions"][0]["failed"]) == (0, ["loss"])


@pytest.mark.parametrize(
    ("out", "says"),
    [("data", "holds what runs write"), ("reviews/here", "within the input"), ("full", "holds no rehearsal")],
)
def test_a_folder_that_is_not_the_rehearsals_own_is_refused(tmp_path: Path, out: str, says: str) -> None:
    for name in ("data", "full"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "something").write_text("mine")
    synthesize(120, 7, tmp_path / "reviews")
    done = rehearse(tmp_path, "--out", str(tmp_path / out))
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr


@pytest.mark.nightly
@pytest.mark.fault
def test_a_rehearsal_killed_twice_ends_with_the_same_result(tmp_path: Path) -> None:
    synthesize(600, 7, tmp_path / "reviews")
    settings = [word for setting in (*SETTINGS, "arrivals.by=reviews") for word in ("--set", setting)]

    def start(name: str, kill_at: str = "") -> int:
        place = Place(tmp_path / name, tmp_path / "reviews")
        place.root.mkdir(exist_ok=True)
        given = ("rehearse", "--input", str(place.reviews), "--nights", "3", *settings)
        status, said = place.start(*given, kill_at=kill_at)
        assert status in (0, -signal.SIGKILL), said[-3000:]
        return status

    def result(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((tmp_path / name / "data/rehearsal/rehearsal.json").read_text())
        return found

    assert start("undisturbed") == 0
    assert start("killed", "features:after-manifest") == -signal.SIGKILL
    assert start("killed", "rehearse:night:1") == -signal.SIGKILL
    assert result("killed") == {}
    assert start("killed") == 0
    assert result("killed") == result("undisturbed")
    assert len(result("killed")["nights"]) == 4
