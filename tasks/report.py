"""Report: the whole run on one page that opens offline.

In: the snapshots of ingest, clean, count-words, describe, split, train, tune, refit and evaluate.
Out: `report.html`, one file with its plots and style inside, and the plots again as `plots/NAME.png`.

Reviews and predictions are read in batches, only the columns needed, into histograms of fixed size, so the memory
used does not grow with the rows. The page is a function of what its inputs contain (digests, counts, facts, rows):
what differs between two runs to the same result, such as the clock, is put in by `render`, at a marked place.

    raymill run --until report
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from tasks import plots
from tasks import report_data as data
from tasks.core.errors import SnapshotCorrupt
from tasks.core.settings import CONF, ReportConfig
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = CONF / "report.html.j2"
RUN_MARK = "<!-- raymill:run -->"  # no data can forge it: all data is escaped

# Half octaves, but whole ones below 8 characters, where half ones would hold no whole number.
LENGTH_EDGES = np.unique(np.rint(2.0 ** np.r_[0:3, 3:17.5:0.5])).astype(np.int64)
HIGH_ERROR = 1.25  # a slice is marked where its RMSE is above this many times the overall one
LIMITS = {"words": 20, "reasons": 20, "files": 50, "features": 20, "trials": 100, "slices": 200}  # rows shown at most
STAR_EDGES = np.linspace(0, 6, 61)
RESIDUAL_EDGES = np.linspace(-5, 5, 101)


@stage(version=1, libraries=("matplotlib", "jinja2"), files=("report.html.j2",))
def report(
    raw: Snapshot,
    reviews: Snapshot,
    counts: Snapshot,
    described: Snapshot,
    splits: Snapshot,
    baseline: Snapshot,
    search: Snapshot,
    model: Snapshot,
    scores: Snapshot,
    config: ReportConfig,
    out: SnapshotWriter,
) -> None:
    """Write `report.html` and `plots/*.png`."""
    given = (raw, reviews, counts, described, splits, baseline, search, model, scores)
    inputs = dict(zip(report.input_names, given, strict=True))
    repeated, repeats = data.repeats(reviews)
    seen = data.review_histograms(reviews)
    predicted = prediction_histograms(scores)
    trials = trial_rows(search)
    gains = data.read_rows(scores, "importance", ["feature", "gain"])
    pictures = {
        **_data_plots(seen, splits.facts["borders"]),
        **_model_plots(baseline, search, model, trials),
        "residuals": plots.residuals(RESIDUAL_EDGES, predicted["tuned"], predicted["baseline"]),
        "by_star": plots.by_star(STAR_EDGES, predicted["by_star"]),
    }
    if gains:
        pictures["importance"] = plots.importance(
            [g["feature"] for g in gains], [g["gain"] for g in gains], LIMITS["features"]
        )
    page = _template().render(
        part="page",
        title=config.title,
        mark=RUN_MARK,
        limits=LIMITS,
        high_error=HIGH_ERROR,
        plots={name: b64encode(png).decode() for name, png in pictures.items()},
        inputs=inputs,
        seen=seen,
        rejects=data.reject_reasons(raw),
        quarantined=data.quarantined(raw),
        repeated=repeated,
        repeats=repeats,
        ratings=data.read_rows(described, "ratings"),
        activity=data.activity(described),
        alike=splits.facts.get("near_duplicates"),
        words=data.top_words(counts, LIMITS["words"]),
        telling=data.telling_words(counts, LIMITS["words"]),
        gains=gains,
        trials=trials,
        param_names=sorted({name for trial in trials for name in trial["params"]}),
        slices=data.read_rows(scores, "slices"),
    )
    for name, png in pictures.items():
        out.write_bytes(f"plots/{name}.png", png)
    out.write_bytes("report.html", page.encode())


def render(snapshot: Snapshot, run_table: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> str:
    """The committed page of a report snapshot with one run's own facts at the marked place.

    `run_table` has a row per stage: stage, rows_in, rows_out, rejected, repeated (None: does not apply), seconds,
    reused (bool), digest. `run` has run_id and when, and where known seconds, decision, data_docs, mlflow, note.
    Raises SnapshotCorrupt where the page does not have the marked place exactly once.
    """
    path = snapshot.path("report.html")
    before, *after = path.read_text(encoding="utf-8").split(RUN_MARK)
    if len(after) != 1:
        raise SnapshotCorrupt("the page has no place for the run's facts", where=str(path), fix="run the report again")
    return before + _template().render(part="run", rows=run_table, run=run) + after[0]


def prediction_histograms(scores: Snapshot) -> dict[str, np.ndarray]:
    """Test rows by predicted minus true rating ("baseline", "tuned") and by true star × prediction ("by_star").

    What lies outside the bins is counted in the outermost ones.
    """
    found = {name: np.zeros(len(RESIDUAL_EDGES) - 1, np.int64) for name in ("baseline", "tuned")}
    found["by_star"] = np.zeros((5, len(STAR_EDGES) - 1), np.int64)
    for batch in data.batches(scores, ["rating", "baseline", "tuned"]):
        rating, baseline, tuned = (batch[name].to_numpy() for name in ("rating", "baseline", "tuned"))
        for name, predicted in (("baseline", baseline), ("tuned", tuned)):
            found[name] += np.histogram((predicted - rating).clip(-4.99, 4.99), RESIDUAL_EDGES)[0]
        star = np.rint(rating).clip(1, 5)
        found["by_star"] += np.histogram2d(star, tuned.clip(0, 5.99), [np.arange(0.5, 6), STAR_EDGES])[0].astype(
            np.int64
        )
    return found


def trial_rows(search: Snapshot) -> list[dict[str, Any]]:
    """Trials in order, their parameters parsed; a trial that never reported has None for its RMSE."""
    trials = data.read_rows(search, columns=["trial", "status", "rounds", "best_round", "valid_rmse", "params"])
    for trial in trials:
        trial["params"] = json.loads(trial["params"])
        if trial["valid_rmse"] is not None and not np.isfinite(trial["valid_rmse"]):
            trial["valid_rmse"] = None
    return sorted(trials, key=lambda trial: trial["trial"])


def _data_plots(seen: data.ReviewHistograms, borders: Mapping[str, str]) -> dict[str, bytes]:
    if not seen.rows:
        return {}
    cuts = [datetime.fromisoformat(borders[name]) for name in ("train_until", "valid_until")]
    below = seen.lengths.cumsum()[np.minimum(LENGTH_EDGES - 1, data.MAX_LENGTH)]
    return {
        "ratings": plots.ratings(*seen.stars),
        "lengths": plots.text_lengths(LENGTH_EDGES, np.diff(below), seen.length_quantile(0.5)),
        "over_time": plots.over_time(*data.calendar(seen.days), cuts),
    }


def _model_plots(
    baseline: Snapshot, search: Snapshot, model: Snapshot, trials: Sequence[Mapping[str, Any]]
) -> dict[str, bytes]:
    best = search.facts["best_trial"]
    curves = dict(_curves(search, "trial", "curves"))
    lines = [
        (f"untuned, {split}", plots.UNTUNED, ":" if split == "train" else "-", *curve)
        for split, curve in _curves(baseline, "split")
    ]
    if best in curves:
        lines.append(("tuned, valid (the best trial)", plots.TUNED, "-", *curves[best]))
    lines += [(f"tuned, {split}", plots.TUNED, ":", *curve) for split, curve in _curves(model, "split")]
    pictures = {"learning": plots.learning_curves(lines)}
    if scored := [trial for trial in trials if trial["valid_rmse"] is not None]:
        numbers, rmse = (np.array([trial[name] for trial in scored]) for name in ("trial", "valid_rmse"))
        names = sorted({name for trial in scored for name in trial["params"]})
        pictures["trials"] = plots.trials(numbers, rmse, np.array([t["status"] == "complete" for t in scored]))
        pictures["parallel"] = plots.parallel_coordinates(
            {name: [trial["params"].get(name) for trial in scored] for name in names}, rmse, numbers == best
        )
    if curves:
        stopped = frozenset(trial["trial"] for trial in trials if trial["status"] == "pruned")
        pictures["trial_curves"] = plots.trial_curves(curves, best, stopped)
    return pictures


def _curves(snapshot: Snapshot, by: str, table: str = "") -> list[tuple[Any, tuple[np.ndarray, np.ndarray]]]:
    """Rounds and RMSE of each trial or split, in its order."""
    rows = sorted(data.read_rows(snapshot, table, [by, "round", "rmse"]), key=lambda row: (row[by], row["round"]))
    return [
        (name, (np.array([row["round"] for row in group]), np.array([row["rmse"] for row in group])))
        for name, group in ((name, list(group)) for name, group in groupby(rows, key=lambda row: row[by]))
    ]


def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"whole": _whole, "decimal": _decimal, "percent": _percent, "value": _value, "href": _href}
    return environment.get_template(TEMPLATE.name)


def _whole(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}"


def _decimal(number: float | None, digits: int = 3) -> str:
    return "–" if number is None or number != number else f"{number:,.{digits}f}"


def _percent(part: float | None, whole: float | None, digits: int = 1) -> str:
    return "–" if part is None or not whole else f"{part / whole:.{digits}%}"


def _value(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _href(link: Any) -> str:
    """The link where a browser may follow it, else "": settings must not smuggle in javascript:."""
    return str(link) if urlsplit(str(link)).scheme in ("", "http", "https", "file") else ""
