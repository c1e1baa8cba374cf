"""The registered model at work: evaluation's predictions from raw reviews, in this process and in a strange one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest

from tasks.core.snapshots import Snapshot
from tasks.stages.evaluate.settings import EvaluateConfig
from tasks.stages.package.review_model import ReviewModel
from tasks.stages.register.packaged_champion import judge_package
from tests.support.command import raymill
from tests.support.pipeline import ROWS, Finished, Place

pytestmark = pytest.mark.slow
MODEL = "raymill-amazon-us-rating"
# A process that has neither Raymill nor anything else that a model does not need.
STRANGE = """
import json, sys
for name in ("ray", "modin", "prefect", "great_expectations", "transformers", "optuna", "flows", "benchmarks"):
    sys.modules[name] = None
import mlflow.pyfunc, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
reviews = pd.read_json(sys.argv[3], dtype=False, convert_dates=False)
import tasks
print(json.dumps({"code": list(tasks.__path__), "predicted": model.predict(reviews).tolist()}))
"""


@pytest.fixture(scope="module")
def place(finished: Finished) -> Place:
    return finished.place


def last(place: Place, stage: str) -> Snapshot:
    return max((s for s in place.store if s.stage == stage), key=lambda s: s.manifest.committed_at)


@pytest.fixture(scope="module")
def evaluated(place: Place) -> pl.DataFrame:
    """Raw reviews of the test slice, once each, with the predictions of evaluation."""
    scores = pl.DataFrame(pl.from_arrow(last(place, "evaluate").read(columns=["review_id", "tuned"])))
    raw = pl.DataFrame(pl.from_arrow(last(place, "ingest").read()))
    return raw.filter(~pl.col("review_id").is_duplicated()).join(scores, on="review_id")


@pytest.fixture(scope="module")
def scored(place: Place, server: str, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The predictions of all raw reviews that the run has read."""
    out = tmp_path_factory.mktemp("scored") / "out"
    done = score(place, server, "--input", str(place.reviews), "--out", str(out), "--reasons", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def score(place: Place, server: str, *arguments: str) -> Any:
    return place.call("score", *arguments, PREFECT_API_URL=server)


def test_the_packaged_model_was_proven_before_it_became_champion(place: Place, finished: Finished) -> None:
    proof = last(place, "prove").facts
    assert proof["rows"] == last(place, "evaluate").rows()
    assert (proof["missing"], proof["earlier"], proof["largest_difference"]) == (0, 0, 0.0)
    assert proof["digests"]["evaluated"] == proof["digests"]["packaged"]
    gates = {gate["name"]: gate for gate in finished.summary["gates"]}
    assert gates["difference of the packaged model"]["passed"]
    assert proof["digests"]["packaged"] in gates["difference of the packaged model"]["note"]


def test_a_champion_of_other_features_is_compared_by_its_package(place: Place, ray_session: None) -> None:
    """Of the same model both ways are the same: no loss differs, in no slice."""
    stages = [last(place, name) for name in ("ingest", "clean", "split", "evaluate")]
    scores = stages[-1]
    config = EvaluateConfig(**scores.manifest.config)
    judged = judge_package(last(place, "package").root, *stages, config)
    right = scores.facts["measures"]["tuned"]["rmse"]["value"]
    assert judged.measures["rmse"]["value"] == pytest.approx(right, rel=1e-6)
    assert judged.difference is not None
    assert (judged.difference.rows, judged.difference.mean) == (scores.facts["rows"], 0)
    by_slice = {row["slice"]: row["loss_tuned"] for row in scores.read("slices").to_pylist()}
    assert {name: by_slice[name] for name in judged.slices} == pytest.approx(
        {n: v[1] for n, v in judged.slices.items()}
    )


def test_threads_may_share_a_model(place: Place, evaluated: pl.DataFrame) -> None:
    model, some = ReviewModel.load(last(place, "package").root), evaluated.head(60)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(model.predict, [some[i % 60 :] for i in range(90)]))
    for i, predicted in enumerate(found):
        np.testing.assert_array_equal(predicted, some["tuned"].to_numpy()[i % 60 :])


