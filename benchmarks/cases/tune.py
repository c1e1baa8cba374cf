"""Search by 32 trials: our stage against Optuna with XGBoost in one process.

In: `--size` rows x 40 features for training and a fifth as many for validation; the target is a function of twenty of
the features with noise. Out: the best hyper-parameters. Ours is the stage tune through the stage runner, into an empty
store, in a running Ray session. Its time includes starting actors, reading files, hashing and committing, but not
validation, which no peer does. The peers have the rows in memory, imports done and no files to write. They have the
same space and first trial, number of trials, rounds, patience and seeds, Optuna's own successive halving, and one
matrix for all trials; `optuna` boosts one trial at a time with all cores, `optuna_jobs` one trial per core at once.

Each pair of runs has its own seed, and a search depends on chance: beside the ratio of the whole searches,
`to_same_best` is the ratio of the times to the worse of both bests, and the losses themselves are reported.

    raymill bench tune [--size ROWS] [--workers W] [--json FILE|-]
"""

from __future__ import annotations

import itertools
import math
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Case, SelfTimed, Setup, Timed
from benchmarks.sides import run_unvalidated
from tasks.settings import Settings

FEATURES = 40
TRIALS = 32
# Our best loss may be above a peer's by this share: the best of 32 trials depends on chance, 1.06 to 1.09 by Optuna and
# 1.04 to 1.07 by ours with seeds 8 to 13. So each side's losses are reported beside its times.
TOLERANCE = 0.05


@dataclass
class Job:
    """The rows, as arrays and as a snapshot of the stage split; `numbers` counts each side's runs."""

    scratch: Path
    settings: Settings
    splits: Any
    rows: dict[str, tuple[Any, Any]]
    workers: int
    numbers: dict[str, Any] = field(default_factory=dict)

    def seed(self, side: str) -> int:
        return int(next(self.numbers.setdefault(side, itertools.count(self.settings.tune.seed))))


@dataclass(frozen=True)
class Found:
    """The best loss, and each improvement: (seconds since the start, loss)."""

    loss: float
    improved: list[tuple[float, float]]
    rounds: int
    notes: dict[str, Any] = field(default_factory=dict)

    def reached(self, loss: float) -> float:
        """Return the seconds until a loss was as low as this one."""
        return next((seconds for seconds, best in self.improved if best <= loss), math.inf)


