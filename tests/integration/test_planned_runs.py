"""`raymill plan` before a real run: the run then does what was planned; `raymill diff` tells the two runs apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.sources.synth import synthesize
from tests.support.pipeline import Finished, Place

pytestmark = pytest.mark.slow


@pytest.fixture
def place(finished: Finished, tmp_path: Path) -> Place:
    """A place after a whole run, with reviews of its own to change."""
    copy = finished.place.copy(tmp_path, without=())
    shutil.copytree(finished.place.root / "data" / "runs", tmp_path / "data" / "runs")
    shutil.copytree(finished.place.reviews, tmp_path / "reviews")
    return Place(copy.root, tmp_path / "reviews")


def planned(place: Place, *words: str) -> dict[str, dict[str, Any]]:
    done = place.call("plan", "--input", str(place.reviews), "--json", "-", *words)
    assert done.returncode == 0, done.stderr
    return {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}


def test_after_a_run_all_would_be_reused(place: Place, finished: Finished) -> None:
    plan = planned(place)
    assert list(plan) == [row["stage"] for row in finished.summary["stages"]]
    for row in finished.summary["stages"]:
        if row["key"]:
            assert (plan[row["stage"]]["tonight"], plan[row["stage"]]["digest"]) == ("reused", row["digest"])


@pytest.mark.parametrize(
    ("words", "new_file", "because", "then"),
    [
        (
            ("--set", "evaluate.short_chars=100", "--until", "evaluate"),
            False,
            {"evaluate": "setting evaluate.short_chars: "},
            ["evaluate"],
        ),
        (
            ("--until", "clean"),
            True,
            {"ingest": "files of the input: 1 new (zz.parquet)"},
            ["ingest", "clean"],
        ),
    ],
    ids=["setting", "new file"],
)
def test_the_run_does_what_was_planned(
    place: Place,
    server: str,
    ray_session: None,
    words: tuple[str, ...],
    new_file: bool,
    because: dict[str, str],
    then: list[str],
) -> None:
    if new_file:
        synthesize(100, 8, place.root / "more")
        shutil.copy(place.root / "more" / "part-00000.parquet", place.reviews / "zz.parquet")
    plan = planned(place, *words)
    done = place.call("run", *words, PREFECT_API_URL=server)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = place.summary["stages"]
    assert list(plan) == [row["stage"] for row in rows]
    assert [row["stage"] for row in rows if not row["reused"]] == then
    for row in rows:
        allowed = ("reused", "may run") if row["reused"] else ("runs", "may run")
        assert plan[row["stage"]]["tonight"] in allowed
    for stage, says in because.items():
        assert plan[stage]["tonight"] == "runs"
        assert plan[stage]["changes"][0]["says"].startswith(says)

    apart = json.loads(place.call("diff", "--json", "-").stdout)
    differing = {pair["stage"]: pair for pair in apart["stages"] if not pair["same"] and pair["b"]}
    assert set(differing) == set(then)
    for stage, says in because.items():
        assert differing[stage]["changes"][0]["says"].startswith(says)
