"""Compare model quality: ours against what a good engineer gets from scikit-learn in an afternoon, on the same rows.

Ours: the flow, for the targets `rating` and `positive`, with three seeds each. Peers, all on the rows of our split,
with settings chosen on the validation slice by as many trials as ours, then fitted again on train and validation:
`ridge` (TF-IDF of word (1,2)-grams of title and text, ridge regression, predictions clipped to 1..5), `logreg` (the
same, logistic regression of four stars and more), `notebook` (`benchmarks.peers.notebook`: past aggregates,
out-of-fold TF-IDF ridge score, tuned XGBoost; three seeds) and, where there is Java, `mllib` (the notebook's features,
Spark's gradient-boosted trees by cross-validation over train and validation). The test slice is read once, for the
scores.

Each side is computed once, and the harness reports that time for every run.
`rmse_ratio`: our RMSE over the peer's, and over that of our own linear baseline, means over seeds; `auc_gain`: our AUC
minus the peer's. Of an input with more than ROWS reviews the latest are used.

    raymill bench quality --runs 1 [--input FOLDER] [--size ROWS] [--peer NAME ...] [--json FILE|-]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, SelfTimed, Setup, Timed
from benchmarks.inputs import synthetic
from benchmarks.peers import notebook, notebook_features
from benchmarks.peers.spark import side as spark_side
from benchmarks.processes import run_command
from tasks.core.errors import InputError

SEEDS = (1, 2, 3)
TRIALS = 12
THREADS = 2
SLICES = ("train", "valid", "test")
ALPHAS = [0.1 * 10 ** (2.5 * i / (TRIALS - 1)) for i in range(TRIALS)]  # 0.1 to 32
COSTS = [0.3 * 10 ** (2.5 * i / (TRIALS - 1)) for i in range(TRIALS)]  # 0.3 to 95
POSITIVE_STARS = 4


@dataclass
class Job:
    """storage: our snapshots; rows: a file with the clean reviews of our split, including the column `slice`."""

    input: Path
    dataset: str
    storage: Path
    rows: Path
    done: dict[str, SelfTimed] = field(default_factory=dict)

    def once(self, name: str, compute: Callable[[Job], dict[str, Any]]) -> SelfTimed:
        if name not in self.done:
            started = time.perf_counter()
            output = compute(self)
            self.done[name] = SelfTimed(time.perf_counter() - started, output)
        return self.done[name]


def prepare(setup: Setup) -> Job:
    folder = setup.input or synthetic(setup.size)
    job = Job(folder, dataset_of(folder), setup.scratch / "ours", setup.scratch / "rows.parquet")
    job.storage.mkdir()
    keep_latest(job, setup.size, setup.scratch / "latest")
    write_rows(run_flow(job, "split", {}), job)
    return job


def keep_latest(job: Job, rows: int, folder: Path) -> None:
    """Make the latest `rows` clean reviews the job's input, if it has more."""
    import polars as pl

    reviews = pl.DataFrame(pl.from_arrow(snapshot_of(job, run_flow(job, "clean", {}), "clean").read()))
    if len(reviews) > rows:
        folder.mkdir()
        reviews.sort("timestamp", "review_id").tail(rows).write_parquet(folder / "reviews.parquet")
        job.input, job.dataset = folder, "canonical"


def dataset_of(folder: Path) -> str:
    """Find the shipped dataset profile that fits these files best. Raises InputError if none does."""
    from tasks.sources.inspection import inspect

    inspection = inspect([str(folder)])
    if inspection.chosen is None or inspection.proposed:
        raise InputError("no shipped dataset profile fits", where=str(folder), fix="see raymill data inspect")
    return inspection.chosen.name


