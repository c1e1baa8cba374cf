"""The single-process notebook that a good engineer would write in an afternoon for the same job.

In: a folder of parquet files with the columns of the US customer reviews. Out: `tokens.parquet`,
`word_counts.parquet` and `features.parquet` in `--out`, and one JSON object with the seconds of each step, the rows
and the scores on the latest tenth of the reviews. One process, two threads, no validation, no tracking, no resume.
Of this project it imports only the errors, and every step uses the fastest known idiom for one process.

    python -m benchmarks.peers.notebook INPUT [--out DIR] [--json FILE|-] [--trials 12] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.notebook_features import SEED, count_words, features, read_and_clean, threads, tokenize
from tasks.core.errors import UserError

STARTED = time.perf_counter()
TRAIN, VALID = 0.8, 0.1  # the rest, the latest tenth, is the test slice
ROUNDS, PATIENCE = 200, 10
BASELINE = {"max_depth": 6, "eta": 0.1}
Step = Callable[[str], AbstractContextManager[None]]
NOT_FEATURES = ("review_id", "user_id", "item_id", "rating", "day")


def run(input: Path, out: Path, *, trials: int = 12, log: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Do the whole job and return its summary: seconds by step, rows, and errors in stars on the test slice.

    Raises InputError if `input` has no parquet files or they lack a column.
    """
    seconds: dict[str, float] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - started, 3)
        log(f"{name}: {seconds[name]:.1f} s")

    with step("imports"):
        # From tokenizers, not from transformers: AutoTokenizer gives the same ids but imports torch, 7 s.
        import numpy as np
        import optuna  # noqa: F401
        import polars as pl  # noqa: F401
        import sklearn.feature_extraction.text
        import sklearn.linear_model  # noqa: F401
        import tokenizers  # noqa: F401
        import xgboost  # noqa: F401
    out.mkdir(parents=True, exist_ok=True)
    with step("clean"):
        reviews, rows = read_and_clean(input)
    with step("count_words"):
        count_words(reviews).write_parquet(out / "word_counts.parquet")
    with step("tokenize"):
        tokens = tokenize(reviews)
        tokens.write_parquet(out / "tokens.parquet")
    train_end, valid_end = int(len(reviews) * TRAIN), int(len(reviews) * (TRAIN + VALID))
    with step("features"):
        table = features(reviews, tokens["input_ids"].list.len(), train_end)
        table.write_parquet(out / "features.parquet")
    predicted, y, params = learn(table, train_end, valid_end, trials, step, out / "model.ubj")
    errors = {name: p - y for name, p in predicted.items()}
    rows |= {"train": train_end, "valid": valid_end - train_end, "test": len(y)}
    return {
        "rows": rows,
        "seconds": seconds,
        "total_s": round(time.perf_counter() - STARTED, 3),
        "rmse": {name: round(float(np.sqrt(np.mean(e**2))), 5) for name, e in errors.items()},
        "mae": {name: round(float(np.mean(np.abs(e))), 5) for name, e in errors.items()},
        "params": params,
    }


def learn(
    table: Any, train_end: int, valid_end: int, trials: int, step: Step, model: Path | None = None, seed: int = SEED
) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Train, tune, refit and predict; returns the test predictions in 1..5 by model, the test ratings, the parameters.

    table: the rows of `features`, oldest first; the first `train_end` are for training, those up to `valid_end` for
    validation. step: makes the context of each named step. model: where to save the tuned one.
    """
    import numpy as np
    import xgboost as xgb

    x = table.drop(NOT_FEATURES).to_numpy().astype(np.float32)
    y = table["rating"].to_numpy().astype(np.float32)
    train, valid, test = slice(0, train_end), slice(train_end, valid_end), slice(valid_end, None)
    with step("train"):
        dtrain = xgb.QuantileDMatrix(x[train], y[train])
        dvalid = xgb.QuantileDMatrix(x[valid], y[valid], ref=dtrain)
        baseline = fit(dtrain, {**BASELINE, "seed": seed}, dvalid)
    with step("tune"):
        params, best_rounds = tune(dtrain, dvalid, trials, seed)
    with step("refit"):
        seen = slice(0, valid_end)
        tuned = fit(xgb.QuantileDMatrix(x[seen], y[seen]), {**params, "seed": seed}, rounds=best_rounds)
        if model is not None:
            tuned.save_model(model)
    with step("evaluate"):
        predicted = {
            "mean": np.full_like(y[test], y[seen].mean()),
            "baseline": baseline.inplace_predict(x[test], iteration_range=(0, baseline.best_iteration + 1)),
            "tuned": tuned.inplace_predict(x[test]),
        }
    return {n: np.clip(p, 1, 5) for n, p in predicted.items()}, y[test], {**params, "rounds": best_rounds}


def fit(train: Any, params: dict[str, Any], valid: Any = None, rounds: int = ROUNDS) -> Any:
    """Train a booster, with early stopping on `valid`, if any."""
    import xgboost as xgb

    stopping = {"evals": [(valid, "valid")], "early_stopping_rounds": PATIENCE} if valid is not None else {}
    fixed = {"objective": "reg:squarederror", "tree_method": "hist", "nthread": threads(), "seed": SEED}
    return xgb.train({**fixed, **params}, train, rounds, verbose_eval=False, **stopping)


def tune(train: Any, valid: Any, trials: int, seed: int = SEED) -> tuple[dict[str, Any], int]:
    """Search by TPE (RMSE on `valid`); returns the best parameters and their number of rounds."""
    import optuna

    def objective(trial: optuna.Trial) -> float:
        params = {
            "max_depth": trial.suggest_int("max_depth", 3, 8),
            "eta": trial.suggest_float("eta", 0.03, 0.3, log=True),
            "min_child_weight": trial.suggest_float("min_child_weight", 1, 20, log=True),
            "subsample": trial.suggest_float("subsample", 0.6, 1),
            "colsample_bytree": trial.suggest_float("colsample_bytree", 0.5, 1),
            "lambda": trial.suggest_float("lambda", 0.1, 10, log=True),
        }
        booster = fit(train, {**params, "seed": seed}, valid)
        trial.set_user_attr("rounds", booster.best_iteration + 1)
        return float(booster.best_score)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials)
    return study.best_params, study.best_trial.user_attrs["rounds"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.notebook", description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path, help="a folder of parquet files")
    parser.add_argument("--out", type=Path, default=Path("bench-results/notebook"))
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    # Thread pools are sized when their library is first imported, which happens later.
    for name in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(given.threads)
    try:
        summary = run(given.input, given.out, trials=given.trials, log=lambda line: print(line, file=sys.stderr))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    text = json.dumps(summary, indent=2) + "\n"
    sys.stdout.write(text) if given.json == "-" else Path(given.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