def prepare(setup: Setup) -> Job:
    import ray

    from tasks.engines import cluster
    from tasks.settings import load_settings

    settings = load_settings(overrides=[f"tune.trials={TRIALS}", f"ray.logical_cpus={setup.workers}"])
    rows = {"train": synthetic(setup.size, 1), "valid": synthetic(max(1, setup.size // 5), 2)}
    cluster.start(settings.ray)
    setup.cleanup.callback(ray.shutdown)
    return Job(setup.scratch, settings, put(setup.scratch / "splits", rows), rows, setup.workers)


def synthetic(rows: int, seed: int) -> tuple[Any, Any]:
    """Make ((n, 40), (n,)) float32: waves, products, steps and a plane of twenty features, plus noise of variance 1."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, FEATURES)).astype(np.float32)
    y = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + np.abs(x[:, 3]) - (x[:, 4] > 0.5) * x[:, 5]
    y += 0.1 * x[:, 6:20].sum(axis=1) + rng.normal(size=rows)
    return x, y.astype(np.float32)


def put(root: Path, rows: Mapping[str, tuple[Any, Any]]) -> Any:
    """Commit the rows as a snapshot of the stage split."""
    import pyarrow as pa

    from tasks.core.snapshot_files import part_name
    from tasks.core.storage.store import SnapshotStore

    store = SnapshotStore(root)
    out = store.open_attempt("split", "bench")
    names = [f"f{i:02d}" for i in range(FEATURES)]
    for table, (x, y) in rows.items():
        out.write_table(part_name(0, table), pa.table([*x.T, y], names=[*names, "label"]))
    out.fact(features=names, target="rating")
    nothing: dict[str, Any] = {"inputs": (), "config": {}, "config_digest": "", "code": {}, "seconds": {}}
    return store.commit(out, **nothing, deterministic=True, committed_at="")


def ours(job: Job) -> SelfTimed:
    from tasks.core.storage.store import SnapshotStore
    from tasks.stages.tune.stage import tune

    config = job.settings.tune.model_copy(update={"seed": job.seed("ours")})
    store = SnapshotStore(job.scratch / "ours")
    began = time.perf_counter()
    done = run_unvalidated(tune, [job.splits], config, store)
    took = time.perf_counter() - began
    trials = done.snapshot.read().to_pylist()
    notes = dict(done.notes)
    improved = [(seconds, loss) for seconds, loss in notes.pop("improved")]
    result = Found(done.snapshot.facts["best_loss"], improved, sum(t["rounds"] for t in trials), notes)
    shutil.rmtree(store.root)
    return SelfTimed(took, result)


def optuna_alone(job: Job) -> SelfTimed:
    return _optuna(job, "optuna", jobs=1, threads=job.workers)


def optuna_jobs(job: Job) -> SelfTimed:
    return _optuna(job, "optuna_jobs", jobs=job.workers, threads=1)


def _optuna(job: Job, side: str, *, jobs: int, threads: int) -> SelfTimed:
    """Search as Optuna's documentation shows for XGBoost: a study in memory, a pruning callback, early stopping."""
    import optuna
    import xgboost as xgb

    config, seed = job.settings.tune, job.seed(side)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    began = time.perf_counter()
    (x, y), (valid_x, valid_y) = job.rows["train"], job.rows["valid"]
    dtrain = xgb.QuantileDMatrix(x, y, nthread=job.workers)
    dvalid = xgb.QuantileDMatrix(valid_x, valid_y, ref=dtrain, nthread=job.workers)
    ended: list[tuple[float, float, int]] = []

    class Pruning(xgb.callback.TrainingCallback):
        def __init__(self, trial: optuna.Trial) -> None:
            self.trial = trial
            self.pruned = False

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            self.trial.report(evals_log["valid"]["rmse"][-1], epoch + 1)
            self.pruned = self.trial.should_prune()
            return self.pruned

    def objective(trial: optuna.Trial) -> float:
        params = {"objective": "reg:squarederror", "tree_method": "hist", "nthread": threads, "seed": seed}
        for name, axis in config.space.items():
            suggest = trial.suggest_int if axis.whole else trial.suggest_float
            params[name] = suggest(name, axis.low, axis.high, log=axis.log)
        pruning = Pruning(trial)
        curves: dict[str, dict[str, list[float]]] = {}
        xgb.train(
            params,
            dtrain,
            config.max_rounds,
            evals=[(dvalid, "valid")],
            evals_result=curves,
            early_stopping_rounds=config.patience,
            callbacks=[pruning],
            verbose_eval=False,
        )
        curve = curves["valid"]["rmse"]
        ended.append((time.perf_counter() - began, min(curve), len(curve)))
        if pruning.pruned:
            raise optuna.TrialPruned
        return float(min(curve))

    # The one of Optuna's pruners with the fewest rounds: the median pruner boosted twice as many.
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=config.min_rounds, reduction_factor=3)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner)
    study.enqueue_trial(config.first)  # ours begins with it, too
    study.optimize(objective, n_trials=config.trials, n_jobs=jobs)
    took = time.perf_counter() - began
    losses = np.minimum.accumulate([loss for _, loss, _ in ended])
    improved = [(at, float(best)) for (at, loss, _), best in zip(ended, losses, strict=True) if loss == best]
    return SelfTimed(took, Found(float(losses[-1]), improved, sum(rounds for *_, rounds in ended)))


def check(job: Job, ours: Found, peers: Mapping[str, Found]) -> str:
    """Check that our best loss is not above any peer's by more than the tolerance."""
    for name, peer in peers.items():
        assert ours.loss <= peer.loss * (1 + TOLERANCE), f"best RMSE {ours.loss:.5f}, {name}'s {peer.loss:.5f}"
    losses = ", ".join(f"{name} {side.loss:.5f}" for name, side in {"ours": ours, **peers}.items())
    return f"best validation RMSE of {job.settings.tune.trials} trials within {TOLERANCE:.0%} of the peers': {losses}"


def details(job: Job, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    """Report losses and rounds of every run; against each peer the times to the worse of both bests; our overhead."""
    report: dict[str, dict[str, Any]] = {}
    for side, timed in runs.items():
        outputs = [run.output for run in timed]
        report[side] = {"best_loss": [round(f.loss, 5) for f in outputs], "rounds": [f.rounds for f in outputs]}
        if side == "ours":
            for name in ("start_s", "boosting_s_per_trial", "waiting_s_per_trial"):
                report[side][name] = round(statistics.median(f.notes[name] for f in outputs), 4)
            continue
        pairs = []
        for mine, theirs in zip((run.output for run in runs["ours"]), outputs, strict=True):
            common = max(mine.loss, theirs.loss)
            pairs.append((mine.reached(common), theirs.reached(common)))
        report[side]["to_same_best"] = round(statistics.median(a / b for a, b in pairs), 4)
        report[side]["s_to_same_best"] = [[round(a, 3), round(b, 3)] for a, b in pairs]
    return report


CASE = Case(
    name="tune",
    size_of="rows",
    default_size=100_000,
    prepare=prepare,
    ours=ours,
    peers={"optuna": optuna_alone, "optuna_jobs": optuna_jobs},
    check=check,
    details=details,
    check_is_warm_up=True,
)
