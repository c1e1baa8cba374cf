"""Report the whole run on one page that opens offline.

In: the snapshots of ingest, clean, count-words, describe, split, train, tune, refit and evaluate.
Out: `report.html`, one file including its plots and style, and the plots also as `plots/NAME.png`.

Reviews and predictions are read in batches, only the needed columns, into histograms of fixed size, so memory does not
grow with the rows. The page is a function of its inputs' content (digests, counts, facts, rows). `render` adds what
differs between two runs with the same result, such as the time, at a marked place.

    raymill run --until report
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from tasks.core.errors import SnapshotCorrupt
from tasks.core.sections import Section
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.metrics import name_of
from tasks.domain.targets import TARGETS
from tasks.engines import plots
from tasks.sources.lost_values import in_words
from tasks.stages.report import data_section as data
from tasks.stages.report import model_section as models
from tasks.stages.report.nights_section import watched_nights
from tasks.stages.report.templates import template
from tasks.stages.split import REASONS

TEMPLATES = ("report.html.j2", "report_models.html.j2", "report.css")
RUN_TEMPLATE = "report_run.html.j2"
RUN_MARK = "<!-- raymill:run -->"  # no data can forge it: all data is escaped
WARNINGS_TEMPLATE = "report_warnings.html.j2"
WARNINGS_MARK = "<!-- raymill:warnings -->"

# Half octaves, but whole ones below 8 characters, where half ones would hold no integer.
LENGTH_EDGES = np.unique(np.rint(2.0 ** np.r_[0:3, 3:17.5:0.5])).astype(np.int64)
# The most rows shown; of the worst errors, those that are not folded away.
LIMITS = {
    "words": 20,
    "reasons": 20,
    "files": 50,
    "features": models.FEATURES_DRAWN,
    "trials": 100,
    "slices": 200,
    "worst": 20,
}


class ReportConfig(Section):
    title: str


@stage(version=2, config=ReportConfig, libraries=("matplotlib", "jinja2"), files=TEMPLATES)
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
    snapshots = (raw, reviews, counts, described, splits, baseline, search, model, scores)
    inputs = dict(zip(report.input_names, snapshots, strict=True))
    repeated, repeats = data.repeats(reviews)
    seen = data.review_histograms(reviews)
    target = TARGETS[scores.facts["target"]]
    metric = name_of(target, target.metric)
    predicted = models.histograms(scores, target)
    trials = models.trial_rows(search)
    importance = data.read_rows(scores, "importance", ["feature", "gain", "shap"])
    pictures = {
        **_data_plots(seen, splits.facts["borders"]),
        **models.learning_plots(baseline, search, model, trials, metric),
        **models.score_plots(scores, target, predicted, importance),
    }
    page = template(TEMPLATES[0]).render(
        title=config.title,
        mark=RUN_MARK,
        warnings_mark=WARNINGS_MARK,
        limits=LIMITS,
        plots={name: b64encode(png).decode() for name, png in pictures.items()},
        inputs=inputs,
        target=target,
        metric=metric,
        unit=target.unit,
        seen=seen,
        rejects=data.reject_reasons(raw),
        quarantined=data.quarantined(raw),
        left_out=data.left_out(raw),
        lost_values=in_words(raw.facts.get("lost_values", {})),
        repeated=repeated,
        repeats=repeats,
        ratings=data.read_rows(described, "ratings"),
        activity=data.activity(described),
        alike=splits.facts.get("near_duplicates"),
        words=data.top_words(counts, LIMITS["words"]),
        telling=data.telling_words(counts, LIMITS["words"]),
        scored=models.score_table(scores.facts, target),
        splits=models.split_table(splits.facts, REASONS),
        importance=importance,
        trials=trials,
        param_names=sorted({name for trial in trials for name in trial["params"]}),
        slices=data.read_rows(scores, "slices"),
        confusion=predicted["confusion"].tolist() if "confusion" in predicted else [],
        worst=models.worst_errors(scores, target),
    )
    for name, png in pictures.items():
        out.write_bytes(f"plots/{name}.png", png)
    out.write_bytes("report.html", page.encode())


def render(snapshot: Snapshot, run_table: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> str:
    """Return a report snapshot's page with one run's own facts at the marked place.

    `run_table` has a row per stage: stage, rows_in, rows_out, rejected, repeated (None: does not apply), seconds,
    cpu_s, peak_mb, reused (bool), digest. `run` has run_id and when, and, if known, seconds, cpu_s, peak_mb, cost,
    nights (rows of `flows.run.nights`) and the name of their metric, scored (what `nights_section.watched_nights`
    takes: nights, promotions), decision, data_docs, mlflow, note, gates (each with name, value, limit, passed and
    note), warnings (each with stage, expectation, value and limit) and card (the
    model card, in markdown). Raises SnapshotCorrupt unless the page has both marked places exactly once.
    """
    path = snapshot.path("report.html")
    page = path.read_text(encoding="utf-8")
    if any(page.count(mark) != 1 for mark in (RUN_MARK, WARNINGS_MARK)):
        raise SnapshotCorrupt("the page has no place for the run's facts", where=str(path), fix="run the report again")
    card = _from_markdown(str(run.get("card") or ""))
    warned = template(WARNINGS_TEMPLATE).render(warnings=run.get("warnings") or ())
    page = page.replace(WARNINGS_MARK, warned)
    scored = watched_nights(**run["scored"]) if run.get("scored") else None
    return page.replace(RUN_MARK, template(RUN_TEMPLATE).render(rows=run_table, run=run, card=card, scored=scored))


def _data_plots(seen: data.ReviewHistograms, borders: Mapping[str, str] | None) -> dict[str, bytes]:
    if not seen.rows:
        return {}
    cuts = [datetime.fromisoformat(borders[name]) for name in ("train_until", "valid_until")] if borders else []
    below = seen.lengths.cumsum()[np.minimum(LENGTH_EDGES - 1, data.MAX_LENGTH)]
    return {
        "ratings": plots.ratings(*seen.stars),
        "lengths": plots.text_lengths(LENGTH_EDGES, np.diff(below), seen.length_quantile(0.5)),
        "over_time": plots.over_time(*data.calendar(seen.days), cuts),
    }


def _from_markdown(text: str) -> str:
    """Convert markdown to safe HTML: markup in it is escaped, nothing is loaded."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1:]) + 2, 6)}"
    return str(parser.renderer.render(tokens, parser.options, {}))
