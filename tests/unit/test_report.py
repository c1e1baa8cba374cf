"""The report: one page that opens offline, is the same for the same inputs, and survives hostile and scanty data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pytest

from tasks.core.errors import SnapshotCorrupt
from tasks.core.schemas import REJECTS, REVIEWS, WORD_COUNTS
from tasks.core.settings import ReportConfig
from tasks.core.snapshots import Snapshot, part_name
from tasks.core.store import SnapshotStore
from tasks.report import RUN_MARK, prediction_histograms, render, report, review_histograms

HOSTILE = "<script>alert(1)</script>"
SECTIONS = ("headline", "data", "learning", "trials", "importance", "errors", "slices", "lineage")
START = datetime(2012, 1, 1, tzinfo=UTC)

CURVE = pa.schema({"round": pa.int32(), "split": pa.string(), "rmse": pa.float64()})
TRIALS = pa.schema(
    {"trial": pa.int32(), "status": pa.string(), "rounds": pa.int32(), "best_round": pa.int32()}
    | {"valid_rmse": pa.float64(), "params": pa.string()}
)
TRIAL_CURVES = pa.schema({"trial": pa.int32(), "round": pa.int32(), "rmse": pa.float64()})
PREDICTIONS = pa.schema(
    {"review_id": pa.string(), "timestamp": pa.timestamp("ms", tz="UTC")}
    | {name: pa.float32() for name in ("rating", "baseline", "tuned")}
)
IMPORTANCE = pa.schema({"feature": pa.string(), "gain": pa.float64()})
SLICES = pa.schema(
    {"slice": pa.string(), "rows": pa.int64()} | {f"rmse_{m}": pa.float64() for m in ("mean", "baseline", "tuned")}
)


class Inputs:
    """Small snapshots of all seven stages, believable by default; each part can be replaced before `snapshots`."""

    def __init__(self, n_reviews: int = 300, n_trials: int = 5, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        n_test = max(n_reviews // 10, 10)
        stars = rng.choice([1.0, 2.0, 3.0, 4.0, 5.0], n_reviews, p=[0.07, 0.05, 0.09, 0.2, 0.59]).tolist()
        seconds = (np.sort(rng.beta(3, 1, n_reviews)) * 6 * 365 * 86400).tolist()
        self.n_reviews, self.repeated = n_reviews, 2
        self.reviews: list[dict[str, Any]] = [
            {"review_id": f"r{i}", "user_id": "u", "item_id": "i", "rating": stars[i], "title": "", "category": "Books"}
            | {"text": "x" * int(rng.lognormal(5.2, 1.1)), "timestamp": START + timedelta(seconds=seconds[i])}
            for i in range(n_reviews)
        ]
        self.rejects = [{"reason": "bad rating", "source": "a.csv", "row": i, "record": "{}"} for i in range(3)]
        self.words: list[dict[str, Any]] = [
            {"token": word, "count": 9 * n_reviews // i, "documents": int(0.9 * n_reviews / i**0.5), "first_seen": 0}
            for i, word in enumerate(["the", "and", "to", "great", "not", "my"], start=1)
        ]
        self.trials: list[dict[str, Any]] = []
        self.trial_curves: list[dict[str, Any]] = []
        for trial in range(n_trials):
            params = {"max_depth": int(rng.integers(3, 9)), "eta": 0.03 * 10 ** rng.random(), "subsample": rng.random()}
            params |= {"min_child_weight": 20 ** rng.random(), "lambda": 0.1 * 100 ** rng.random()}
            rounds, status = (20, "pruned") if trial % 3 == 2 else (120, "complete")
            curve = (0.62 + 0.05 * rng.random() + 0.9 * np.exp(-params["eta"] * 0.5 * np.arange(rounds))).tolist()
            self.trials.append(
                {"trial": trial, "status": status, "rounds": rounds, "best_round": rounds - 1}
                | {"valid_rmse": min(curve), "params": json.dumps(params)}
            )
            self.trial_curves += [{"trial": trial, "round": r, "rmse": rmse} for r, rmse in enumerate(curve)]
        predicted = [(true, true * 0.7 + 1.3 + rng.normal(0, 0.6), true * 0.75 + 1.1) for true in stars[-n_test:]]
        self.predictions: list[dict[str, Any]] = [
            {"review_id": f"t{i}", "timestamp": START, "rating": true, "baseline": untuned, "tuned": tuned}
            for i, (true, untuned, tuned) in enumerate(predicted)
        ]
        names = ["text_score", "user_mean_past", "item_mean_past", "exclamations"]
        self.importance: list[dict[str, Any]] = [{"feature": n, "gain": 900 / i**2} for i, n in enumerate(names, 1)]
        self.slices: list[dict[str, Any]] = [
            {"slice": name, "rows": rows, "rmse_mean": 1.2, "rmse_baseline": tuned * 1.05, "rmse_tuned": tuned}
            for name, rows, tuned in (("rating 1", 7, 1.42), ("rating 5", 59, 0.41), ("category Books", 88, 0.64))
        ]
        self.facts: dict[str, Any] = {"rows": n_test, "mae": {"mean": 0.9, "baseline": 0.45, "tuned": 0.44}}
        self.facts["rmse"] = {"mean": 1.2, "baseline": 0.66, "tuned": 0.64}
        self.borders = {"train_until": "2016-08-01T00:00:00+00:00", "valid_until": "2017-03-01T00:00:00+00:00"}

    def snapshots(self, root: Path) -> list[Snapshot]:
        """Commit all eight, in the order in which `report` takes them."""
        store = SnapshotStore(root)
        rows_in = len(self.reviews) + len(self.rejects) + self.repeated
        best = min((t for t in self.trials if t["rounds"]), key=lambda t: t["valid_rmse"])
        curve = [{"round": r, "split": s, "rmse": 0.6 + 0.6 * 0.9**r} for s in ("train", "valid") for r in range(100)]
        fitted = [{"round": r, "split": "train+valid", "rmse": 0.55 + 0.6 * 0.93**r} for r in range(120)]
        rows = {"train": 8 * self.n_reviews // 10, "valid": self.n_reviews // 10, "test": self.n_reviews // 10}
        tuned = json.loads(best["params"])
        found = {"best_trial": best["trial"], "best_rmse": best["valid_rmse"], "best_rounds": 120, "best_params": tuned}
        half = len(self.words) // 2
        raw = {"": [(self.reviews, REVIEWS)], "rejects": [(self.rejects, REJECTS)]}
        words = {"": [(self.words[:half], WORD_COUNTS), (self.words[half:], WORD_COUNTS)]}
        search = {"": [(self.trials, TRIALS)], "curves": [(self.trial_curves, TRIAL_CURVES)]}
        scores = {"": [(self.predictions, PREDICTIONS)], "importance": [(self.importance, IMPORTANCE)]}
        scores["slices"] = [(self.slices, SLICES)]
        return [
            commit(store, "ingest", raw, counts={"rows_in": rows_in}),
            commit(store, "clean", {"": raw[""]}, counts={"rows_in": rows_in, "repeated": self.repeated}),
            commit(store, "count-words", words),
            commit(store, "split", {}, facts={"borders": self.borders, "rows": rows}),
            commit(store, "train", {"": [(curve, CURVE)]}, facts={"rounds": 100, "params": {"eta": 0.1}}),
            commit(store, "tune", search, facts=found),
            commit(store, "refit", {"": [(fitted, CURVE)]}, facts={"rounds": 120, "params": tuned}),
            commit(store, "evaluate", scores, facts=self.facts),
        ]


Tables = Mapping[str, list[tuple[list[dict[str, Any]], pa.Schema]]]


def commit(store: SnapshotStore, stage: str, tables: Tables, *, counts: Any = None, facts: Any = None) -> Snapshot:
    out = store.open_attempt(stage, "k" * 32)
    for table, parts in tables.items():
        for index, (rows, schema) in enumerate(parts):
            out.write_table(part_name(index, table), pa.Table.from_pylist(rows, schema))
    out.counts, out.facts = counts or {}, facts or {}
    return publish(store, out)


def publish(store: SnapshotStore, out: Any) -> Snapshot:
    about: dict[str, Any] = {"inputs": (), "config": {}, "config_digest": "", "code": {}, "seconds": {}}
    return store.commit(out, **about, deterministic=True, committed_at="2020-01-01")


def make(inputs: Inputs, root: Path, title: str = "A report") -> Snapshot:
    """Run the stage on these inputs and commit what it wrote."""
    store = SnapshotStore(root)
    out = store.open_attempt("report", "r" * 32)
    report.function(*inputs.snapshots(root), config=ReportConfig(title=title), out=out)
    return publish(store, out)


def page_of(snapshot: Snapshot) -> str:
    return snapshot.path("report.html").read_text()


class Outline(HTMLParser):
    """What a browser would see: tags, each closed in its turn, ids, and what attributes load or link."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)
        self.ids = self.all("id")
        self.links = self.all("src", "href", "action", "data", "srcset")

    def all(self, *names: str) -> list[str]:
        return [value for name, value in self.attributes if name in names]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return make(Inputs(), tmp_path_factory.mktemp("made"))


