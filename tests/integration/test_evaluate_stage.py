"""Evaluation on a real Ray session, against numpy, scikit-learn and XGBoost on the whole test slice at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb
from sklearn import metrics as peer

from tasks.core.errors import InputError, RunError
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.domain.targets import TARGETS
from tasks.stages.evaluate import scoring
from tasks.stages.evaluate.stage import evaluate, judge
from tests.support.stage_runs import made, put, put_reviews, settings

pytestmark = pytest.mark.usefixtures("ray_session")
FEATURES = ["n_chars", "user_count", "item_count", "guess", "noise"]
ROWS = {"train": 301, "valid": 53, "test": 197}
START = datetime(2020, 1, 1, tzinfo=UTC)


def table(slice_name: str, target: str) -> pa.Table:
    """Ratings that features explain in part, a fifth of one feature unknown."""
    n = ROWS[slice_name]
    rng = np.random.default_rng(n)
    x = {"n_chars": rng.integers(1, 400, n), "user_count": rng.integers(0, 3, n), "item_count": rng.integers(0, 3, n)}
    rating = np.round(np.clip(x["n_chars"] / 100 + x["user_count"] + rng.normal(0, 0.6, n), 1, 5))
    label = {"rating": rating, "positive": rating >= 4, "stars": rating - 1}[target]
    guess = {"rating": rating + 1, "positive": 0.2 + 0.6 * label, "stars": rating}[target]
    return pa.table(
        {
            **{name: pa.array(v, pa.float32()) for name, v in x.items()},
            # Unknown in its first row; for `rating` beyond 5 in many.
            "guess": pa.array(guess.astype(np.float32), mask=np.arange(n) == 0),
            "noise": pa.array(rng.normal(size=n).astype(np.float32), mask=rng.random(n) < 0.2),
            "rating": pa.array(rating, pa.float32()),
            "label": pa.array(label, pa.float32()),
            "review_id": [f"{slice_name}{i}" for i in range(n)],
            "category": [["Books", "Toys", None][i % 3] for i in range(n)],
            "timestamp": pa.array(np.arange(n), pa.timestamp("ms", tz="UTC")),
        }
    )


def put_splits(store: SnapshotStore, target: str = "rating", **facts: Any) -> Snapshot:
    """The three slices in parts of unequal length, and two reviews of the test slice that repeat earlier texts."""
    tables = {}
    for name in ROWS:
        whole = table(name, target)
        tables[name] = [whole.slice(0, 70), whole.slice(70, 1), whole.slice(71)]
    again = {"review_id": ["test5", "test6", "valid1"], "slice": ["test", "test", "valid"], "group": list("aab")}
    tables["near_duplicates"] = [pa.table(again)]
    about = {"features": FEATURES, "target": target, "linear": "guess", "rows": ROWS}
    return put(store, "split", tables, facts=about | facts)


def texts(store: SnapshotStore) -> Snapshot:
    """All reviews, those of the test slice in other files than their rows."""
    ids = [f"{name}{i}" for name, n in ROWS.items() for i in range(n)]
    rows = [
        {"review_id": r, "title": f"on {r}", "text": f"{r} says " + "x" * 400, "timestamp": START + timedelta(days=i)}
        for i, r in enumerate(ids)
    ]
    return put_reviews(store, rows[:400], rows[400:500], rows[500:])


def fitted(splits: Snapshot, depth: int) -> bytes:
    x, y = matrix(splits, "train")
    params = {**TARGETS[splits.facts["target"]].params, "max_depth": depth, "nthread": 1}
    return bytes(xgb.train(params, xgb.DMatrix(x, y, feature_names=FEATURES), 8).save_raw("ubj"))


def matrix(splits: Snapshot, *names: str) -> tuple[np.ndarray, np.ndarray]:
    rows = pa.concat_tables([splits.read(name) for name in names]).to_pandas()
    return rows[FEATURES].to_numpy(np.float32), rows["label"].to_numpy()


def load(model: bytes) -> xgb.Booster:
    booster = xgb.Booster()
    booster.load_model(bytearray(model))
    return booster


def evaluated(store: SnapshotStore, splits: Snapshot, models: dict[str, bytes], *overrides: str) -> Snapshot:
    baseline, tuned = (put(store, name, {}, files={"model.ubj": m}) for name, m in models.items())
    return made(store, evaluate, [splits, texts(store), baseline, tuned], settings(*overrides).evaluate).snapshot


@pytest.fixture(scope="module")
def scored(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Splits for `rating`, models, what was evaluated, and the same predictions by XGBoost alone."""
    store = SnapshotStore(tmp_path_factory.mktemp("evaluate"))
    splits = put_splits(store)
    models = {"train": fitted(splits, 2), "refit": fitted(splits, 4)}
    overrides = ("evaluate.categories=1", "evaluate.min_rows=10", "evaluate.worst=7", "evaluate.shap_rows=40")
    done = evaluated(store, splits, models, *overrides)
    x, label = matrix(splits, "test")
    known = matrix(splits, "train", "valid")[1]
    guess = np.where(np.isnan(x[:, 3]), known.mean(), x[:, 3]).clip(1, 5)
    alone = {n: load(m).predict(xgb.DMatrix(x, feature_names=FEATURES)) for n, m in models.items()}
    predicted = {"mean": np.full(len(label), known.mean()), "linear": guess}
    predicted |= {"baseline": alone["train"], "tuned": alone["refit"]}
    return {"splits": splits, "models": models, "done": done, "x": x, "label": label, "predicted": predicted}


