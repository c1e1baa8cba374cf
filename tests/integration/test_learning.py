"""Training and search on a real Ray session, against XGBoost alone and numpy."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.errors import InputError
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.engines import boosting, ray_train
from tasks.engines.feature_files import arrays
from tasks.stages.train.stage import refit, train
from tests.support.stage_runs import made, put, settings

pytestmark = pytest.mark.usefixtures("ray_session")
FEATURES = ["n_chars", "user_count", "item_count", "noise"]
ROWS = {"train": 1601, "valid": 203, "test": 197}  # so that three workers have a remainder


def table(n: int, seed: int) -> pa.Table:
    """Ratings that features explain in part, a fifth of one feature unknown."""
    rng = np.random.default_rng(seed)
    x = {"n_chars": rng.integers(1, 400, n), "user_count": rng.integers(0, 3, n), "item_count": rng.integers(0, 3, n)}
    y = np.clip(x["n_chars"] / 100 + x["user_count"] + rng.normal(0, 0.3, n), 1, 5)
    hidden = rng.random(n) < 0.2
    return pa.table(
        {
            **{name: pa.array(v, pa.float32()) for name, v in x.items()},
            "noise": pa.array(rng.normal(size=n).astype(np.float32), mask=hidden),
            "rating": pa.array(np.round(y), pa.float32()),
            "label": pa.array(np.round(y), pa.float32()),
            "review_id": [f"R{seed}-{i}" for i in range(n)],
            "category": [["Books", "Toys", None][i % 3] for i in range(n)],
            "timestamp": pa.array(np.arange(n), pa.timestamp("ms", tz="UTC")),
        }
    )


def put_splits(store: SnapshotStore) -> Snapshot:
    """The three slices, each in parts of unequal length."""
    tables = {}
    for seed, (name, n) in enumerate(ROWS.items()):
        whole = table(n, seed)
        tables[name] = [whole.slice(0, n // 3), whole.slice(n // 3, 10), whole.slice(n // 3 + 10)]
    facts = {"features": FEATURES, "groups": {"all": FEATURES}, "target": "rating", "linear": None, "rows": ROWS}
    return put(store, "split", tables, facts=facts)


def matrix(splits: Snapshot, *names: str) -> tuple[np.ndarray, np.ndarray]:
    parts = [arrays(splits.read(name), FEATURES) for name in names]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def root_cover(model: bytes) -> float:
    """Rows that the first tree was grown from: with squared error each row weighs one."""
    trees = boosting.load_model(model).get_dump(with_stats=True, dump_format="json")
    return float(json.loads(trees[0])["cover"])


@pytest.fixture(scope="module")
def models(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Snapshot]:
    """What was trained, by number of workers; of three, the rows wait on disk."""
    found = {}
    for workers in ("1", "3"):
        store = SnapshotStore(tmp_path_factory.mktemp(f"train-{workers}"))
        external = "train.external_memory=" + str(workers == "3").lower()
        # With fewer bins than different values the workers' sketches, merged, cut in other places.
        config = settings("train.rounds=20", "train.params.max_bin=256", f"train.workers={workers}", external).train
        found[workers] = made(store, train, [put_splits(store)], config).snapshot
    return found


def model_of(trained: Snapshot) -> bytes:
    return trained.path("model.ubj").read_bytes()


@pytest.mark.slow
class TestTrain:
    def test_the_number_of_workers_changes_predictions_by_little(
        self, models: dict[str, Snapshot], store: SnapshotStore
    ) -> None:
        x, y = matrix(put_splits(store), "test")
        predicted = {k: boosting.predict(boosting.load_model(model_of(m)), x, FEATURES) for k, m in models.items()}
        rmse = {k: float(np.sqrt(np.mean((p - y) ** 2))) for k, p in predicted.items()}
        assert rmse["1"] < 0.5 * y.std()
        # Measured: no difference at all on these 1,601 rows, with 256 bins. The tolerance leaves room for another order
        # of sums.
        np.testing.assert_allclose(predicted["3"], predicted["1"], atol=1e-3)

    def test_no_row_is_lost_to_an_odd_number_of_rows(self, models: dict[str, Snapshot]) -> None:
        assert {k: root_cover(model_of(m)) for k, m in models.items()} == dict.fromkeys(models, float(ROWS["train"]))

    def test_one_worker_is_xgboost_alone(self, models: dict[str, Snapshot], store: SnapshotStore) -> None:
        import xgboost as xgb

        splits = put_splits(store)
        x, y = matrix(splits, "train")
        config = settings("train.params.max_bin=256").train
        params = {
            "objective": "reg:squarederror",
            "tree_method": "hist",
            "nthread": 1,
            "seed": config.seed,
            **config.params,
        }
        alone = xgb.train(params, xgb.QuantileDMatrix(x, y, feature_names=FEATURES), 20)
        test, _ = matrix(splits, "test")
        ours = boosting.predict(boosting.load_model(model_of(models["1"])), test, FEATURES)
        np.testing.assert_allclose(ours, boosting.predict(alone, test, FEATURES), atol=0.02)

    def test_the_losses_are_those_of_the_whole_slices(self, models: dict[str, Snapshot], store: SnapshotStore) -> None:
        for workers, trained in models.items():
            facts = trained.facts
            assert (facts["target"], facts["metric"], facts["rounds"], facts["features"]) == (
                "rating",
                "rmse",
                20,
                FEATURES,
            )
            for name in ("train", "valid"):
                x, y = matrix(put_splits(SnapshotStore(store.root / workers / name)), name)
                error = boosting.predict(boosting.load_model(model_of(trained)), x, FEATURES).astype(np.float64) - y
                assert facts["loss"][name] == pytest.approx(float(np.sqrt(np.mean(error**2))), rel=1e-5)
            curve = trained.read().to_pylist()
            assert [(r["round"], r["loss"]) for r in curve if r["split"] == "valid"][-1] == (19, facts["loss"]["valid"])

    def test_classes_with_fewer_rows_than_workers(self, store: SnapshotStore) -> None:
        splits = put_few(store, [0.0, 4.0], "stars")
        config = settings("train.rounds=3", "train.workers=3", "train.params.min_child_weight=0").train
        done = made(store, train, [splits], config).snapshot
        x = np.zeros((5, len(FEATURES)), np.float32)
        shares = boosting.predict(boosting.load_model(model_of(done)), x, FEATURES)
        assert shares.shape == (5, 5)
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
        assert done.facts["metric"] == "mlogloss"

    def test_an_infinite_value_in_one_worker_s_rows_is_named(self, store: SnapshotStore) -> None:
        splits = put_few(store, [float(i % 5) for i in range(40)], "rating", noise={37: float("inf")})
        with pytest.raises(InputError, match=r"part-00000.parquet: the feature 'noise' holds an infinite value"):
            made(store, train, [splits], settings("train.rounds=3", "train.workers=2").train)


def put_few(
    store: SnapshotStore, labels: Sequence[float], target: str, noise: dict[int, float] | None = None
) -> Snapshot:
    """Slices with these labels to learn from, the first row to validate on."""
    values = np.arange(len(labels), dtype=np.float32)
    for row, value in (noise or {}).items():
        values[row] = value
    learn = pa.table(
        {**{f: np.zeros_like(values) for f in FEATURES[:-1]}, "noise": values, "label": pa.array(labels, pa.float32())}
    )
    facts = {"features": FEATURES, "groups": {}, "target": target, "linear": None}
    return put(store, "split", {"train": [learn], "valid": [learn.slice(0, 1)], "test": [learn]}, facts=facts)


@pytest.mark.parametrize(
    ("labels", "target", "says"),
    [
        ([5.0] * 9, "rating", r"the target rating \(stars\) has one value only, 5, in train: nothing to learn"),
        ([1.0] * 9, "positive", r"has one class only, 1, in train"),
        ([3.0] * 9, "stars", r"has one class only, 3, in train"),
        ([], "helpful", r"no review of the slices train has a label for the target helpful"),
    ],
)
def test_labels_that_teach_nothing_are_said_before_any_worker_starts(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, labels: list[float], target: str, says: str
) -> None:
    monkeypatch.setattr(ray_train, "fit", lambda *_: pytest.fail("workers were started"))
    splits = put_few(store, labels or [0.0], target)
    if not labels:
        splits = put(SnapshotStore(store.root / "none"), "split", {"valid": [splits.read("valid")]}, facts=splits.facts)
    with pytest.raises(InputError, match=says):
        made(store, train, [splits], settings().train)


def test_an_empty_validation_slice_cannot_stop_the_training_early(store: SnapshotStore) -> None:
    rows = put_few(store, [1.0, 2.0], "rating")
    splits = put(SnapshotStore(store.root / "none"), "split", {"train": [rows.read("train")]}, facts=rows.facts)
    with pytest.raises(InputError, match=r"validation slice is empty.*\n.*early_stopping_rounds=null"):
        made(store, train, [splits], settings().train)


@pytest.mark.slow
def test_refit_learns_from_train_and_valid_with_what_the_search_found(store: SnapshotStore) -> None:
    search = put(store, "tune", {}, facts={"best_params": {"max_depth": 2, "eta": 0.5}, "best_rounds": 7})
    done = made(store, refit, [put_splits(store), search], settings("train.workers=1").train).snapshot
    model = model_of(done)
    assert root_cover(model) == ROWS["train"] + ROWS["valid"]
    assert boosting.load_model(model).num_boosted_rounds() == done.facts["rounds"] == 7
    assert done.facts["params"]["max_depth"] == 2
    assert done.read()["split"].unique().to_pylist() == ["train+valid"]
