"""The report on models: the target's measures and units, slices, splits, the worst errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.core.snapshots import Snapshot
from tests.support.report_inputs import Inputs, Outline, make, page_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return make(Inputs(), tmp_path_factory.mktemp("made"), drawn=False)


def test_slices_with_a_warning_are_marked_and_named_at_the_head(made: Snapshot) -> None:
    page = page_of(made)
    rows = re.findall(r"<tr><th>(stars 1|stars 5|category Books)(.*?)</th>", page)
    assert [name for name, rest in rows if "HIGH" in rest] == ["stars 1"]
    assert len(rows) == 3
    assert "Much worse than on the whole: stars 1 (2.22 times, 70 reviews)." in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "says", "never"),
    [
        ("rating", ["is off by 0.640 stars", "RMSE (stars)"], ["log loss", "nats"]),
        ("positive", ["log loss of 0.640 nats", "log loss (nats)", "AUC", "4 stars or more"], ["RMSE", "off by 0.640"]),
        ("stars", ["log loss of 0.640 nats", "RMSE (stars)", "Stars taken for others"], ["AUC"]),
        ("helpful", ["is off by 0.640 in the share of votes", "RMSE (share of votes)"], ["log loss", "(stars)"]),
    ],
)
def test_the_page_names_its_target_its_measures_and_their_units(
    tmp_path: Path, target: str, says: list[str], never: list[str]
) -> None:
    inputs = Inputs(target=target)
    snapshot = make(inputs, tmp_path)
    page = page_of(snapshot)
    assert Outline(page).open == []
    assert f"<b>{target}</b>" in page
    assert [text for text in says if text not in page] == []
    page = re.sub(r"base64,[^\"]*", "", page)
    models = page[: page.index('id="data"')] + page[page.index('id="learning"') : page.index('id="lineage"')]
    assert [text for text in never if text in models] == []
    drawn = {entry.name for entry in snapshot.manifest.files if entry.name.startswith("plots/")}
    assert {"plots/calibration.png", "plots/importance.png"} <= drawn
    assert ("plots/probabilities.png" in drawn) is (target == "positive")
    assert ("plots/residuals.png" in drawn) is (target != "positive")


def test_measures_come_with_their_intervals_and_gains_over_the_mean(made: Snapshot) -> None:
    head = page_of(made)
    head = head[head.index('id="headline"') : head.index('id="data"')]
    rows = [re.findall(r"<t[dh][^>]*>([^<]*)<", row) for row in head.split("<tr")[2:]]
    assert rows[0] == ["tuned", *["0.640", "0.610 to 0.660", "+46.7%"] * 2]
    assert [row[0] for row in rows] == ["tuned", "untuned", "linear baseline", "predict-the-mean"]
    assert rows[3][1:4] == ["1.200", "1.170 to 1.220", "–"]


def test_without_a_linear_baseline_the_page_does_not_speak_of_one(made: Snapshot, tmp_path: Path) -> None:
    assert "linear baseline" in page_of(made)
    inputs = Inputs()
    del inputs.measures["linear"]
    inputs.slices = [row | {"loss_linear": None} for row in inputs.slices]
    assert "linear" not in re.sub(
        r"<style>.*</style>|base64,[^\"]*", "", page_of(make(inputs, tmp_path, drawn=False)), flags=re.DOTALL
    )


def test_an_area_that_is_not_defined_is_a_dash(tmp_path: Path) -> None:
    inputs = Inputs(target="positive")
    for of_model in inputs.measures.values():
        of_model["auc"] = {"value": None, "low": None, "high": None}
    page = page_of(make(inputs, tmp_path, drawn=False))
    assert '<td class="n">–</td><td class="n soft"></td>' in page


def test_the_worst_errors_are_listed_to_be_read_the_first_of_them_unfolded(made: Snapshot) -> None:
    page = page_of(made)
    shown, more = page.split("<details>")[0], page.split("<details>")[1]
    assert [i for i in range(25) if f"<b>worst {i}</b>" in shown] == list(range(20))
    assert [i for i in range(25) if f"<b>worst {i}</b>" in more] == list(range(20, 25))
    assert "<summary>5 more</summary>" in more


def test_sizes_and_periods_of_the_splits_and_what_was_left_out_are_told(tmp_path: Path) -> None:
    inputs = Inputs()
    inputs.split |= {"by": "both", "periods": {"test": {"from": "2017-03-01T00:00:01", "until": "2018-01-02T03:04:05"}}}
    inputs.split["left_out"] = {"repeat": {"test": 1234}, "known_user": {"valid": 5, "test": 6}}
    page = page_of(make(inputs, tmp_path, drawn=False))
    table = page[page.index('id="splits"') :]
    rows = [re.findall(r"<t[dh][^>]*>([^<]*)<", row) for row in table.split("<tr")[1:8]]
    assert rows[1] == ["train", "240", "80.0%", "–", "2016-08-01 00:00"]
    assert rows[3] == ["test", "30", "10.0%", "2017-03-01 00:00", "2018-01-02 03:04"]
    assert rows[6] == ["its text is that of a review in an earlier slice", "0", "0", "1,234"]
    assert "who is in an earlier slice is in no later one" in table


def test_slices_made_of_users_have_no_borders_in_time(tmp_path: Path) -> None:
    inputs = Inputs()
    inputs.split |= {"by": "user", "borders": None}
    page = page_of(make(inputs, tmp_path, drawn=False))
    assert "no user is in two slices" in page
    assert "A jump or a gap at a border" not in page