def test_a_review_from_before_the_last_models_is_scored_as_if_written_when_they_took_over(
    place: Place, evaluated: pl.DataFrame
) -> None:
    model = ReviewModel.load(last(place, "package").root)
    since = pl.lit(model.about.since).cast(pl.Datetime("ms", "UTC"))
    some = evaluated.head(5)
    found = [model.predict(some.with_columns(timestamp=when)) for when in (since, since - pl.duration(days=9000))]
    np.testing.assert_array_equal(*found)


def test_a_process_without_raymill_loads_the_champion_and_predicts_the_same(
    place: Place, evaluated: pl.DataFrame, tmp_path: Path
) -> None:
    some = evaluated.head(40).with_columns(pl.col("timestamp").dt.to_string("iso"))
    columns = ["user_id", "item_id", "title", "text", "timestamp", "verified", "category"]
    (tmp_path / "reviews.json").write_text(json.dumps(some.select(columns).to_dicts()))
    words = [sys.executable, "-c", STRANGE, place.database, f"models:/{MODEL}@champion", str(tmp_path / "reviews.json")]
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ended = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert "/artifacts/" in found["code"][0]
    np.testing.assert_array_equal(np.float32(found["predicted"]), some["tuned"].to_numpy())


def test_the_registered_model_says_what_it_takes_and_holds_no_pickle(place: Place) -> None:
    mlflow.set_tracking_uri(place.database)
    mlflow.set_registry_uri(place.database)
    info = mlflow.models.get_model_info(f"models:/{MODEL}@champion")
    required = {column.name: column.required for column in info.signature.inputs}
    assert {name for name, needed in required.items() if needed} == {"user_id", "item_id", "text", "timestamp"}
    assert info.saved_input_example_info is not None
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}@champion"))
    assert (folder / "artifacts" / "package" / "example.parquet").exists()
    assert [file.name for file in folder.rglob("*") if file.suffix in (".pkl", ".pickle", ".joblib")] == []
    assert "ray" not in (folder / "requirements.txt").read_text()


def test_every_row_that_was_read_has_one_prediction_the_one_of_evaluation(
    place: Place, scored: Path, evaluated: pl.DataFrame
) -> None:
    found = pl.read_parquet(scored / "part-*.parquet", glob=True)
    about = json.loads((scored / "predictions.json").read_text())
    rated = last(place, "ingest").read(columns=["review_id"])["review_id"].to_pylist()
    rejects = pl.read_parquet(scored / "rejects" / "*.parquet")
    assert (about["rows"], about["rejected"], about["model"]) == (len(found), len(rejects), MODEL)
    assert about["rows"] + about["rejected"] == about["rows_in"] == last(place, "ingest").manifest.counts["rows_in"]
    kept = pl.Series(rated).is_in(found["review_id"].implode())  # beside them those without stars
    assert kept.all()
    assert len(rated) <= len(found) <= ROWS
    both = evaluated.join(found.unique("review_id", keep="none"), on="review_id")
    assert len(both) == len(evaluated) > 50
    np.testing.assert_array_equal(both["prediction"].to_numpy(), both["tuned"].to_numpy())
    assert (found["low"] <= found["high"]).all()
    assert found["reasons"].list.len().unique().to_list() == [2]
    held = both.filter((pl.col("low") <= pl.col("rating")) & (pl.col("rating") <= pl.col("high")))
    assert len(held) >= 0.85 * len(both)