def test_measures_are_those_of_scikit_learn_on_the_whole_test_slice(scored: dict[str, Any]) -> None:
    facts, label = scored["done"].facts, scored["label"]
    assert (facts["rows"], facts["target"], facts["metric"]) == (ROWS["test"], "rating", "rmse")
    assert set(facts["measures"]) == {"mean", "linear", "baseline", "tuned"}
    for name, prediction in scored["predicted"].items():
        found = facts["measures"][name]
        assert found["rmse"]["value"] == pytest.approx(peer.root_mean_squared_error(label, prediction), rel=1e-5), name
        assert found["mae"]["value"] == pytest.approx(peer.mean_absolute_error(label, prediction), rel=1e-5), name
        assert found["rmse"]["low"] < found["rmse"]["value"] < found["rmse"]["high"]
    assert facts["train_mean"] == pytest.approx(scored["predicted"]["mean"][0])


def test_predictions_are_written_for_each_test_row_in_its_order(scored: dict[str, Any]) -> None:
    rows = scored["done"].read()
    assert rows["review_id"].to_pylist() == [f"test{i}" for i in range(ROWS["test"])]
    np.testing.assert_array_equal(rows["label"].to_numpy(), scored["label"])
    for name in ("baseline", "tuned"):
        np.testing.assert_allclose(rows[name].to_numpy(), scored["predicted"][name], rtol=1e-6)


def test_slices_hold_the_rows_they_name_and_the_bad_ones_are_marked(scored: dict[str, Any]) -> None:
    slices = {r["slice"]: r for r in scored["done"].read("slices").to_pylist()}
    label, predicted, x = scored["label"], scored["predicted"], scored["x"]
    parts = {"text under 200 characters": x[:, 0] < 200, "new user": x[:, 1] == 0, "known item": x[:, 2] > 0}
    parts |= {"stars 1": label == 1, "category Books": np.arange(len(label)) % 3 == 0}
    parts |= {"text nearly repeats an earlier one": np.isin(np.arange(len(label)), [5, 6])}
    whole = np.sqrt(np.mean((predicted["tuned"] - label) ** 2))
    for name, inside in parts.items():
        row = slices[name]
        assert row["rows"] == inside.sum()
        for model, p in predicted.items():
            rmse = np.sqrt(np.mean((p[inside] - label[inside]) ** 2))
            assert row[f"loss_{model}"] == pytest.approx(rmse, rel=1e-5), (name, model)
        assert row["ratio"] == pytest.approx(row["loss_tuned"] / whole)
        assert row["warning"] == (row["ratio"] > 1.25 and row["rows"] >= 10)
    assert any(r["warning"] for r in slices.values())
    assert sum(r["rows"] for n, r in slices.items() if n.startswith("stars")) == ROWS["test"]
    assert [n for n in slices if n.startswith("category")] == ["category Books"]  # ties go by name
    assert slices["new user"]["rows"] + slices["known user"]["rows"] == ROWS["test"]


def test_importance_is_xgboosts_own_on_a_sample_of_the_test_rows(scored: dict[str, Any]) -> None:
    booster = load(scored["models"]["refit"])
    sample = np.linspace(0, ROWS["test"] - 1, 40).astype(int)
    data = xgb.DMatrix(scored["x"][sample], feature_names=FEATURES)
    shap = np.abs(booster.predict(data, pred_contribs=True)).mean(axis=0)[:-1]
    gain = booster.get_score(importance_type="total_gain")
    found = {r["feature"]: r for r in scored["done"].read("importance").to_pylist()}
    assert {n: r["shap"] for n, r in found.items()} == pytest.approx(dict(zip(FEATURES, shap, strict=True)), rel=1e-4)
    assert {n: r["gain"] for n, r in found.items()} == pytest.approx({n: gain.get(n, 0) for n in FEATURES}, rel=1e-5)
    assert next(iter(found)) == FEATURES[int(shap.argmax())]


def test_the_worst_errors_come_with_the_beginnings_of_their_texts(scored: dict[str, Any]) -> None:
    worst = scored["done"].read("worst").to_pylist()
    losses = (scored["predicted"]["tuned"] - scored["label"]) ** 2
    assert [r["loss"] for r in worst] == pytest.approx(np.sort(losses)[::-1][:7].tolist(), rel=1e-5)
    for row in worst:
        i = int(row["review_id"].removeprefix("test"))
        assert row["prediction"] == pytest.approx(scored["predicted"]["tuned"][i])
        assert (row["label"], row["title"]) == (scored["label"][i], f"on test{i}")
        assert row["text"].startswith(f"test{i} says xxx")
        assert (len(row["text"]), row["text"][-1]) == (scoring.EXCERPT_CHARS, "…")