def test_page_has_every_section_and_every_plot_with_a_caption_and_an_alternative_text(made: Snapshot) -> None:
    outline = Outline(page_of(made))
    pngs = [entry.name for entry in made.manifest.files if entry.name.startswith("plots/")]
    assert outline.ids == list(SECTIONS)
    assert outline.open == []
    assert len(pngs) == 10
    assert all(made.path(name).read_bytes().startswith(b"\x89PNG") for name in pngs)
    assert outline.tags.count("img") == outline.tags.count("figcaption") == len(pngs)
    assert len([text for text in outline.all("alt") if text]) == len(pngs)


def test_page_needs_no_network_and_no_script(made: Snapshot) -> None:
    page = page_of(made)
    outline = Outline(page)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in outline.links)
    assert not re.search(r"https?://|@import|url\(", page)
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)


def test_same_inputs_give_the_same_digest_and_other_inputs_another(made: Snapshot, tmp_path: Path) -> None:
    assert make(Inputs(), tmp_path / "again").digest == made.digest
    changed = Inputs()
    changed.facts["rmse"]["tuned"] = 0.63
    assert make(changed, tmp_path / "changed").digest != made.digest


def test_a_users_matplotlib_settings_do_not_change_the_digest(made: Snapshot, tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert make(Inputs(), tmp_path).digest == made.digest


def test_headline_gives_gains_over_the_mean_and_says_so_when_the_model_is_worse(made: Snapshot, tmp_path: Path) -> None:
    assert "46.7% better than predicting the mean" in page_of(made)
    inputs = Inputs()
    inputs.facts["rmse"] = {"mean": 1.0, "baseline": 1.1, "tuned": 1.2}
    assert "20.0% worse than predicting the mean" in page_of(make(inputs, tmp_path))


def test_only_slices_far_above_the_overall_error_are_marked(made: Snapshot) -> None:
    rows = re.findall(r"<tr><th>(rating 1|rating 5|category Books)(.*?)</th>", page_of(made))
    assert [name for name, rest in rows if "HIGH" in rest] == ["rating 1"]
    assert len(rows) == 3


def test_hostile_text_from_data_is_shown_and_not_run(tmp_path: Path) -> None:
    inputs = Inputs()
    inputs.rejects[0]["reason"] = HOSTILE
    inputs.words[0]["token"] = HOSTILE
    inputs.slices[2]["slice"] = f"category {HOSTILE}"
    inputs.importance[0]["feature"] = "$\\frac{" + HOSTILE  # not a formula either
    inputs.trials[0]["params"] = json.dumps({RUN_MARK: HOSTILE})
    run = {"run_id": HOSTILE, "when": HOSTILE, "decision": HOSTILE, "data_docs": "javascript:alert(1)"}
    page = render(make(inputs, tmp_path, title=HOSTILE), [{"stage": HOSTILE, "reused": False, "digest": HOSTILE}], run)
    outline = Outline(page)
    assert "script" not in outline.tags
    assert not any(link.startswith("javascript") for link in outline.links)
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 8


def test_render_adds_the_runs_facts_and_leaves_the_rest_as_it_is(made: Snapshot) -> None:
    ingest = {"stage": "ingest", "rows_in": 1305, "rows_out": 1303, "rejected": 2, "repeated": None, "seconds": 3.21}
    table = [
        ingest | {"reused": True, "digest": "0123456789abcdef"},
        {"stage": "clean", "reused": False, "digest": None},
    ]
    run = {"run_id": "2020-01-02-abc", "when": "2020-01-02", "decision": "promoted", "mlflow": "http://host:5000"}
    run["data_docs"] = "../docs/index.html"
    page = render(made, table, run)
    outline = Outline(page)
    before, after = page_of(made).split(RUN_MARK)
    assert page.startswith(before)
    assert page.endswith(after)
    assert outline.ids == ["headline", "run", *SECTIONS[1:]]
    assert {"../docs/index.html", "http://host:5000"} <= set(outline.links)
    assert [text for text in ("1,305", "reused", "0123456789ab</code>", "promoted") if text not in page] == []


def test_render_refuses_a_page_without_the_marked_place(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    out = store.open_attempt("report", "r" * 32)
    out.write_bytes("report.html", b"<html></html>")
    with pytest.raises(SnapshotCorrupt, match="no place"):
        render(publish(store, out), [], {})


def test_scanty_data_still_makes_a_whole_page(tmp_path: Path) -> None:
    inputs = Inputs(n_reviews=20, n_trials=1)
    inputs.rejects, inputs.slices, inputs.importance, inputs.words = [], [], [], []
    page = page_of(make(inputs, tmp_path))
    assert Outline(page).ids == list(SECTIONS)
    assert [text for text in ("No row was rejected.", "1 trial,", "not cut into parts") if text not in page] == []


@pytest.mark.parametrize("count", [1, 7])
def test_trials_that_never_reported_and_parameters_not_shared_do_not_break_it(tmp_path: Path, count: int) -> None:
    inputs = Inputs(n_trials=count)
    nothing = {"status": "pruned", "rounds": 0, "best_round": None}
    inputs.trials.append({"trial": 98, "valid_rmse": None, "params": "{}", **nothing})
    inputs.trials.append({"trial": 99, "valid_rmse": float("nan"), "params": '{"booster": "dart"}', **nothing})
    page = page_of(make(inputs, tmp_path))
    assert [text for text in (f"{count + 2} trials,", ">dart<") if text not in page] == []


def test_histograms_count_every_row_once(tmp_path: Path) -> None:
    inputs = Inputs()
    inputs.reviews[0] |= {"text": "", "timestamp": datetime(1969, 12, 31, 23, tzinfo=UTC), "rating": 4.5}
    inputs.predictions[0] |= {"tuned": 99.0, "baseline": -99.0}
    clean, *_, scores = inputs.snapshots(tmp_path)
    seen, predicted = review_histograms(clean), prediction_histograms(scores)
    stars, counts = seen.stars
    assert dict(zip(stars.tolist(), counts.tolist(), strict=True))[4.5] == 1
    assert seen.rows == counts.sum() == seen.lengths.sum() == sum(seen.days.values()) == len(inputs.reviews)
    assert seen.lengths[0] == 1 + sum(not review["text"] for review in inputs.reviews[1:])
    assert seen.days[-1] == 1
    assert abs(seen.length_quantile(0.5) - np.median([len(review["text"]) for review in inputs.reviews])) <= 1
    assert [int(table.sum()) for table in predicted.values()] == [len(inputs.predictions)] * 3
    assert predicted["tuned"][-1] >= 1
    assert predicted["baseline"][0] >= 1