def run_flow(job: Job, until: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run the flow on the job's storage, reusing what does not depend on the settings; returns its summary."""
    fixed = {"storage.root": job.storage, "tracking.uri": f"sqlite:///{job.storage}/mlflow.db", "tune.trials": TRIALS}
    overrides = [part for k, v in {**fixed, **settings}.items() for part in ("--set", f"{k}={v}")]
    command = ["-m", "flows.cli.main", "run", "--input", str(job.input), "--dataset", job.dataset, "--until", until]
    return run_command([*command, *overrides], job.storage)


def write_rows(summary: Mapping[str, Any], job: Job) -> None:
    """Write the clean reviews of the three slices, the oldest first in each."""
    import polars as pl

    splits, reviews = (snapshot_of(job, summary, stage) for stage in ("split", "clean"))
    ids = [
        pl.DataFrame(pl.from_arrow(splits.read(name, ["review_id"]))).with_columns(slice=pl.lit(i))
        for i, name in enumerate(SLICES)
    ]
    rows = pl.DataFrame(pl.from_arrow(reviews.read())).join(pl.concat(ids), on="review_id")
    rows.sort("slice", "timestamp", "review_id").write_parquet(job.rows)


def snapshot_of(job: Job, summary: Mapping[str, Any], stage: str) -> Any:
    """Return the snapshot that a stage made in this run of the flow."""
    from tasks.core.storage.store import SnapshotStore

    key = next(made["key"] for made in summary["stages"] if made["stage"] == stage)
    return SnapshotStore(job.storage / "snapshots").find(stage, key)


def read_rows(job: Job) -> tuple[Any, int, int]:
    """Read the rows, and where the validation and the test slice begin."""
    import polars as pl

    rows = pl.read_parquet(job.rows)
    sizes = [int((rows["slice"] == i).sum()) for i in range(len(SLICES))]
    return rows, sizes[0], sizes[0] + sizes[1]


def ours(job: Job) -> SelfTimed:
    return job.once("ours", _ours)


def _ours(job: Job) -> dict[str, Any]:
    measured: dict[str, list[float]] = {"rmse": [], "auc": [], "untuned_rmse": [], "linear_rmse": []}
    for target, measure in (("rating", "rmse"), ("positive", "auc")):
        for seed in SEEDS:
            seeds = {"features.target": target, "train.seed": seed, "tune.seed": seed}
            summary = run_flow(job, "evaluate", seeds)
            of = snapshot_of(job, summary, "evaluate").facts["measures"]
            measured[measure].append(of["tuned"][measure]["value"])
            if measure == "rmse":
                measured["untuned_rmse"].append(of["baseline"]["rmse"]["value"])
                measured["linear_rmse"].append(of["linear"]["rmse"]["value"])
    return {**measured, "rows": _sizes(job)}


def ridge(job: Job) -> SelfTimed:
    return job.once("ridge", _ridge)


def _ridge(job: Job) -> dict[str, Any]:
    from sklearn.linear_model import Ridge

    def rmse(model: Any, x: Any, y: Any) -> float:
        return float(((model.predict(x).clip(1, 5) - y) ** 2).mean() ** 0.5)

    rows, train, valid = read_rows(job)
    models = [Ridge(alpha=alpha, solver="sparse_cg", tol=1e-3) for alpha in ALPHAS]
    return {"rmse": [_best(models, rmse, rows, rows["rating"].to_numpy(), train, valid)], "rows": _sizes(job)}


def logreg(job: Job) -> SelfTimed:
    return job.once("logreg", _logreg)


def _logreg(job: Job) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    def one_less_auc(model: Any, x: Any, y: Any) -> float:
        return 1 - float(roc_auc_score(y, model.decision_function(x)))

    rows, train, valid = read_rows(job)
    models = [LogisticRegression(C=c, solver="liblinear", dual=True, random_state=1, max_iter=1000) for c in COSTS]
    positive = (rows["rating"] >= POSITIVE_STARS).to_numpy()
    return {"auc": [1 - _best(models, one_less_auc, rows, positive, train, valid)], "rows": _sizes(job)}


def _best(models: Sequence[Any], loss: Callable[..., float], rows: Any, y: Any, train: int, valid: int) -> float:
    """Refit the model that is best on the validation slice on both slices; returns its loss on the test slice."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = rows.select(notebook_features.title_and_text()).to_series().to_list()
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    x, later = vectorizer.fit_transform(texts[:train]), vectorizer.transform(texts[train:valid])
    best = min(models, key=lambda model: loss(model.fit(x, y[:train]), later, y[train:valid]))
    x, later = vectorizer.fit_transform(texts[:valid]), vectorizer.transform(texts[valid:])
    return loss(best.fit(x, y[:valid]), later, y[valid:])


def notebook_peer(job: Job) -> SelfTimed:
    return job.once("notebook", _notebook)


def _notebook(job: Job) -> dict[str, Any]:
    table, train, valid = notebook_table(job)
    errors = []
    for seed in SEEDS:
        predicted, y, _ = notebook.learn(table, train, valid, TRIALS, lambda _name: nullcontext(), seed=seed)
        errors.append(float(((predicted["tuned"] - y) ** 2).mean() ** 0.5))
    return {"rmse": errors, "rows": _sizes(job)}


def notebook_table(job: Job) -> tuple[Any, int, int]:
    """Return the notebook's features of the rows, and where the validation and the test slice begin."""
    import polars as pl

    rows, train, valid = read_rows(job)
    reviews = rows.select(
        *("review_id", "user_id", "item_id", "rating", "title", "text"),
        day=pl.col("timestamp").dt.date(),
        verified=pl.when(pl.col("verified")).then(pl.lit("y")).otherwise(pl.lit("n")),
        category=pl.col("category").fill_null(""),
    )
    tokens = notebook_features.tokenize(reviews)["input_ids"].list.len()
    return notebook_features.features(reviews, tokens, train), train, valid


def mllib(job: Job) -> SelfTimed:
    return job.once("mllib", _mllib)


def _mllib(job: Job) -> dict[str, Any]:
    import polars as pl

    table, *_ = notebook_table(job)
    numbers = table.drop(notebook.NOT_FEATURES).with_columns(
        pl.all().cast(pl.Float64), label=table["rating"].cast(pl.Float64), slice=read_rows(job)[0]["slice"]
    )
    file = job.storage / "mllib.parquet"
    numbers.write_parquet(file)
    done = spark_side.run("mllib", file, job.storage, THREADS, once=True)
    found = done.output[1]
    seconds = {"search_s": round(done.wall_s, 1), "startup_s": round(done.notes["startup_s"], 1)}
    return {"rmse": [found["rmse"]], "rows": _sizes(job), "best": found["best"], **seconds}


def _sizes(job: Job) -> list[int]:
    rows, train, valid = read_rows(job)
    return [train, valid - train, len(rows) - valid]


def check(job: Job, ours: dict[str, Any], peers: Mapping[str, dict[str, Any]]) -> str:
    sizes = ours["rows"]
    assert all(peer["rows"] == sizes for peer in peers.values()), "not the same rows"
    parts = ", ".join(f"{name} {size:,}" for name, size in zip(SLICES, sizes, strict=True))
    return f"the same rows of the dataset profile {job.dataset} for all ({parts}), the test slice read once"


def details(job: Job, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    outputs = {name: timed[0].output for name, timed in runs.items()}
    means = {name: {m: _mean(o[m]) for m in ("rmse", "auc") if m in o} for name, o in outputs.items()}
    more: dict[str, dict[str, Any]] = {
        name: {**means[name], "by_seed": {m: outputs[name][m] for m in means[name]}} for name in outputs
    }
    if "mllib" in outputs:
        more["mllib"] |= {name: outputs["mllib"][name] for name in ("best", "search_s", "startup_s")}
    mine = means["ours"]
    peers = {name: measured for name, measured in means.items() if name != "ours"}
    if "linear_rmse" in outputs["ours"]:
        peers["linear"] = {"rmse": _mean(outputs["ours"]["linear_rmse"])}
        more["ours"]["untuned_rmse"] = _mean(outputs["ours"]["untuned_rmse"])
    more["ours"]["rmse_ratio"] = {n: round(mine["rmse"] / p["rmse"], 4) for n, p in peers.items() if "rmse" in p}
    more["ours"]["auc_gain"] = {n: round(mine["auc"] - p["auc"], 4) for n, p in peers.items() if "auc" in p}
    return more


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 5)


def measure_input(job: Job) -> dict[str, int]:
    sizes = _sizes(job)
    return {"rows": sum(sizes), **dict(zip(SLICES, sizes, strict=True))}


CASE = Case(
    name="quality",
    size_of="rows",
    default_size=50_000,
    prepare=prepare,
    ours=ours,
    peers={"ridge": ridge, "notebook": notebook_peer, "logreg": logreg, "mllib": mllib},
    check=check,
    measure_input=measure_input,
    details=details,
    takes_input=True,
    check_is_warm_up=True,
    skip=lambda _size: spark_side.skip("mllib"),
)