def test_a_judge_says_of_a_model_what_evaluation_says(scored: dict[str, Any]) -> None:
    config = settings("evaluate.categories=1").evaluate
    judged = judge(scored["splits"], scored["models"]["refit"], config)
    slices = scored["done"].read("slices").to_pylist()
    assert judged.rows == ROWS["test"]
    assert judged.measures == scored["done"].facts["measures"]["tuned"]
    assert judged.slices == {r["slice"]: (r["rows"], pytest.approx(r["loss_tuned"])) for r in slices}


def test_a_judge_compares_a_rival_on_the_same_rows(scored: dict[str, Any]) -> None:
    models, predicted, label = scored["models"], scored["predicted"], scored["label"]
    judged = judge(scored["splits"], models["train"], settings().evaluate, rival=models["refit"])
    differences = (predicted["tuned"] - label) ** 2 - (predicted["baseline"] - label) ** 2
    assert judged.difference is not None
    assert judged.difference.rows == ROWS["test"]
    assert judged.difference.mean == pytest.approx(differences.mean(), rel=1e-4)
    assert judged.difference.error == pytest.approx(differences.std(ddof=1) / ROWS["test"] ** 0.5, rel=1e-4)


def test_a_judge_refuses_a_model_of_other_features_or_of_another_target(
    scored: dict[str, Any], store: SnapshotStore
) -> None:
    splits, config = scored["splits"], settings().evaluate
    x, y = matrix(splits, "train")
    other = xgb.train({}, xgb.DMatrix(x[:, :1], y, feature_names=["brightness"]), 1)
    with pytest.raises(RunError, match="not in the splits: brightness"):
        judge(splits, bytes(other.save_raw("ubj")), config)
    classes = fitted(put_splits(store, "stars"), 2)
    with pytest.raises(RunError, match="trained for another target"):
        judge(splits, classes, config)


def test_an_empty_test_slice_is_an_error_in_plain_words(store: SnapshotStore) -> None:
    empty = put(store, "split", {"train": [table("train", "rating")]}, facts={"target": "rating"})
    with pytest.raises(InputError, match="test slice is empty"):
        judge(empty, b"", settings().evaluate)


@pytest.mark.parametrize("target", ["positive", "stars"])
def test_probabilities_are_judged_by_log_loss_and_all_measures_of_their_target(
    store: SnapshotStore, target: str
) -> None:
    splits = put_splits(store, target)
    done = evaluated(store, splits, {"train": fitted(splits, 2), "refit": fitted(splits, 3)})
    (x, label), (_, known) = matrix(splits, "test"), matrix(splits, "train", "valid")
    tuned = load(fitted(splits, 3)).predict(xgb.DMatrix(x, feature_names=FEATURES))
    facts, rows = done.facts, done.read()
    found = {m: {n: v["value"] for n, v in of_model.items()} for m, of_model in facts["measures"].items()}
    worst = done.read("worst").to_pylist()
    if target == "positive":
        assert found["tuned"]["logloss"] == pytest.approx(peer.log_loss(label, tuned), rel=1e-4)
        assert found["tuned"]["auc"] == pytest.approx(peer.roc_auc_score(label, tuned))
        assert found["mean"]["auc"] == 0.5
        assert found["linear"]["auc"] > 0.99
        assert facts["train_mean"] == pytest.approx(known.mean())
        np.testing.assert_allclose(rows["tuned"].to_numpy(), tuned, rtol=1e-5)
    else:
        assert found["tuned"]["mlogloss"] == pytest.approx(peer.log_loss(label, tuned), rel=1e-4)
        assert found["tuned"]["accuracy"] == pytest.approx((tuned.argmax(axis=1) == label).mean())
        assert set(found["linear"]) == {"rmse"}  # of stars expected no probability is known
        assert facts["train_mean"] == pytest.approx((np.bincount(known.astype(int)) / len(known)).tolist())
        np.testing.assert_allclose(rows["tuned"].to_numpy(), tuned @ np.arange(1, 6), rtol=1e-5)
        np.testing.assert_allclose(rows["tuned_5"].to_numpy(), tuned[:, 4], rtol=1e-5)
        assert {r["loss_linear"] for r in done.read("slices").to_pylist()} == {None}
    assert len(worst) == 100
    assert sum(r["rows"] for r in done.read("calibration").to_pylist()) == 2 * ROWS["test"]
    assert 0 <= facts["calibration_error"]["tuned"] < 0.5
    shap = {r["feature"]: r["shap"] for r in done.read("importance").to_pylist()}
    assert max(shap, key=lambda n: shap[n]) in ("guess", "n_chars")
