"""`raymill forget` on what a whole run has written: nothing of a user is left, however often the call is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from mlflow import MlflowClient

from tasks.core.snapshots import Snapshot
from tests.support.pipeline import Finished, Place
from tests.support.remains import remains

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MODEL = "raymill-amazon-us-rating"
INPUT = ("reviews",)  # below a place; it is the user's
POINTS = ("listed", "model", "models", "files", "unpublished", "removed:0", "unpublished", "removed:2")


@pytest.fixture
def place(finished: Finished, tmp_path: Path) -> Place:
    """A place of one's own with what the one whole run has written, MLflow's artifacts too."""
    here, there = tmp_path / "place", finished.place.root

    def copied(source: str, target: str) -> None:
        (shutil.copyfile if source.endswith(".db") else os.link)(source, target)

    shutil.copytree(there, here, copy_function=copied)
    with closing(sqlite3.connect(here / "mlflow.db")) as database:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
            ("model_versions", "storage_location"),
        ):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(there), str(here)))
        database.commit()
    return Place(here, here / "reviews")


def last(place: Place, stage: str) -> Snapshot:
    return max((s for s in place.store if s.stage == stage), key=lambda s: s.manifest.committed_at)


def somebody(place: Place) -> tuple[str, int, list[str]]:
    """The user with most reviews: their name, the number of their raw reviews, and what would betray them."""
    raw, clean = (pl.DataFrame(pl.from_arrow(last(place, s).read())) for s in ("ingest", "clean"))
    user, rows = Counter(raw["user_id"].to_list()).most_common(1)[0]
    theirs = pl.concat([table.filter(table["user_id"] == user) for table in (raw, clean)])
    others = " ".join(clean.filter(clean["user_id"] != user)["text"].to_list())
    begun = {text[:50] for text in theirs["text"].to_list() if len(text) > 50 and text[:50] not in others}
    assert begun
    return user, rows, [user, *theirs["review_id"].unique().to_list(), *sorted(begun)]


def forget(place: Place, *arguments: str, **variables: str) -> Any:
    return place.call("forget", *arguments, PREFECT_HOME=str(place.root / "prefect"), **variables)


def receipts(place: Place) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((place.root / "data" / "receipts").glob("*.json"))]


def test_nothing_of_a_user_is_left_in_what_runs_have_written(place: Place) -> None:
    user, rows, words = somebody(place)
    assert len(remains(place.root, words, INPUT)) > 5
    made = {snapshot.stage for snapshot in place.store}
    dry = forget(place, user, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert f"{rows} reviews of 1 user(s)" in dry.stdout
    assert f"model {MODEL} version 1 (champion, challenger) would be removed" in dry.stdout
    assert {snapshot.stage for snapshot in place.store} == made
    assert receipts(place) == []

    done = forget(place, user)
    assert done.returncode == 0, done.stdout + done.stderr
    assert remains(place.root, words, INPUT) == {}
    (receipt,) = receipts(place)
    assert receipt["finished"]
    assert [line["reviews"] for line in receipt["users"]] == [rows]
    assert {line["stage"] for line in receipt["snapshots"]} == made
    assert [line["version"] for line in receipt["models"]] == ["1"]
    assert any("report" in line["file"] for line in receipt["files"])
    assert any("raw input" in line["what"] for line in receipt["not_reached"])
    assert receipt["input"]
    assert MlflowClient(place.database, place.database).search_model_versions(f"name='{MODEL}'") == []
    assert list(place.store) == []
    assert list((place.root / "artifacts" / "models").glob("*/artifacts/*")) == []  # words and trees, too
    history = place.call("models", "history")
    assert "forget" in history.stdout


def test_a_call_killed_at_any_point_is_gone_on_with_under_the_same_receipt(place: Place) -> None:
    user, rows, words = somebody(place)
    for point in POINTS:
        killed = forget(place, user, RAYMILL_KILL_AT=f"forget:{point}", RAYMILL_FAULT="EIO")
        assert killed.returncode != 0, (point, killed.stdout)
        (receipt,) = receipts(place)
        assert not receipt["finished"]
    assert len(remains(place.root, words, INPUT)) > 0
    done = forget(place, user)
    assert done.returncode == 0, done.stdout + done.stderr
    assert remains(place.root, words, INPUT) == {}
    (receipt,) = receipts(place)
    assert receipt["finished"]
    assert [line["reviews"] for line in receipt["users"]] == [rows]
    assert len({line["key"] for line in receipt["snapshots"]}) == len(receipt["snapshots"]) > 10


def test_an_unknown_user_is_said_to_be_unknown_and_nothing_is_removed(place: Place) -> None:
    before = {snapshot.digest for snapshot in place.store}
    done = forget(place, "NOBODY-OF-THAT-NAME")
    assert done.returncode == 0, done.stderr
    assert "1 user(s) have no reviews in any snapshot" in done.stdout
    assert {snapshot.digest for snapshot in place.store} == before
    (receipt,) = receipts(place)
    assert (receipt["finished"], receipt["snapshots"], receipt["models"]) == (True, [], [])


@pytest.mark.nightly
@pytest.mark.fault
def test_a_killed_call_then_a_run_make_everything_again_without_the_user(tmp_path: Path) -> None:
    from tasks.sources.synth import synthesize
    from tests.support.pipeline import ROWS
    from tests.support.raw_files import delimited, review

    synthesize(ROWS, 7, tmp_path / "reviews")
    body = "A zanzibarite lamp that broke on the second day, which nobody else has written in these words."
    hers = [
        review(review_id=f"ZZZREVIEW0{i}", customer_id="NELLIE7", product_id=f"B{i}", review_body=body)
        for i in range(3)
    ]
    hers.append(review(review_id="ZZZREVIEW09", customer_id="NELLIE7", star_rating="nan", review_body=body))
    (tmp_path / "reviews" / "zz.tsv").write_text(delimited(hers, "\t"))
    place = Place(tmp_path, tmp_path / "reviews")
    words, without = ["NELLIE7", "zanzibarite", "ZZZREVIEW00"], ("reviews", "said.txt")
    status, said = place.start("run")
    assert status == 0, said[-3000:]
    status, said = place.start("score", "--input", str(place.reviews), "--out", str(tmp_path / "data" / "predictions"))
    assert status == 0, said[-3000:]
    assert len(remains(tmp_path, words, without)) > 10

    status, said = place.start("forget", "NELLIE7", kill_at="forget:removed:3")
    assert status == -signal.SIGKILL, said
    status, said = place.start("forget", "NELLIE7", "--run", "--input", str(place.reviews))
    assert status == 0, said[-3000:]
    assert remains(tmp_path, words, without) == {}
    (receipt,) = receipts(place)
    assert receipt["run"]["digests"]["ingest"] == last(place, "ingest").digest
    assert last(place, "ingest").manifest.counts["forgotten"] == 4
    client = MlflowClient(place.database, place.database)
    assert str(client.get_model_version_by_alias(MODEL, "champion").version) == "2"
    about = json.loads((tmp_path / "data" / "predictions" / "predictions.json").read_text())
    assert about["forgotten"] == 4  # the one without stars is scored, too

    status, said = place.start("run")  # the same again: all is there
    assert status == 0, said[-3000:]
    assert all(row["reused"] for row in place.summary["stages"])
