"""A model's registry in MLflow, and candidates for it, trained for real."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xgboost as xgb
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

from flows.cli.main import app
from tasks.core.sections import RegistryConfig
from tasks.core.storage.store import SnapshotStore
from tasks.engines import boosting, registry, tracking
from tasks.settings import load_settings
from tasks.stages.evaluate.stage import Judged
from tasks.stages.register.champion_comparison import Candidate
from tasks.stages.register.stage import Decision, register
from tests.support.packaged import packaged
from tests.support.stage_runs import put

FEATURES = ["n_chars", "user_mean"]
UNTIL = "2020-05-01T00:00:00+00:00"
STARS = {"stars 1": (600, 1.5), "stars 5": (600, 1.0)}
SLICES = pa.schema(
    [("slice", pa.string()), ("rows", pa.int64())]
    + [(f"loss_{m}", pa.float64()) for m in ("mean", "linear", "baseline", "tuned")]
    + [("warning", pa.bool_())]
)


def rows(n: int = 400, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2)).astype(np.float32)
    columns = dict(zip(FEATURES, x.T, strict=True))
    return pa.table({**columns, "label": (3 + x.sum(axis=1)).astype(np.float32)})


def trained(rounds: int, features: Sequence[str] = FEATURES) -> bytes:
    table = rows(seed=1)
    x = np.column_stack([table[name].to_numpy() for name in features])
    data = xgb.DMatrix(x, table["label"].to_numpy(), feature_names=list(features))
    return bytes(xgb.train({"max_depth": 3, "eta": 0.3, "seed": 7}, data, rounds).save_raw("ubj"))


class Shop:
    """A model's registry, and candidates for it: trained for real, the more rounds the better."""

    def __init__(self, store: Path, tracker: tracking.Tracker, name: str) -> None:
        self.store, self.tracker, self.name = store, tracker, name
        self.config = RegistryConfig(model_name=name, gates=load_settings().registry.gates)
        self.stores = 0

    def candidate(
        self, rounds: int, features: Sequence[str] = FEATURES, target: str = "rating", until: str = UNTIL
    ) -> Candidate:
        self.stores += 1
        store = SnapshotStore(self.store / f"{self.name}-{self.stores}")
        groups = {"all": list(features)}
        facts = {"features": list(features), "groups": groups, "target": target, "linear": None}
        borders = {"train_until": "2020-01-01T00:00:00+00:00", "valid_until": until}
        splits = put(store, "split", {"test": [rows()]}, facts={**facts, "borders": borders, "rows": {"test": 400}})
        data = trained(rounds, features)
        made = {"features": list(features), "params": {"max_depth": 3}, "rounds": rounds}
        model = put(store, "refit", {}, files={"model.ubj": data}, facts=made)
        judged = judge(data)
        mean = float(np.std(rows()["label"].to_numpy()))
        measures = {"tuned": judged.measures, "mean": {"rmse": {"value": mean, "low": mean, "high": mean}}}
        table = pa.Table.from_pylist(
            [
                {"slice": name, "rows": n, "loss_mean": 2.0, "loss_tuned": loss, "warning": False}
                for name, (n, loss) in judged.slices.items()
            ],
            schema=SLICES,
        )
        about = {"rows": 400, "target": target, "metric": "rmse", "measures": measures}
        scores = put(store, "evaluate", {"slices": [table]}, facts=about)
        package, proof = packaged(store, data, list(features), target)
        snapshots = {"split": splits, "refit": model, "evaluate": scores}
        return Candidate(model, splits, scores, package, proof, snapshots, {"run": "by hand"})

    def register(self, candidate: Candidate, **gates: Any) -> Decision:
        config = self.config.model_copy(update={"gates": self.config.gates.model_copy(update=gates)})
        return register(candidate, config, self.tracker, judge)

    def add_version(self) -> None:
        """A version that there is no model of."""
        with suppress(MlflowException):  # the name is there already
            self.tracker.client.create_registered_model(self.name)
        self.tracker.client.create_model_version(self.name, f"runs:/{self.tracker.run_id}/nothing")

    @property
    def aliases(self) -> dict[str, str]:
        return registry.aliases(self.tracker.client, self.name)

    def version(self, number: str) -> Any:
        return self.tracker.client.get_model_version(self.name, number)

    def history(self) -> list[tuple[str, str, str]]:
        return [(a.action, a.from_version, a.to_version) for a in registry.history(self.tracker.client, self.name)]

    def raymill(self, *arguments: str) -> Any:
        settings = [f"registry.model_name={self.name}", f"tracking.uri={self.tracker.uri}"]
        return CliRunner().invoke(app, ["models", *arguments, *(word for s in settings for word in ("--set", s))])


def judge(data: bytes) -> Judged:
    """RMSE on the test rows, in one process."""
    table, booster = rows(), boosting.load_model(data)
    x = np.column_stack([table[name].to_numpy() for name in booster.feature_names])
    error = boosting.predict(booster, x, booster.feature_names) - table["label"].to_numpy()
    rmse = float(np.sqrt(np.mean(error.astype(np.float64) ** 2)))
    slices = {name: (n, loss * rmse) for name, (n, loss) in STARS.items()}
    return Judged(400, {"rmse": {"value": rmse, "low": rmse, "high": rmse}}, slices)