def test_new_reviews_without_stars_of_unknown_users_and_items_are_scored_and_a_second_call_takes_them_over(
    place: Place, server: str, scored: Path, tmp_path: Path
) -> None:
    raw = pl.read_parquet(next(place.reviews.rglob("*.parquet"))).head(50).drop("star_rating")
    texts = ["", "x " * 100_000, "\x00&&amp;<b>", "no words: !!! ???", "中文 ünïcode 🎉"]
    strange = raw.head(5).with_columns(
        customer_id=pl.lit("nobody"), product_id=pl.lit("nothing"), review_body=pl.Series(texts)
    )
    (tmp_path / "in").mkdir()
    pl.concat([raw[5:], strange]).write_parquet(tmp_path / "in" / "new.parquet")
    arguments = ("--input", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--model", "1")
    done = score(place, server, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    found = pl.read_parquet(tmp_path / "out" / "part-*.parquet", glob=True)
    assert len(found) + json.loads((tmp_path / "out" / "predictions.json").read_text())["rejected"] == 50
    assert found["prediction"].is_finite().all()
    again = score(place, server, *arguments, "--json", str(tmp_path / "run.json"))
    assert "reused" in again.stdout
    assert json.loads((tmp_path / "run.json").read_text())["rows_in"] == 50
    assert pl.read_parquet(tmp_path / "out" / "part-*.parquet", glob=True).equals(found)


def test_a_model_that_is_not_there_and_a_folder_of_something_else_are_mistakes(
    place: Place, server: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("not predictions")
    for arguments, said in (
        (("--out", str(tmp_path)), "exists and holds no predictions"),
        (("--out", str(place.reviews / "here")), "is within the input"),
        (("--out", str(tmp_path / "new"), "--model", "99"), f"{MODEL} has no version 99"),
        (("--out", str(tmp_path / "new"), "--set", "data.name=elsewhere"), "no model raymill-elsewhere-rating"),
        (("--out", str(tmp_path / "new"), "--set", "features.target=positive"), "no model raymill-amazon-us-positive"),
        (("--out", str(tmp_path / "new"), "--follow"), "--follow takes one folder of this machine"),
    ):
        given = next(place.reviews.rglob("*.parquet")) if "--follow" in arguments else place.reviews
        done = score(place, server, "--input", str(given), *arguments)
        assert done.returncode in (1, 2)
        assert said in done.stderr
        assert not (tmp_path / "new").exists()


def test_a_registry_that_is_down_is_told_before_anything_starts(place: Place, tmp_path: Path) -> None:
    given = ("--input", str(place.reviews), "--out", str(tmp_path / "new"), "--set", "tracking.uri=http://127.0.0.1:9")
    done = raymill("score", *given)
    assert (done.returncode, (tmp_path / "new").exists()) == (1, False)
    assert "MLflow cannot be used" in done.stderr


def test_files_that_appear_are_each_scored_once_and_ctrl_c_ends_it_after_the_batch_at_work(
    place: Place, server: str, scored: Path, tmp_path: Path
) -> None:
    raw = pl.read_parquet(next(place.reviews.rglob("*.parquet"))).head(60)
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "deeper").mkdir(parents=True)
    raw[:20].write_parquet(folder / "a.parquet")
    raw[20:40].write_parquet(folder / "deeper" / "b.parquet")
    whole = (folder / "deeper" / "b.parquet").read_bytes()
    (folder / "deeper" / "b.parquet").write_bytes(whole[:-50])  # half-written
    (folder / "none.csv").write_text("a,b\n1,2\n")
    follow = ("--follow", "--input", str(folder), "--out", str(out), "--set", "follow.poll_seconds=0.1")
    done = score(place, server, *follow, "--set", "follow.idle_seconds=1", "--json", str(tmp_path / "first.json"))
    assert done.returncode == 0, done.stderr[-3000:]
    first = json.loads((tmp_path / "first.json").read_text())
    assert (first["batches"], first["rows"] + first["rejected"]) == (1, 20)

    (folder / "deeper" / "b.parquet").write_bytes(whole)
    (folder / "worse.csv").write_text("a,b\n1,2\n3,4\n")
    interrupt = threading.Thread(target=interrupted, args=(out / "batch-000002.json", folder, raw[40:]))
    interrupt.start()
    done = score(place, server, *follow)
    interrupt.join()
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ending after the batch at work" in done.stdout
    assert json.loads((out / "batch-000002" / "predictions.json").read_text())["finished"]
    assert not (out / "batch-000003").exists()
    found = pl.read_parquet(out / "batch-*" / "part-*.parquet", glob=True)
    right = pl.read_parquet(scored / "part-*.parquet", glob=True).unique("review_id", keep="none")
    both = found.join(right, on="review_id", suffix="_at_once")
    assert both["review_id"].is_unique().all()
    assert len(both) > 25
    np.testing.assert_array_equal(both["prediction"].to_numpy(), both["prediction_at_once"].to_numpy())


def interrupted(begun: Path, folder: Path, later: pl.DataFrame) -> None:
    """Press Ctrl-C once a batch has begun, and write another file, which is not to be scored."""
    end = time.monotonic() + 120
    while not begun.exists() and time.monotonic() < end:
        threading.Event().wait(0.01)
    later.write_parquet(folder / "later.parquet")
    os.kill(os.getpid(), signal.SIGINT)
