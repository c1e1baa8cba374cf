"""The files of nights: which wait for stars, and what two runs that meet make of one night."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from flows.run import watching
from flows.run.record import RunRecord
from flows.run.retraining import Cause
from flows.run.watched_nights import SHOWN, Night, change, keep, name_of, open_nights, stored, write
from flows.run.watching import _predictions
from tasks.core.storage.store import SnapshotStore
from tasks.settings import load_settings
from tasks.stages.watch.findings import learned
from tests.support import toy_snapshots

(SEEN,) = learned(2, "2026-01-01")
OPEN = {"unseen_from": "2026-01-01T00:00:00+00:00", "realised_rows": 0}


def night(name: str, dataset: str = "one", **found: Any) -> Night:
    return Night(name, run_id=name, dataset=dataset, target="rating", rows=9, found={**OPEN, **found})


def test_nights_of_other_data_sets_take_no_place(tmp_path: Path) -> None:
    for i in range(SHOWN + 2):
        write(tmp_path, night(f"b{i:03}", "other"))
        write(tmp_path, night(f"a{i:03}"))
    assert [one.night for one in open_nights(tmp_path, ("one", "rating"))] == [f"a{i:03}" for i in range(31, 1, -1)]
    assert len(open_nights(tmp_path)) == 2 * SHOWN
    write(tmp_path, night("a031", realised_rows=5, learned_rows=4))
    assert "a031" not in {one.night for one in open_nights(tmp_path)}


def test_two_runs_that_change_one_night_at_once_both_count(tmp_path: Path) -> None:
    first, barrier = keep(tmp_path, night("n")), Barrier(8)

    def add(word: str) -> None:
        barrier.wait()
        change(tmp_path, first, lambda now: replace(now, told=(*now.told, word)))

    threads = [Thread(target=add, args=[str(i)]) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = stored(tmp_path, "n")
    assert now is not None
    assert sorted(now.told) == [str(i) for i in range(8)]
    again = keep(tmp_path, night("n"))
    assert sorted(again.told) == sorted(now.told)


REALISED = {"expectation": "realised loss", "value": "1.3", "limit": "1.1"}
OTHER = {"expectation": "reviews of unknown kinds", "value": "9%", "limit": "5%"}


def test_scoring_again_keeps_what_became_of_the_night_and_its_own_warning_once(tmp_path: Path) -> None:
    keep(tmp_path, night("n", realised_rows=900, realised_loss=1.0, learned_rows=2, told=["a line", SEEN], warnings=[]))
    again = {"realised_rows": 300, "realised_loss": 1.3, "warnings": [OTHER, REALISED], "told": ["a line"]}
    found = keep(tmp_path, night("n", **again)).found
    assert (found["realised_rows"], found["realised_loss"], found["learned_rows"]) == (900, 1.0, 2)
    assert (found["warnings"], found["told"]) == ([OTHER], ["a line", SEEN])
    keep(tmp_path, night("m", realised_rows=900, warnings=[REALISED]))
    assert keep(tmp_path, night("m", **again)).found["warnings"] == [OTHER, REALISED]
    more = keep(tmp_path, night("n", realised_rows=950, warnings=[REALISED], told=[], learned_rows=3)).found
    assert (more["realised_rows"], more["warnings"], more["learned_rows"]) == (950, [REALISED], 3)


def test_a_night_whose_predictions_are_damaged_or_gone_says_so(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snapshots")
    whole = store.commit(toy_snapshots.fill(store.open_attempt("score", "k")), **toy_snapshots.ABOUT)
    assert _predictions(store, replace(night("n"), predictions="k")) == whole.files()
    assert _predictions(store, replace(night("n"), predictions="other")) == "removed"
    whole.files()[0].unlink()
    assert "gone or changed" in str(_predictions(store, replace(night("n"), predictions="k")))


@pytest.mark.parametrize(("champion", "starts"), [("3", True), ("4", False), (None, False)])
def test_a_loss_of_the_champion_alone_starts_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, champion: str | None, starts: bool
) -> None:
    causes: list[Cause] = []
    monkeypatch.setattr(watching, "_champion", lambda _settings, _model: champion)
    monkeypatch.setattr(watching.retraining, "start", lambda _settings, _root, cause, _say: causes.append(cause))
    warning = {"expectation": "expected loss", "value": "1.3", "limit": "1.1"}
    warned = replace(night("n", warnings=[warning]), model="m", version="3")
    said: list[str] = []
    settings = load_settings(overrides=["retrain.when=[expected]"])
    watching.act_on(settings, tmp_path, warned, said.append)
    assert [(cause.kind, cause.model, cause.dataset) for cause in causes] == [("expected", "m", "one")] * starts
    assert ("the champion is version" in " ".join(said)) != starts


def test_what_fails_after_the_work_is_done_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said: list[str] = []
    with watching.not_failing(said.append, "the night was not kept"):
        keep(tmp_path / "file", night("n"))
    assert len(said) == 1
    assert said[0].startswith("the night was not kept: ")


def test_an_empty_feed_has_a_night_each_day(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    made = {}
    for rows in (0, 3):
        out = store.open_attempt("score", f"k{rows}")
        if rows:
            toy_snapshots.fill(out)
        out.fact(model="m", version="1", rows=rows)
        made[rows] = store.commit(out, **toy_snapshots.ABOUT)
    names = {rows: [name_on(day, snapshot) for day in (1, 1, 2)] for rows, snapshot in made.items()}
    assert names[0][0] == names[0][1] != names[0][2]
    assert len(set(names[3])) == 1


def name_on(day: int, scored: Any) -> str:
    return name_of(scored, RunRecord(run_id="r", started=f"2026-01-0{day}T06:30:00+00:00"))
