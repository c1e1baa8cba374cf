"""The report: one page that opens offline, is the same for the same inputs, and survives hostile and scanty data."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from flows.run.watched_nights import Night
from tasks.core.errors import SnapshotCorrupt
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.domain.schemas import WORD_COUNTS
from tasks.domain.targets import TARGETS
from tasks.stages.report.data_section import activity, repeats, review_histograms, telling_words, top_words
from tasks.stages.report.model_section import histograms
from tasks.stages.report.stage import RUN_MARK, WARNINGS_MARK, render
from tasks.stages.watch.findings import Findings
from tests.support.report_inputs import Inputs, Outline, commit, make, page_of, publish

HOSTILE = "<script>alert(1)</script>"
SECTIONS = ("headline", "data", "splits", "learning", "trials", "importance", "errors", "slices", "worst", "lineage")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return make(Inputs(), tmp_path_factory.mktemp("made"))


def test_page_has_every_section_and_every_plot_with_a_caption_and_an_alternative_text(made: Snapshot) -> None:
    outline = Outline(page_of(made))
    pngs = [entry.name for entry in made.manifest.files if entry.name.startswith("plots/")]
    assert outline.ids == list(SECTIONS)
    assert outline.open == []
    assert len(pngs) == 11
    assert all(made.path(name).read_bytes().startswith(b"\x89PNG") for name in pngs)
    assert outline.tags.count("img") == outline.tags.count("figcaption") == len(pngs)
    assert len([text for text in outline.all("alt") if text]) == len(pngs)


def test_page_needs_no_network_and_no_script(made: Snapshot) -> None:
    page = page_of(made)
    outline = Outline(page)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in outline.links)
    assert not re.search(r"https?://|@import|url\(", page)
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)


@pytest.mark.slow
def test_same_inputs_give_the_same_digest_and_other_inputs_another(made: Snapshot, tmp_path: Path) -> None:
    assert make(Inputs(), tmp_path / "again").digest == made.digest
    changed = Inputs()
    changed.measures["tuned"]["rmse"]["value"] = 0.63
    assert make(changed, tmp_path / "changed").digest != made.digest


@pytest.mark.slow
def test_a_users_matplotlib_settings_do_not_change_the_digest(made: Snapshot, tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert make(Inputs(), tmp_path).digest == made.digest


def test_headline_gives_gains_over_the_mean_and_says_so_when_the_model_is_worse(made: Snapshot, tmp_path: Path) -> None:
    assert "46.7% better than predicting the mean" in page_of(made)
    inputs = Inputs()
    inputs.measures["mean"]["rmse"]["value"], inputs.measures["tuned"]["rmse"]["value"] = 1.0, 1.2
    assert "20.0% worse than predicting the mean" in page_of(make(inputs, tmp_path, drawn=False))


def test_hostile_text_from_data_is_shown_and_not_run(tmp_path: Path) -> None:
    inputs = Inputs()
    inputs.rejects[0]["reason"] = HOSTILE
    inputs.quarantined = [{"source": HOSTILE, "reason": HOSTILE, "rows": 0}]
    inputs.words[0]["token"] = HOSTILE
    inputs.slices[2]["slice"] = f"category {HOSTILE}"
    inputs.worst[0] |= {"title": HOSTILE, "text": HOSTILE, "category": HOSTILE, "review_id": HOSTILE}
    inputs.split["left_out"] = {HOSTILE: {"test": 1}}
    inputs.importance[0]["feature"] = "$\\frac{" + HOSTILE  # not a formula either
    inputs.trials[0]["params"] = json.dumps({RUN_MARK: HOSTILE})
    run = {"run_id": HOSTILE, "when": HOSTILE, "decision": HOSTILE, "data_docs": "javascript:alert(1)"}
    run["card"] = f"# {HOSTILE}\n\n[click](javascript:alert(1)) ![x](http://host/x.png)\n\n| a |\n|---|\n| {HOSTILE} |"
    run["gates"] = [{"name": HOSTILE, "value": 1.0, "limit": None, "passed": False, "note": HOSTILE}]
    page = render(make(inputs, tmp_path, title=HOSTILE), [{"stage": HOSTILE, "reused": False, "digest": HOSTILE}], run)
    outline = Outline(page)
    assert "script" not in outline.tags
    assert not any(link.startswith("javascript") for link in outline.links)
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 17
    assert outline.tags.count("img") == 11
    assert outline.open == []


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
    assert page.endswith(after.replace(WARNINGS_MARK, ""))
    assert outline.ids == ["headline", "run", *SECTIONS[1:]]
    assert {"../docs/index.html", "http://host:5000"} <= set(outline.links)
    assert [text for text in ("1,305", "reused", "0123456789ab</code>", "promoted") if text not in page] == []


def test_the_model_card_and_the_gates_are_shown_where_a_run_has_them(made: Snapshot) -> None:
    gates = [
        {"name": "size in MB", "value": 3.2, "limit": 2.0, "passed": False, "note": ""},
        {"name": "gain over the champion", "value": None, "limit": None, "passed": None, "note": "there is none yet"},
    ]
    card = "# Model card\n\nFor **reviews**.\n\n| slice | rows |\n|---|---|\n| new \\| user | 3 |\n"
    page = render(made, [], {"run_id": "r", "gates": gates, "card": card})
    assert "<h3>Model card</h3>" in page
    assert "<strong>reviews</strong>" in page
    assert re.search(r"<td>new \| user</td>\s*<td>3</td>", page)
    assert re.search(r"size in MB</th><td[^>]*>3.2</td><td[^>]*>2</td><td><span[^>]*>▲ not passed", page)
    assert "there is none yet" in page
    assert 'card-text"' not in render(made, [], {"run_id": "r"})


def test_what_validation_warns_of_is_a_table_of_the_datas_section(made: Snapshot) -> None:
    warned = {"stage": "clean", "expectation": f"text {HOSTILE}", "value": "3 of 30 rows", "limit": "mostly=0.99"}
    page = render(made, [], {"run_id": "r", "warnings": [warned]})
    section = page[page.index('<section id="data">') :].partition("</section>")[0]
    assert re.search(r"<th>clean</th>.*▲ 3 of 30 rows.*mostly=0.99", section)
    assert HOSTILE not in page
    assert "<h3>Warnings</h3>" not in render(made, [], {"run_id": "r"})


def test_the_nights_that_were_scored_are_a_part_of_this_runs_section(made: Snapshot) -> None:
    found = {**Findings(metric="rmse", reference_loss=1.0, expected_loss=1.2).as_json(), "told": [HOSTILE]}
    night = {**asdict(Night("n", "r1", "2020-01-02T06:30:00+00:00", version=HOSTILE, rows=77)), "found": found}
    runs = [
        {
            "run_id": name,
            "started": None,
            "state": "completed",
            "rows_in": 9,
            "seconds": 3.0,
            "cpu_s": 1.0,
            "peak_mb": 2,
        }
        | {"cost": None, "loss": 0.5, "stages": {"clean": 1.25}, "promotion": "version 3 is champion"}
        for name in ("r", "q")
    ]
    run = {
        "run_id": "r",
        "nights": runs,
        "cost": None,
        "metric": "RMSE",
        "scored": {"nights": [night], "promotions": []},
    }
    page = render(made, [{"stage": "clean", "reused": False, "digest": "0"}], run)
    outline = Outline(page)
    assert outline.open == []
    assert "scored-nights" in outline.ids
    assert "script" not in outline.tags
    section = page[page.index('id="scored-nights"') :]
    assert re.search(r">77<.*1\.0000.*1\.2000", section)
    assert page.count("version 3 is champion") == 2
    assert "Seconds by stage, of the last 2 runs" in page


def test_render_refuses_a_page_without_the_marked_place(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    out = store.open_attempt("report", "r" * 32)
    out.write_bytes("report.html", b"<html></html>")
    with pytest.raises(SnapshotCorrupt, match="no place"):
        render(publish(store, out), [], {})


def test_scanty_data_still_makes_a_whole_page(tmp_path: Path) -> None:
    inputs = Inputs(n_reviews=20, n_trials=1)
    inputs.rejects, inputs.slices, inputs.importance, inputs.words, inputs.worst = [], [], [], [], []
    page = page_of(make(inputs, tmp_path))
    assert Outline(page).ids == list(SECTIONS)
    assert [
        text
        for text in ("No row was rejected.", "1 trial,", "not cut into parts", "No errors were listed")
        if text not in page
    ] == []


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7])
def test_trials_that_never_reported_and_parameters_not_shared_do_not_break_it(tmp_path: Path, count: int) -> None:
    inputs = Inputs(n_trials=count)
    nothing = {"status": "pruned", "rounds": 0, "best_round": None, "train_rows": 800}
    inputs.trials.append({"trial": 98, "valid_loss": None, "params": "{}", **nothing})
    inputs.trials.append({"trial": 99, "valid_loss": float("nan"), "params": '{"booster": "dart"}', **nothing})
    page = page_of(make(inputs, tmp_path))
    assert [text for text in (f"{count + 2} trials,", ">dart<") if text not in page] == []


def test_histograms_count_every_row_once(tmp_path: Path) -> None:
    inputs = Inputs()
    inputs.reviews[0] |= {"text": "", "timestamp": datetime(1969, 12, 31, 23, tzinfo=UTC), "rating": 4.5}
    inputs.predictions[0] |= {"tuned": 99.0, "baseline": -99.0}
    _, clean, *_, scores = inputs.snapshots(tmp_path)
    seen, predicted = review_histograms(clean), histograms(scores, TARGETS["rating"])
    stars, counts = seen.stars
    assert dict(zip(stars.tolist(), counts.tolist(), strict=True))[4.5] == 1
    assert seen.rows == counts.sum() == seen.lengths.sum() == sum(seen.days.values()) == len(inputs.reviews)
    assert seen.lengths[0] == 1 + sum(not review["text"] for review in inputs.reviews[1:])
    assert seen.days[-1] == 1
    assert abs(seen.length_quantile(0.5) - np.median([len(review["text"]) for review in inputs.reviews])) <= 1
    tuned, untuned = predicted["residuals"]
    assert [int(h.sum()) for h in (tuned, untuned, predicted["by_star"])] == [len(inputs.predictions)] * 3
    assert tuned[-1] >= 1
    assert untuned[0] >= 1


def test_data_section_tells_of_reviewers_items_and_ratings(tmp_path: Path) -> None:
    inputs = Inputs(n_reviews=40)
    for i, review in enumerate(inputs.reviews):
        review |= {"user_id": f"u{min(i, 28)}", "rating": 4.5 if i < 10 else 1.0, "helpful_votes": 3 if i < 5 else None}
    page = page_of(make(inputs, tmp_path, drawn=False))
    assert re.findall(r"<b>([^<]*)</b><span>(?:reviewers|items reviewed)", page) == ["29", "40"]
    table = page[page.index("<h3>Ratings</h3>") : page.index("<h3>Reviews per reviewer</h3>")]
    cells = [re.findall(r'<td class="n">([^<]*)</td>', row) for row in table.split("<tr>")[2:]]
    assert [row[:4] for row in cells] == [["10", "25.0%", "10", "1.50"], ["30", "75.0%", "19", "0.00"]]
    rows = activity(inputs.snapshots(tmp_path / "again")[3])
    assert [(row["label"], row["reviewers"], row["reviews"]) for row in rows] == [
        ("1", 28, 28),
        ("2–4", 0, 0),
        ("5–9", 0, 0),
        ("10+", 1, 12),
    ]


def test_damaged_files_are_listed_with_their_reasons_and_a_page_without_any_does_not_speak_of_them(
    made: Snapshot, tmp_path: Path
) -> None:
    assert "set aside" not in page_of(made)
    inputs = Inputs()
    inputs.quarantined = [{"source": f"{n:02}.json.gz", "reason": f"cut off at {n}", "rows": n} for n in range(60)]
    page = page_of(make(inputs, tmp_path, drawn=False))
    assert Outline(page).open == []
    assert [n for n in range(60) if f"<th>{n:02}.json.gz" in page] == list(range(50))
    assert [n for n in range(60) if f"cut off at {n}<" in page] == list(range(50))
    assert [text for text in ("60 files were set aside", "The first 50 of 60 files") if text not in page] == []


def test_files_left_out_are_listed_apart_from_damaged_ones(tmp_path: Path) -> None:
    inputs = Inputs()
    inputs.quarantined = [{"source": "notes.md", "reason": "left out: its ending, .md", "rows": 0}]
    page = page_of(make(inputs, tmp_path, drawn=False))
    assert Outline(page).open == []
    assert "<h3>Files left out</h3>" in page
    assert '<th>notes.md</th><td class="words">its ending, .md</td>' in page
    assert "set aside" not in page


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, (None, [])),
        ({"repeated": 1234}, (1234, [])),
        ({"repeated": 9, "repeated_ids": 2, "duplicates": 4, "repeated_pairs": 3}, (9, [2, 4, 3])),
        ({"duplicates": 4, "repeated_pairs": 0}, (4, [4])),
    ],
)
def test_repeats_are_told_by_kind_as_far_as_clean_counted_them(
    tmp_path: Path, counts: dict[str, int], expected: tuple[int | None, list[int]]
) -> None:
    inputs = Inputs()
    inputs.repeats = counts
    total, kinds = repeats(inputs.snapshots(tmp_path)[1])
    assert (total, [n for _, n in kinds]) == expected


def test_repeats_are_listed_and_near_duplicates_are_a_warning_only_where_the_test_slice_has_any(
    made: Snapshot, tmp_path: Path
) -> None:
    assert "Near-duplicate" not in page_of(made)
    inputs = Inputs()
    inputs.near_duplicates = {"groups": 5, "valid": 1, "test": 0}
    page = page_of(make(inputs, tmp_path / "none", drawn=False))
    assert "No review of the test slice nearly repeats" in page
    assert "by heart" not in page
    inputs.near_duplicates["test"] = 3
    inputs.repeats = {"repeated": 1234, "duplicates": 1234}
    page = page_of(make(inputs, tmp_path / "some", drawn=False))
    assert "3 reviews of the test slice (10.00%) nearly repeat" in page
    assert "by heart" in page
    assert re.search(r"<b>1,234</b><span>repeated.*<td>repeated</td><th>say the same as another", page, re.DOTALL)


def counted(*words: tuple[str, int, tuple[int, ...]]) -> list[dict[str, Any]]:
    """Rows of the word counts: a token, in how many reviews, and how often by stars."""
    return [
        {"token": token, "n": 1 + token.count(" "), "count": sum(stars), "documents": documents, "first_seen": 0}
        | {f"rating_{i}": count for i, count in enumerate(stars, 1)}
        for token, documents, stars in words
    ]


def test_words_that_tell_few_stars_from_many_are_on_their_side_the_surest_first(tmp_path: Path) -> None:
    words = counted(
        ("the", 900, (200, 200, 200, 200, 200)),
        ("broke", 60, (50, 20, 5, 1, 1)),
        ("not good", 30, (20, 5, 4, 3, 2)),
        ("love", 80, (1, 2, 9, 40, 60)),
        ("rare", 9, (9, 0, 0, 0, 0)),  # in too few reviews
    )
    counts = commit(SnapshotStore(tmp_path), "count-words", {"": [(words[:2], WORD_COUNTS), (words[2:], WORD_COUNTS)]})
    told = telling_words(counts, 2)
    assert [low["token"] for low, _ in told] == ["broke", "not good"]
    low, high = told[0]
    assert high["token"] == "love"
    assert (low["low"], low["high"]) == (70, 2)
    assert low["z"] < -2 < 2 < high["z"]
    assert (high["low"], high["high"]) == (3, 100)
    tokens = {word["token"] for pair in told for word in pair if word}
    assert "rare" not in tokens
    assert [word["token"] for word in top_words(counts, 5)["top"]] == ["the", "love", "broke", "rare"]


def test_where_no_words_were_counted_none_tell(tmp_path: Path) -> None:
    counts = commit(SnapshotStore(tmp_path), "count-words", {"": [([], WORD_COUNTS)]})
    assert telling_words(counts, 5) == []
    assert top_words(counts, 5) == {"top": [], "total": 0, "distinct": 0}
