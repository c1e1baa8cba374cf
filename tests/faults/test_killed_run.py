"""The pipeline, its process killed on the way: it goes on where it was, to the digests of an undisturbed run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.pipeline import Finished, Place, assert_clean

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(1800)]


def stages(finished: Finished) -> list[str]:
    """The stages that make snapshots, in the flow's order."""
    return [row["stage"] for row in finished.summary["stages"] if row["digest"]]


def upstream(finished: Finished, stage: str) -> set[str]:
    """The stages that are done before this one begins. train runs beside tune, and may have ended or not."""
    order = stages(finished)
    return set(order[: order.index(stage)]) - {"train"}


def kill(place: Place, at: str, finished: Finished) -> set[str]:
    """Start a run that is killed at this point; returns the stages that are committed then."""
    status, said = place.start("run", kill_at=at)
    assert status == -signal.SIGKILL, said
    committed = {s.stage for s in place.store}
    assert committed - {"train"} == upstream(finished, at.partition(":")[0])
    return committed


def assert_gone_on_with(place: Place, committed: set[str], finished: Finished) -> None:
    """The last run did nothing twice, and all is as it was without a kill."""
    rows = {row["stage"]: row for row in place.summary["stages"]}
    undisturbed = {row["stage"]: row for row in finished.summary["stages"]}
    compared = set(stages(finished)) - {"report"}
    assert {name for name in compared if rows[name]["reused"]} == committed
    assert rows["tune"]["notes"]["resumed_trials"] == 3
    assert {n: rows[n]["digest"] for n in compared} == {n: undisturbed[n]["digest"] for n in compared}
    assert_clean(place.store, stages(finished))


@pytest.mark.usefixtures("ray_session")
def test_a_run_killed_in_the_search_is_gone_on_with_and_ends_as_an_undisturbed_one(
    finished: Finished, server: str, tmp_path: Path
) -> None:
    place = finished.place.copy(tmp_path, without=set(stages(finished)) - upstream(finished, "tune"))
    committed = kill(place, "tune:after-validate", finished)
    done = place.call("run", PREFECT_API_URL=server)
    assert done.returncode == 0, done.stderr
    assert_gone_on_with(place, committed, finished)


@pytest.mark.nightly
def test_a_run_killed_three_times_ends_as_an_undisturbed_one_and_does_nothing_twice(
    finished: Finished, tmp_path: Path
) -> None:
    place = Place(tmp_path, finished.place.reviews)
    for at in ("clean:before-manifest", "features:after-run", "tune:after-validate"):
        committed = kill(place, at, finished)
    status, said = place.start("run")
    assert status == 0, said
    assert_gone_on_with(place, committed, finished)
